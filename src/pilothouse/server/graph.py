"""The composition root: builds every service once and fills the registries. No globals anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pilothouse.blobs.service import Blobs
from pilothouse.edge.answers import Answers
from pilothouse.edge.limits import RateLimits, RateLimitSettings
from pilothouse.engine.checkouts import needed_by_agent
from pilothouse.engine.dispatch import Dispatcher
from pilothouse.engine.events import StepEvents
from pilothouse.engine.ingest import Ingest
from pilothouse.engine.retention import Retention
from pilothouse.engine.runs import Runs
from pilothouse.engine.service import Engine
from pilothouse.engine.tasks import STEP, StepTasks
from pilothouse.engine.transitions import Transitions
from pilothouse.fleet.model import BACKGROUND
from pilothouse.fleet.service import Fleet, FleetSettings
from pilothouse.identity.service import Identity, IdentitySettings
from pilothouse.journal import Journal
from pilothouse.pipelines.service import Pipelines
from pilothouse.secrets.service import Secrets
from pilothouse.server.background import Background
from pilothouse.server.settings import Settings, SettingsInvalid
from pilothouse.storage import Database, Storage, Writer
from pilothouse.storage.migrations import upgrade
from pilothouse.storage.secretbox import SecretBox, derive_key, load_or_create_key


@dataclass(frozen=True, slots=True)
class Graph:
    """Everything one server is made of."""

    settings: Settings
    database: Database
    writer: Writer
    storage: Storage
    answers: Answers
    journal: Journal
    identity: Identity
    limits: RateLimits
    fleet: Fleet
    engine: Engine
    ingest: Ingest
    secrets: Secrets
    blobs: Blobs
    pipelines: Pipelines
    background: Background


def build(settings: Settings) -> Graph:
    """Open (and upgrade) the database and put the services together. Call from the event loop's thread."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = settings.database_url
    database = Database(url.get_secret_value()) if url else Database.at(_private(settings.data_dir))
    upgrade(database)
    writer = Writer(database)
    journal = Journal(database)
    key = load_or_create_key(settings.data_dir / "server.key")
    storage = Storage(database, writer)
    identity = Identity(storage, journal, IdentitySettings(jwt_key=key, token_ttl=settings.token_ttl))
    fleet = Fleet(
        storage,
        journal,
        identity,
        FleetSettings(settings.agent_heartbeat, settings.agent_offline_after, settings.lease),
    )
    secrets = Secrets(SecretBox(derive_key(key, "secrets")), identity)
    transitions = Transitions(journal, fleet, settings.cleanup_grace)
    runs = Runs(storage)
    tasks = StepTasks(runs, transitions, secrets)
    for kind in (STEP, BACKGROUND):
        fleet.handle(kind, tasks)
    engine = Engine(runs, transitions, identity, secrets)
    dispatcher = Dispatcher(fleet, runs, tasks, transitions)
    events = StepEvents(journal, runs, transitions)
    blobs = Blobs(settings.data_dir / "blobs", settings.max_blob, identity)
    blobs.agents_may_read(needed_by_agent)
    retention = Retention(storage, journal, blobs, settings.retention)
    return Graph(
        settings=settings,
        database=database,
        writer=writer,
        storage=storage,
        answers=Answers(storage, key),
        journal=journal,
        identity=identity,
        limits=_limits(settings),
        fleet=fleet,
        engine=engine,
        ingest=Ingest(storage, journal, tasks, events),
        secrets=secrets,
        blobs=blobs,
        pipelines=Pipelines(engine, identity),
        background=Background(writer, engine, fleet, dispatcher, retention),
    )


def _private(data_dir: Path) -> Path:
    """The database's file, which holds password hashes: for nobody else, whatever its directory allows."""
    path = data_dir / "pilothouse.db"
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def _limits(settings: Settings) -> RateLimits:
    given = (settings.ratelimit_login, settings.ratelimit_sessions, settings.ratelimit_default)
    try:
        return RateLimits(RateLimitSettings(*given))
    except ValueError as error:
        raise SettingsInvalid(f"a rate limit is <n>/<second|minute|hour|day> or off: {error}") from error
