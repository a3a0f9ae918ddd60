"""Child runs that start child runs, on both databases: how many there may be, and what one transaction does of them."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from sqlalchemy import func, select

from pilothouse.access.model import SYSTEM
from pilothouse.engine import store, transitions
from pilothouse.engine.gates import child
from pilothouse.pipelines.errors import PipelineInvalid
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from support.kernel import Kernel
from support.pipelines import define, start

WIDTH = 5
SHARE = 20


async def tree(kernel: Kernel, depth: int) -> str:
    """The pipeline at the top of a tree of child runs, at the bottom of which people are waited for."""
    top = await define(kernel, "level0", "uses: approval")
    for level in range(1, depth + 1):
        below = f"uses: pipeline, args: {{pipeline: level{level - 1}}}"
        top = await define(kernel, f"level{level}", *[below] * WIDTH)
    return top


def statuses(kernel: Kernel) -> Counter[str]:
    """How many runs there are of each status."""
    with kernel.database.read() as conn:
        found = conn.execute(select(store.runs.c.status, func.count()).group_by(store.runs.c.status))
        return Counter({row[0]: row[1] for row in found})


async def test_a_tree_of_runs_grows_and_ends_over_many_transactions(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "MAX_CHANGES", SHARE)
    run_id = await start(kernel, await tree(kernel, 3))
    assert statuses(kernel).total() <= SHARE
    kernel = await kernel.restart()
    await kernel.tick()
    whole = sum(WIDTH**level for level in range(4))
    assert statuses(kernel) == {"running": whole}
    await kernel.write(partial(kernel.engine.cancel, by=SYSTEM, run_id=run_id, reason="enough"))
    assert statuses(kernel)["cancelled"] <= SHARE
    kernel = await kernel.restart()
    await kernel.tick()
    assert statuses(kernel) == {"cancelled": whole}
    kernel.check_memory()


async def test_a_run_starts_at_most_so_many_others(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_BELOW", 10)
    monkeypatch.setattr(transitions, "MAX_CHANGES", SHARE)
    run_id = await start(kernel, await tree(kernel, 4))
    await kernel.pump()
    assert 10 < statuses(kernel).total() <= 1 + 10 + SHARE
    view = kernel.view(run_id)
    reasons = [step["reason"] for job in view["jobs"] for step in job["steps"]]
    assert any("has started 10 runs" in reason for reason in reasons), reasons


async def test_what_takes_long_to_evaluate_is_spread_over_transactions(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transitions, "MAX_SECONDS", 0)
    run_id = await start(kernel, await define(kernel, "slow", *["uses: approval"] * 5))
    assert kernel.view(run_id)["status"] == "running"
    assert [job["status"] for job in kernel.view(run_id)["jobs"]] == ["pending"] * 5
    await kernel.pump()
    assert [step["status"] for job in kernel.view(run_id)["jobs"] for step in job["steps"]] == ["running"] * 5


async def test_many_gates_are_opened_over_several_transactions(kernel: Kernel) -> None:
    run_id = await start(kernel, await define(kernel, "gated", *["uses: approval"] * 60))
    most = -(-transitions.MAX_CHANGES // transitions.GATE_CHANGES)
    opened = [0]
    while opened[-1] < 60 and len(opened) < 20:
        steps = [step["status"] for job in kernel.view(run_id)["jobs"] for step in job["steps"]]
        opened.append(steps.count("running"))
        assert opened[-1] - opened[-2] <= most, opened
        await kernel.write(partial(kernel.engine.move_on, run_id=run_id))
    assert opened[-1] == 60


async def test_what_a_child_is_given_is_bounded(kernel: Kernel) -> None:
    variables = ", ".join(f"v{at}: '${{{{ variables.big }}}}'" for at in range(5))
    await define(kernel, "below", "uses: approval")
    top = await define(
        kernel, "above", f"uses: pipeline, args: {{pipeline: below, variables: {{{variables}}}}}"
    )
    pipelines = kernel.graph.service(Pipelines)
    large = TriggerRequest(variables={"big": "x" * 60_000})
    run = await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, top, large))
    await kernel.pump()
    [job] = kernel.view(run.id)["jobs"]
    assert job["steps"][0]["reason"] == "the variables have 300010 characters, a run takes at most 262144"
    assert statuses(kernel) == {"failed": 1}
    too_large = TriggerRequest(variables={"big": "x" * 262_144})
    with pytest.raises(PipelineInvalid):
        await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, top, too_large))
