"""The pipelines' part of the product: definitions, specs and triggers."""

from __future__ import annotations

from pilothouse.access.quotas import Quotas
from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.engine.gates.child import ChildRun
from pilothouse.engine.service import Engine
from pilothouse.engine.starts import Starts
from pilothouse.identity.service import Identity
from pilothouse.pipelines.compiler import JOBS, SpecCompiler
from pilothouse.pipelines.http import ROUTERS
from pilothouse.pipelines.http.large_bodies import BODY_LIMIT
from pilothouse.pipelines.service import Pipelines, startable
from pilothouse.pipelines.triggers import http as triggers_http
from pilothouse.pipelines.triggers.rounds import EVERY, LEASE, TriggerRounds
from pilothouse.pipelines.triggers.service import Triggers  # noqa: F401  named above


def module(core: Core) -> Module:
    """Provides :class:`Pipelines`, :class:`Triggers`, :class:`TriggerRounds` and :class:`SpecCompiler`."""
    engine, identity = core.service(Engine), core.service(Identity)
    pipelines = Pipelines(engine, identity, core.journal, core.service(Quotas).pipelines)
    rounds = TriggerRounds(core.storage, pipelines.triggers, core.clock)
    core.provide(pipelines, pipelines.triggers, rounds, SpecCompiler(core.pool))
    core.service(Starts).guard("pipeline", startable)
    core.service(ChildRun).start_by("pipeline", pipelines.start_child)
    return Module(
        "pipelines",
        routers=(*ROUTERS, triggers_http.router),
        streams={"trigger": "TRIGGER_NOT_FOUND"},
        background=(Periodic("pipelines.triggers", rounds.round, every=EVERY, exclusive=True, lease=LEASE),),
        envelope_prefixes=("/api/v1/pipelines", "/api/v1/uploads"),
        jobs=JOBS,
        body_limits={"/api/v1/pipelines": BODY_LIMIT},
    )
