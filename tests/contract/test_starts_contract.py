"""Runs start in one place, which asks the same of every way of starting one."""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

import pilothouse
from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM, Principal, Role
from pilothouse.access.quotas import Quotas
from pilothouse.engine import store
from pilothouse.engine.model import Run
from pilothouse.engine.service import NewRun, Origin
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from support.kernel import PROJECT, Kernel
from support.pipelines import define

MEMBER = Principal("user", "u1", "ann", Role.USER, frozenset({PROJECT}), "t1", None)
SPEC = compile_source("jobs: [{name: j, steps: [{name: s, uses: dummy}]}]")

Way = Callable[[Kernel, Principal, str, str], Awaitable[Run]]
"""Starts a run of a pipeline, which has an ended run that failed."""


async def _trigger(kernel: Kernel, by: Principal, pipeline: str, ended: str) -> Run:
    request = TriggerRequest()
    return await kernel.write(lambda tx: kernel.graph.service(Pipelines).trigger(tx, by, pipeline, request))


async def _trigger_with_spec(kernel: Kernel, by: Principal, pipeline: str, ended: str) -> Run:
    request = TriggerRequest(spec=SPEC)
    return await kernel.write(lambda tx: kernel.graph.service(Pipelines).trigger(tx, by, pipeline, request))


async def _rerun(kernel: Kernel, by: Principal, pipeline: str, ended: str) -> Run:
    return await kernel.write(lambda tx: kernel.engine.rerun(tx, by, ended, from_failed=False))


async def _rerun_failed(kernel: Kernel, by: Principal, pipeline: str, ended: str) -> Run:
    return await kernel.write(lambda tx: kernel.engine.rerun(tx, by, ended, from_failed=True))


async def _engine(kernel: Kernel, by: Principal, pipeline: str, ended: str) -> Run:
    """As a timer or a webhook of a later release may do."""
    new = NewRun("pipeline", "p", PROJECT, kernel.load(ended).graph, Origin(pipeline_id=pipeline))
    return await kernel.write(lambda tx: kernel.engine.start(tx, by, new))


WAYS: list[Way] = [_trigger, _trigger_with_spec, _rerun, _rerun_failed, _engine]


async def ready(kernel: Kernel) -> tuple[str, str]:
    """A pipeline, and a run of it that was cancelled."""
    pipeline = await define(kernel, "walked", "uses: dummy")
    run = await _trigger(kernel, SYSTEM, pipeline, "")
    await kernel.cancel(run.id, force=True)
    return pipeline, run.id


async def refused(kernel: Kernel, way: Way, by: Principal, pipeline: str, ended: str) -> str:
    before = len(kernel.entries(type="run.created"))
    with pytest.raises(Refusal) as caught:
        await way(kernel, by, pipeline, ended)
    assert len(kernel.entries(type="run.created")) == before
    return caught.value.code


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_of_a_disabled_or_deleted_pipeline_starts(kernel: Kernel, way: Way) -> None:
    pipelines = kernel.graph.service(Pipelines)
    pipeline, ended = await ready(kernel)
    await kernel.write(lambda tx: pipelines.change(tx, SYSTEM, pipeline, enabled=False))
    assert await refused(kernel, way, SYSTEM, pipeline, ended) == "PIPELINE_DISABLED"
    await kernel.write(lambda tx: pipelines.change(tx, SYSTEM, pipeline, enabled=True))
    assert (await way(kernel, SYSTEM, pipeline, ended)).pipeline_id == pipeline
    await kernel.write(lambda tx: pipelines.delete(tx, SYSTEM, pipeline))
    assert await refused(kernel, way, SYSTEM, pipeline, ended) == "PIPELINE_NOT_FOUND"


@pytest.mark.parametrize("way", WAYS)
async def test_the_rights_are_those_in_the_project_of_the_run(kernel: Kernel, way: Way) -> None:
    pipeline, ended = await ready(kernel)
    for by in (
        replace(MEMBER, role=Role.VIEWER),
        replace(MEMBER, projects=frozenset({"another"})),
        Principal("agent", "a1", "a1", None, frozenset({PROJECT}), "t", None),
    ):
        assert await refused(kernel, way, by, pipeline, ended) == "AUTH_INSUFFICIENT_PERMISSIONS"
    assert (await way(kernel, MEMBER, pipeline, ended)).triggered_by == "ann"


@pytest.mark.parametrize("way", WAYS)
async def test_a_project_has_so_many_runs_at_once(
    kernel: Kernel, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended runs, and those of other projects, do not count."""
    pipeline, ended = await ready(kernel)
    monkeypatch.setattr(kernel.graph.service(Quotas), "runs", 2)
    spec = "jobs: [{name: j, steps: [{name: s, uses: dummy}]}]"
    for _ in range(2):
        await kernel.run(spec, project="another")
    await way(kernel, SYSTEM, pipeline, ended)
    other = await way(kernel, SYSTEM, pipeline, ended)
    assert await refused(kernel, way, SYSTEM, pipeline, ended) == "QUOTA_EXCEEDED"
    await kernel.cancel(other.id, force=True)
    await way(kernel, SYSTEM, pipeline, ended)


@pytest.mark.parametrize("why", ["disabled", "deleted", "too many"])
async def test_a_gate_starts_no_run_that_nobody_could_start(
    kernel: Kernel, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = kernel.graph.service(Pipelines)
    child = await define(kernel, "child", "uses: dummy")
    parent = await define(kernel, "parent", "uses: pipeline, args: {pipeline: child}")
    match why:
        case "disabled":
            await kernel.write(lambda tx: pipelines.change(tx, SYSTEM, child, enabled=False))
        case "deleted":
            await kernel.write(lambda tx: pipelines.delete(tx, SYSTEM, child))
        case _:
            monkeypatch.setattr(kernel.graph.service(Quotas), "runs", 1)
    run = await _trigger(kernel, SYSTEM, parent, "")
    step = kernel.step(run.id, "s")
    assert step["status"] == "failed"
    expected = {"disabled": "is disabled", "deleted": "No pipeline", "too many": "unfinished runs"}[why]
    assert expected in step["reason"]
    assert len(kernel.entries(type="run.created")) == 1


def test_runs_are_stored_in_one_place_alone() -> None:
    """Whoever adds a way to start runs cannot go around it."""
    root = Path(pilothouse.__file__).parent
    found = []
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if name == store.insert_run.__name__:
                found.append(str(file.relative_to(root)))
    assert found == ["engine/starts.py"]
