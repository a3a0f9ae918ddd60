"""The pipelines' part of the product: definitions, specs and triggers."""

from __future__ import annotations

from pilothouse.access.quotas import Quotas
from pilothouse.edge.answers import Answers
from pilothouse.edge.calls import Calls
from pilothouse.edge.module import Core, Module
from pilothouse.engine.gates.child import ChildRun
from pilothouse.engine.service import Engine
from pilothouse.engine.starts import Starts
from pilothouse.engine.step_artifacts import StepArtifacts
from pilothouse.engine.step_runs import StepRuns
from pilothouse.identity.service import Identity
from pilothouse.pipelines.compiler import JOBS, SpecCompiler
from pilothouse.pipelines.grpc import pipeline_rpc
from pilothouse.pipelines.grpc_steps import StepRunService, step_run_rpc
from pilothouse.pipelines.http import ROUTERS
from pilothouse.pipelines.http.large_bodies import BODY_LIMIT
from pilothouse.pipelines.service import Pipelines, startable
from pilothouse.pipelines.specs_of_messages import JOBS as MESSAGE_JOBS
from pilothouse.pipelines.specs_of_messages import SpecMessages
from pilothouse.pipelines.step_source import StepCompiler


def module(core: Core) -> Module:
    """Provides :class:`Pipelines` and :class:`SpecCompiler`."""
    engine, identity = core.service(Engine), core.service(Identity)
    pipelines = Pipelines(engine, identity, core.service(Quotas).pipelines)
    compiler, specs = SpecCompiler(core.pool), SpecMessages(core.pool)
    core.provide(pipelines, compiler, specs)
    calls = Calls(identity, core.storage, core.service(Answers))
    steps = StepRunService(
        calls, core.service(StepRuns), core.service(StepArtifacts), StepCompiler(compiler, specs)
    )
    core.service(Starts).guard("pipeline", startable)
    core.service(ChildRun).start_by("pipeline", pipelines.start_child)
    return Module(
        "pipelines",
        routers=ROUTERS,
        envelope_prefixes=("/api/v1/pipelines", "/api/v1/uploads"),
        rpc=(pipeline_rpc(calls, identity, pipelines, engine, compiler, specs), step_run_rpc(steps)),
        jobs=(*JOBS, *MESSAGE_JOBS),
        body_limits={"/api/v1/pipelines": BODY_LIMIT},
    )
