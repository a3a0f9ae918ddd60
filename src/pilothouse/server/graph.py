"""The composition root: builds every module once. There are no other global objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pilothouse.blobs.module
import pilothouse.engine.module
import pilothouse.fleet.module
import pilothouse.identity.module
import pilothouse.pipelines.module
import pilothouse.secrets.module
import pilothouse.server.live.module
import pilothouse.server.module
from pilothouse.access.quotas import Quotas
from pilothouse.blobs.module import BlobSettings
from pilothouse.blobs.s3 import BadBucket, Bucket
from pilothouse.edge.answers import WINDOW_MS, Answers
from pilothouse.edge.limits import RateLimits
from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.edge.network import TrustedProxies
from pilothouse.engine.artifacts.service import ArtifactSettings
from pilothouse.engine.module import EngineSettings
from pilothouse.engine.sockets.stella import StreamSettings
from pilothouse.fleet.service import FleetSettings
from pilothouse.identity.service import IdentitySettings
from pilothouse.journal import Journal
from pilothouse.pipelines.git.repositories import GitSettings
from pilothouse.pipelines.module import PipelineSettings
from pilothouse.pipelines.notifications.deliver import MailServer
from pilothouse.pipelines.notifications.model import Retries
from pilothouse.pipelines.notifications.module import NotificationSettings
from pilothouse.server.background import Background
from pilothouse.server.connections import Connections, default_per_address, default_total
from pilothouse.server.epoch import KEEP_EVERY, HeadKeeper, check_epoch
from pilothouse.server.live.model import rate_limits
from pilothouse.server.settings import Settings, SettingsInvalid
from pilothouse.storage import Database, Storage, Writer, now_ms
from pilothouse.storage.keyring import Keyring
from pilothouse.storage.schema import ensure_newest
from pilothouse.workers.pool import Pool

T = TypeVar("T")

KEY_FILE = "server.key"
KEY_MARGIN = 300
"""Seconds that a former key stays longer than anything that was signed with it: clocks of servers differ."""

ANSWERS_KEPT = WINDOW_MS // 1000
"""Seconds that answers to idempotent requests are repeated, which are encrypted with the key of their time."""


def modules(core: Core, settings: Settings) -> list[Module]:
    """Every package's part of the product, in the order of the layers."""
    identity = IdentitySettings(
        keyring=core.keyring, token_ttl=settings.token_ttl, quotas=core.service(Quotas)
    )
    fleet = FleetSettings(settings.agent_heartbeat, settings.agent_offline_after, settings.lease)
    streams = StreamSettings(settings.sse_keepalive, settings.ws_heartbeat, settings.ws_pong_wait)
    bucket = _bucket(settings)
    blobs = BlobSettings(
        settings.data_dir / "blobs",
        settings.max_blob,
        settings.data_dir / "objects",
        settings.max_upload,
        bucket,
    )
    engine = EngineSettings(
        settings.cleanup_grace,
        settings.retention,
        streams,
        ArtifactSettings(settings.max_artifact, settings.artifact_retention),
        settings.data_dir / "objects",
        bucket,
    )
    return [
        pilothouse.identity.module.module(core, identity),
        pilothouse.secrets.module.module(core, max(settings.token_ttl, ANSWERS_KEPT) + KEY_MARGIN),
        pilothouse.blobs.module.module(core, blobs),
        pilothouse.fleet.module.module(core, fleet, settings.data_dir),
        pilothouse.engine.module.module(core, engine),
        pilothouse.pipelines.module.module(core, _pipelines(settings)),
    ]


@dataclass(frozen=True, slots=True)
class Graph:
    """Everything one server is made of."""

    settings: Settings
    database: Database
    writer: Writer
    core: Core
    modules: tuple[Module, ...]
    answers: Answers
    limits: RateLimits
    background: Background
    head: HeadKeeper

    @property
    def storage(self) -> Storage:
        """The database handle."""
        return self.core.storage

    @property
    def journal(self) -> Journal:
        """The journal."""
        return self.core.journal

    def service(self, kind: type[T]) -> T:
        """The service of this type. Raises :class:`KeyError` if no module provides it."""
        return self.core.service(kind)


def build(settings: Settings, *, alone: bool = False) -> Graph:
    """Open (and upgrade) the database and build every module. Call from the event loop's thread.

    ``alone``: this process has no other threads, and may fork.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = settings.database_url
    database = Database(url.get_secret_value()) if url else Database.at(_private(settings.data_dir))
    ensure_newest(database, in_child=alone)
    check_epoch(database, settings.data_dir)
    return compose(settings, database, Keyring.load(settings.data_dir / KEY_FILE))


def compose(
    settings: Settings, database: Database, keyring: Keyring, clock: Callable[[], int] = now_ms
) -> Graph:
    """A server on a database that is up to date. ``clock`` gives ms since 1970."""
    writer = Writer(database, clock)
    storage, journal = Storage(database, writer), Journal(database)
    core = Core(storage, journal, clock, keyring, str(uuid4()), Pool(workers=settings.workers))
    limits = _limits(settings)
    answers = Answers(storage, keyring)
    core.provide(limits, settings, settings.quotas(), _connections(settings), answers)
    built = modules(core, settings)
    built.append(pilothouse.server.live.module.module(core, settings))
    built.append(pilothouse.server.module.module(core, built, settings.sse_keepalive))
    head = HeadKeeper(database, settings.data_dir, lambda: journal.feed.window.head)
    core.pool.add(job for module in built for job in module.jobs)
    return Graph(
        settings=settings,
        database=database,
        writer=writer,
        core=core,
        modules=tuple(built),
        answers=answers,
        limits=limits,
        background=Background(
            storage,
            core.server_id,
            [
                Periodic("journal.head", head.keep, every=KEEP_EVERY),
                *(work for module in built for work in module.background),
            ],
        ),
        head=head,
    )


def _bucket(settings: Settings) -> Bucket | None:
    if not settings.objects:
        return None
    secret = settings.s3_secret_key
    bucket = Bucket(
        settings.objects,
        settings.s3_endpoint or "",
        settings.s3_region or "",
        settings.s3_access_key or "",
        secret.get_secret_value() if secret else "",
    )
    try:
        bucket.parts  # noqa: B018
    except BadBucket as error:
        raise SettingsInvalid(str(error)) from error
    return bucket


def _private(data_dir: Path) -> Path:
    """The path of the database's file, made readable for its owner only, since it holds password hashes."""
    path = data_dir / "pilothouse.db"
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path


def _pipelines(settings: Settings) -> PipelineSettings:
    git = GitSettings(
        fetched=8 * settings.max_blob,
        kept=settings.git_cache,
        known_hosts=settings.git_known_hosts or settings.data_dir / "known_hosts",
        ca=settings.git_ca,
    )
    return PipelineSettings(
        settings.data_dir / "repositories",
        git,
        tuple(settings.git_allow),
        settings.max_blob,
        NotificationSettings(
            settings.notify,
            _mail(settings),
            tuple(settings.notify_allow),
            tuple(scheme.lower() for scheme in settings.notify_schemes),
            Retries(settings.notify_retry, settings.notify_attempts),
        ),
    )


def _mail(settings: Settings) -> MailServer | None:
    if not settings.smtp_host:
        return None
    if not settings.smtp_from or "@" not in settings.smtp_from or not settings.smtp_from.isprintable():
        raise SettingsInvalid("smtp_from: an address such as pilot@example.org is needed to send e-mail")
    password = settings.smtp_password
    try:
        ca = settings.smtp_ca.read_text() if settings.smtp_ca else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"smtp_ca: {settings.smtp_ca} cannot be read") from error
    return MailServer(
        settings.smtp_host,
        settings.smtp_port,
        settings.smtp_tls,
        settings.smtp_from,
        settings.smtp_user or "",
        password.get_secret_value() if password else "",
        ca,
    )


def _connections(settings: Settings) -> Connections:
    total = settings.max_connections or default_total()
    per_address = settings.max_connections_per_address or default_per_address(total)
    try:
        return Connections(total, per_address, TrustedProxies(settings.trusted_proxies))
    except ValueError as error:
        raise SettingsInvalid(str(error)) from error


def _limits(settings: Settings) -> RateLimits:
    try:
        return RateLimits(rate_limits(settings))
    except ValueError as error:
        raise SettingsInvalid(f"a rate limit is <n>/<second|minute|hour|day> or off: {error}") from error
