"""Specs of callers are parsed, checked and compiled in the worker pool; this is the server's side of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from pilothouse.access.model import Principal
from pilothouse.engine.names import NamesUsed, names_from_json
from pilothouse.pipelines.compiled import CompiledSpec, Spec
from pilothouse.pipelines.errors import PipelineInvalid
from pilothouse.pipelines.jobs import (
    DONE,
    INVALID,
    Outcome,
    check_job,
    check_names_job,
    compile_job,
    encoded_source,
    locate_job,
    problems_from_json,
    problems_to_json,
    split_job,
    written_text,
)
from pilothouse.pipelines.spec.inputs import Input, inputs_of
from pilothouse.pipelines.spec.problems import SpecError, SpecProblem
from pilothouse.workers.limits import MIB, Limits
from pilothouse.workers.pool import Pool

JOBS = (compile_job, check_job, check_names_job, locate_job, split_job)

LIMITS = Limits(cpu=15, wall=25, memory=512 * MIB, result=16 * MIB)
"""Of one spec. The largest legal ones take some 3 s of CPU time; clients wait for 30 s."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A valid spec: the number of its jobs, what looks like a mistake in it, and where asked for what it names and
    its declared inputs."""

    jobs: int
    warnings: tuple[SpecProblem, ...]
    variables: Mapping[str, str]
    names: NamesUsed
    inputs: tuple[Input, ...] | None


class SpecCompiler:
    """Every method raises SpecError with all problems found, WorkError (:mod:`pilothouse.edge.work`) and
    :class:`PipelineInvalid` where a text is not valid Unicode."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def compile(self, caller: Principal, source: Spec, file: str = "") -> CompiledSpec:
        """The spec, checked and compiled. ``file``: its name in problems."""
        spec, graph, names, triggers, indented = await self._run(compile_job, caller, source, file)
        written = written_text(source)
        text = indented.decode() if written is None else written
        return CompiledSpec(
            text,
            spec.decode(),
            graph.decode(),
            names.decode(),
            written=written is not None,
            triggers=triggers.decode(),
        )

    async def check(self, caller: Principal, source: Spec, file: str = "", *, names: bool = False) -> Checked:
        """The spec, checked only; ``names``: with the secrets and variables that it names."""
        if not names:
            jobs, warnings = await self._run(check_job, caller, source, file)
            return Checked(int(jobs), problems_from_json(warnings), {}, NamesUsed(), None)
        jobs, warnings, variables, used, triggers = await self._run(check_names_job, caller, source, file)
        named = names_from_json(orjson.loads(used))
        inputs = inputs_of(orjson.loads(triggers))
        return Checked(int(jobs), problems_from_json(warnings), orjson.loads(variables), named, inputs)

    async def located(self, caller: Principal, error: SpecError, text: str, file: str) -> SpecError:
        """The same problems with their places in the spec's text."""
        _, encoded = encoded_source(text)
        problems = problems_to_json(error.problems)
        found = await self._pool.run(locate_job, problems, encoded, file, caller=caller.key, limits=LIMITS)
        return SpecError(problems_from_json(found), file)

    async def _run(
        self, job: Callable[[str, bytes, str], Outcome], caller: Principal, source: Spec, file: str
    ) -> list[bytes]:
        """What follows DONE in the job's result."""
        try:
            form, encoded = encoded_source(source)
        except RecursionError:
            raise PipelineInvalid("the spec is nested too deeply") from None
        outcome = await self._pool.run(job, form, encoded, file, caller=caller.key, limits=LIMITS)
        kind, *values = outcome
        found = [value for value in values if isinstance(value, bytes)]
        if kind == INVALID:
            raise SpecError(problems_from_json(found[0]), file or "<spec>")
        if kind != DONE:
            raise PipelineInvalid("A text is not valid Unicode")
        return found
