"""Single steps in messages of steprun.v1, checked and compiled as steps of a spec, in the worker pool."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import orjson

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.engine.graph import Step
from pilothouse.engine.graph_json import decoded
from pilothouse.engine.model import Job, Run
from pilothouse.pipelines.compiler import SpecCompiler
from pilothouse.pipelines.specs_of_messages import SpecMessages
from pilothouse.wire.pipeline.v1 import pipeline_spec_pb2 as spec_pb
from pilothouse.wire.steprun.v1 import steprun_pb2 as pb

_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
STEP = "step"
"""The name of the step that stands for one whose environment changes."""


class StepCompiler:
    """Both methods raise SpecError with all problems, and as the methods of :class:`SpecCompiler`."""

    def __init__(self, compiler: SpecCompiler, specs: SpecMessages) -> None:
        self._compiler = compiler
        self._specs = specs

    async def step(self, caller: Principal, request: pb.CreateStepRunRequest, run: Run, job: Job) -> Step:
        """The step of a request. ``secrets`` names by variable the secret of the project that it gets."""
        check_unsupported(request)
        step = spec_pb.Step(
            name=request.step_name,
            uses=request.uses,
            action=request.action,
            args=request.args if request.HasField("args") else None,
            env={**request.env, **_secret_env(request.secrets, request.env)},
            continue_on_error=request.continue_on_error,
            timeout=request.timeout,
            when=request.when,
            run_on_agent=request.run_on_agent,
        )
        if request.HasField("agent_selector"):
            step.agent_selector.ParseFromString(request.agent_selector.SerializeToString())
        return await self._compiled(caller, step, run, job)

    async def changed(
        self, caller: Principal, request: pb.UpdateStepRunRequest, run: Run, job: Job
    ) -> dict[str, object]:
        """The given fields of an update, as fields of a step."""
        step = spec_pb.Step(
            name=STEP, uses="shell", action="command", env=request.env, timeout=request.timeout
        )
        step.args.update({"command": ":"})
        compiled = await self._compiled(caller, step, run, job)
        given: dict[str, object] = {}
        if request.env:
            given["env"] = compiled.env
        if request.timeout:
            given["timeout"] = compiled.timeout
        return given

    async def _compiled(self, caller: Principal, step: spec_pb.Step, run: Run, job: Job) -> Step:
        """As the only step of its job, after the jobs that expressions of this job may name."""
        spec = spec_pb.Spec(variables=run.graph.variables)
        needs = list(_before(run, job))
        for each in needs:
            stub = spec.jobs.add(name=each.name, dependsOn=each.spec.depends_on)
            for one in each.spec.steps:
                stub.steps.add(name=one.name, uses="shell", action="command").args.update({"command": ":"})
        own = spec.jobs.add(name=job.name, dependsOn=job.spec.depends_on, env=job.spec.env)
        own.steps.append(step)
        compiled = await self._compiler.compile(caller, await self._specs.source(caller, spec), "<step>")
        return replace(decoded(compiled.graph).jobs[len(needs)].steps[0])


def check_unsupported(request: pb.CreateStepRunRequest) -> None:
    """Raises ``VALIDATION_FAILED`` for what the server or the agent determines, and what this release lacks."""
    why: Mapping[str, tuple[bool, str]] = {
        "workspace": (bool(request.workspace), "it is that of the job"),
        "image": (bool(request.image), "steps run as processes of the agent"),
        "artifacts": (bool(request.artifacts), "add a step that uses artifacts"),
        "plugins": (bool(request.plugins), "this release has none"),
        "step_index": (request.step_index < 0, "it counts from 0"),
    }
    for field, (given, reason) in why.items():
        if given:
            raise Refusal.of("VALIDATION_FAILED", f"{field} cannot be given: {reason}", field=field)


def _secret_env(secrets: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    for variable, name in secrets.items():
        if not _SECRET.fullmatch(name):  # it may be a secret's value: not repeated
            why = "secrets maps names of variables to names of secrets of the project, never to values"
            raise Refusal.of("VALIDATION_FAILED", why, field="secrets")
        if variable in env:
            raise Refusal.of("VALIDATION_FAILED", "a variable is in env and in secrets", field="secrets")
    return {
        variable: f"${{{{ secrets[{orjson.dumps(name).decode()}] }}}}" for variable, name in secrets.items()
    }


def _before(run: Run, job: Job) -> Iterable[Job]:
    """The jobs that this one depends on, directly or not, in the order of the run."""
    found: set[str] = set()
    waiting = list(job.spec.depends_on)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += run.job(name).spec.depends_on
    return [each for each in run.jobs if each.name in found]
