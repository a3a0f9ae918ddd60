"""The pipelines' part of the product: definitions, specs and triggers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.access.quotas import Quotas
from pilothouse.blobs.service import Blobs
from pilothouse.edge.answers import Answers
from pilothouse.edge.calls import Calls
from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.engine.control import Control
from pilothouse.engine.gates.child import ChildRun
from pilothouse.engine.service import Engine
from pilothouse.engine.starts import Starts
from pilothouse.engine.step_artifacts import StepArtifacts
from pilothouse.engine.step_runs import StepRuns
from pilothouse.identity.service import Identity
from pilothouse.pipelines.compiler import JOBS, SpecCompiler
from pilothouse.pipelines.git.definitions import GitDefinitions
from pilothouse.pipelines.git.repositories import GitSettings, Repositories
from pilothouse.pipelines.grpc import pipeline_rpc
from pilothouse.pipelines.grpc_steps import StepRunService, step_run_rpc
from pilothouse.pipelines.http import ROUTERS
from pilothouse.pipelines.http.large_bodies import BODY_LIMIT
from pilothouse.pipelines.notifications import http as notifications_http
from pilothouse.pipelines.notifications.module import NotificationSettings, notifications
from pilothouse.pipelines.service import Pipelines, pipeline_project, startable
from pilothouse.pipelines.specs import Specs
from pilothouse.pipelines.specs_of_messages import JOBS as MESSAGE_JOBS
from pilothouse.pipelines.specs_of_messages import SpecMessages
from pilothouse.pipelines.step_source import StepCompiler
from pilothouse.pipelines.triggers import http as triggers_http
from pilothouse.pipelines.triggers.rounds import EVERY, LEASE, TriggerRounds
from pilothouse.secrets.service import Secrets


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """``repositories``: where copies of git repositories are; ``schemes``: of addresses beside https and ssh;
    ``max_checkout``: bytes of a checkout."""

    repositories: Path
    git: GitSettings
    schemes: tuple[str, ...]
    max_checkout: int
    notifications: NotificationSettings = field(default_factory=NotificationSettings)


def module(core: Core, settings: PipelineSettings) -> Module:
    """Provides :class:`Pipelines`, ``Triggers``, :class:`TriggerRounds`, :class:`SpecCompiler`,
    :class:`GitDefinitions`, :class:`Specs`, and what :func:`notifications` provides."""
    engine, identity = core.service(Engine), core.service(Identity)
    pipelines = Pipelines(engine, identity, core.journal, core.service(Quotas))
    identity.projects.on_delete(pipelines.clear)
    compiler, messages = SpecCompiler(core.pool), SpecMessages(core.pool)
    git = GitDefinitions(
        Repositories(settings.repositories, settings.git), compiler, core.storage, core.service(Secrets),
        core.service(Blobs), pipelines, settings.schemes, settings.max_checkout,
    )  # fmt: skip
    specs = Specs(core.storage, compiler, pipelines, git)
    rounds = TriggerRounds(core.storage, pipelines.triggers, core.clock, specs.for_trigger)
    core.provide(pipelines, pipelines.triggers, rounds, compiler, git, specs)
    notifying = notifications(core, settings.notifications)
    calls = Calls(identity, core.storage, core.service(Answers))
    steps = StepRunService(
        calls,
        core.service(StepRuns),
        core.service(Control),
        core.service(StepArtifacts),
        StepCompiler(compiler, messages),
    )
    core.service(Secrets).pipelines_from(pipeline_project)
    core.service(Starts).guard("pipeline", startable)
    core.service(ChildRun).start_by("pipeline", pipelines.start_child)
    return Module(
        "pipelines",
        routers=(*ROUTERS, triggers_http.router, notifications_http.router),
        streams={"trigger": "TRIGGER_NOT_FOUND", "notification": "NOTIFICATION_NOT_FOUND"},
        background=(
            Periodic("pipelines.triggers", rounds.round, every=EVERY, exclusive=True, lease=LEASE),
            *notifying.background,
        ),
        envelope_prefixes=("/api/v1/pipelines",),
        rpc=(pipeline_rpc(calls, identity, pipelines, engine, specs, messages), step_run_rpc(steps)),
        jobs=(*JOBS, *MESSAGE_JOBS),
        body_limits={"/api/v1/pipelines": BODY_LIMIT},
        stopping=notifying.stop,
    )
