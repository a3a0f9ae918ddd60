"""The module of the engine: runs of every kind, their logs, events and streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from pilothouse.access.model import Principal
from pilothouse.access.quotas import Quotas
from pilothouse.blobs.objects import LocalObjects
from pilothouse.blobs.s3 import Bucket, S3Objects
from pilothouse.blobs.service import Blobs
from pilothouse.edge.module import Core, Gauge, Module, Periodic, PublicEvent
from pilothouse.engine import grpc_work, http, http_checkouts, store
from pilothouse.engine.artifacts import http as artifacts_http
from pilothouse.engine.artifacts import http_agents as artifacts_agents
from pilothouse.engine.artifacts.retention import ArtifactRetention
from pilothouse.engine.artifacts.service import Artifacts, ArtifactSettings
from pilothouse.engine.artifacts.signing import UrlSigner
from pilothouse.engine.artifacts.transfer import Transfer
from pilothouse.engine.artifacts.views import listed_artifact
from pilothouse.engine.checkouts import needed_by_agent
from pilothouse.engine.concurrency import Groups
from pilothouse.engine.control import Control
from pilothouse.engine.dispatch import Dispatcher
from pilothouse.engine.fetching import Fetcher
from pilothouse.engine.gates import http as gates_http
from pilothouse.engine.gates.child import ChildRun
from pilothouse.engine.gates.hold import Hold
from pilothouse.engine.gates.model import CHILD_RUN, HOLD, WINDOW
from pilothouse.engine.gates.service import Gates
from pilothouse.engine.gates.window import TimeWindow
from pilothouse.engine.grpc import gateway_rpc
from pilothouse.engine.intake.ingest import Ingest
from pilothouse.engine.intake.quotas import IntakeQuotas
from pilothouse.engine.intake.reading import JOBS, Reading
from pilothouse.engine.intake.step_events import StepEvents
from pilothouse.engine.jobs import names_job
from pilothouse.engine.list_store import count_unfinished
from pilothouse.engine.reports import http as reports_http
from pilothouse.engine.retention import Retention
from pilothouse.engine.runs import RunCache
from pilothouse.engine.service import Engine
from pilothouse.engine.sockets import arcentra, stella
from pilothouse.engine.sockets.stella import StreamSettings
from pilothouse.engine.starts import Starts
from pilothouse.engine.step_artifacts import StepArtifact, StepArtifacts
from pilothouse.engine.step_runs import StepRuns
from pilothouse.engine.tasks import BACKGROUND, STEP, StepTasks
from pilothouse.engine.timekeeping import Timekeeper
from pilothouse.engine.transitions import Transitions
from pilothouse.fleet import grpc as fleet_grpc
from pilothouse.fleet import stream_channel
from pilothouse.fleet.model import POLL
from pilothouse.fleet.service import Fleet
from pilothouse.identity.service import Identity
from pilothouse.secrets.service import Secrets
from pilothouse.wire import entries

TICK, PRUNE_EVERY, PRUNE_AGENTS_EVERY, SWEEP_EVERY = 1.0, 60.0, 600.0, 3600.0

EVENTS = {
    entries.RUN_CREATED: PublicEvent("pipeline", "created"),
    entries.RUN_STARTED: PublicEvent("pipeline", "started"),
    entries.RUN_PAUSED: PublicEvent("pipeline", "paused"),
    entries.RUN_RESUMED: PublicEvent("pipeline", "resumed"),
    entries.RUN_REOPENED: PublicEvent("pipeline", "resumed"),
    entries.RUN_COMPLETED: PublicEvent("pipeline"),
    entries.JOB_STARTED: PublicEvent("job", "started"),
    entries.JOB_COMPLETED: PublicEvent("job"),
    entries.STEP_QUEUED: PublicEvent("step", "queued"),
    entries.STEP_STARTED: PublicEvent("step", "started"),
    entries.ATTEMPT_COMPLETED: PublicEvent("step"),
    entries.STEP_COMPLETED: PublicEvent("step"),
}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``cleanup_grace``: seconds for cleanup after a cancel; ``retention``: days that logs of ended runs are kept.

    ``objects``: the directory of artifacts, and of what is being received; ``bucket``: where artifacts are instead.
    """

    cleanup_grace: float
    retention: float
    streams: StreamSettings
    artifacts: ArtifactSettings
    objects: Path
    bucket: Bucket | None = None


def module(core: Core, settings: EngineSettings) -> Module:
    """Provides :class:`Engine`, :class:`Starts`, :class:`Gates`, :class:`ChildRun`, :class:`Ingest`,
    :class:`IntakeQuotas`, :class:`Dispatcher`, :class:`Timekeeper`, :class:`Retention`, :class:`StepRuns`,
    :class:`StepArtifacts` and :class:`Control`.
    """
    storage, journal = core.storage, core.journal
    identity, fleet, secrets = core.service(Identity), core.service(Fleet), core.service(Secrets)
    transitions = Transitions(journal, fleet, settings.cleanup_grace)
    runs = RunCache(storage)
    tasks = StepTasks(runs, transitions, secrets)
    for kind in (STEP, BACKGROUND):
        fleet.handle(kind, tasks)
        for channel in (fleet_grpc.CHANNEL, stream_channel.CHANNEL, POLL):
            fleet.encode(channel, kind, grpc_work.step_run)
    gates, children = Gates(runs, transitions, identity), ChildRun(runs, transitions, identity)
    gates.handle(HOLD, Hold())
    gates.handle(WINDOW, TimeWindow())
    gates.handle(CHILD_RUN, children)
    transitions.steps.handle_gates(gates)
    groups = Groups(runs, transitions)
    transitions.handle_groups(groups)
    starts = Starts(runs, transitions, identity, groups, core.service(Quotas))
    engine = Engine(runs, transitions, identity, secrets, starts)
    dispatcher = Dispatcher(fleet, runs, tasks, transitions)
    fleet.source = Fetcher(fleet, dispatcher)
    control = fleet.control = Control(runs, transitions, fleet, identity)
    timekeeper = Timekeeper(storage, engine, dispatcher)
    artifacts = Artifacts(runs, transitions, identity, core.service(Quotas), settings.artifacts)
    reading = Reading(core.pool, tasks.maskers)
    intake = IntakeQuotas(storage, journal, core.service(Quotas))
    ingest = Ingest(
        storage, journal, tasks, StepEvents(journal, runs, transitions, artifacts), reading, intake
    )
    fleet.screen_reports(ingest.screened)
    identity.projects.keep_while(
        lambda conn, project: "it has runs that have not ended" if count_unfinished(conn, project, 1) else ""
    )
    blobs = core.service(Blobs)
    blobs.agents_may_read(needed_by_agent)
    retention = Retention(storage, journal, blobs, intake, settings.retention)
    objects = S3Objects(settings.bucket) if settings.bucket else LocalObjects(settings.objects)
    transfer = Transfer(storage, artifacts, objects, settings.objects / "incoming")
    artifact_retention = ArtifactRetention(storage, objects)
    signer, listing = UrlSigner(core.keyring, core.clock), StepArtifacts()
    listing.listed_by(partial(listed_artifacts, signer))
    core.provide(
        artifacts,
        transfer,
        artifact_retention,
        signer,
        settings.streams,
        runs,
        transitions,
        tasks,
        starts,
        engine,
        gates,
        children,
        dispatcher,
        timekeeper,
        ingest,
        intake,
        retention,
        StepRuns(runs, transitions, identity, engine, starts),
        listing,
        control,
    )
    changed, unsettled = asyncio.Event(), asyncio.Event()
    fleet.on_change(changed.set)
    transitions.on_unsettled(unsettled.set)

    def metrics(conn: Connection) -> Iterator[Gauge]:
        counts = store.status_counts(conn)
        shown = {status: counts.get(status, 0) for status in ("queued", "running")}
        yield Gauge("step_attempts", "Step attempts by status", shown, "status")

    return Module(
        "engine",
        channels=(*stella.CHANNELS, *arcentra.CHANNELS),
        routers=(
            stella.router,
            arcentra.router,
            http.router,
            http_checkouts.router,
            gates_http.router,
            artifacts_http.router,
            artifacts_agents.router,
            reports_http.router,
        ),
        rpc=(gateway_rpc(ingest, identity),),
        body_limits={"/api/v1/artifacts/": settings.artifacts.part_size + 1},
        started=partial(asyncio.to_thread, transfer.clean),
        jobs=(*JOBS, names_job),
        streams={"run": "RUN_NOT_FOUND"},
        events=EVENTS,
        background=(
            Periodic("engine.dispatch", lambda: storage.write(dispatcher.dispatch), wake=changed),
            Periodic("engine.tick", timekeeper.tick, every=TICK, wake=unsettled),
            Periodic(
                "engine.prune", lambda: storage.write(retention.prune), every=PRUNE_EVERY, exclusive=True
            ),
            Periodic("engine.artifacts", artifact_retention.prune, every=PRUNE_EVERY, exclusive=True),
            Periodic("engine.prune_agents", intake.prune_agents, every=PRUNE_AGENTS_EVERY, exclusive=True),
            Periodic(
                "engine.sweep", lambda: retention.sweep(core.clock()), every=SWEEP_EVERY, exclusive=True
            ),
        ),
        metrics=metrics,
    )


def listed_artifacts(
    signer: UrlSigner, conn: Connection, by: Principal, step_run_id: str
) -> Iterator[StepArtifact]:
    """The artifacts of a step run, with addresses that the caller may use without a token for 15 minutes."""
    for artifact in artifacts_http.of_step_run(conn, by, step_run_id):
        yield listed_artifact(artifact, signer.path("download", artifact.id, by.key))
