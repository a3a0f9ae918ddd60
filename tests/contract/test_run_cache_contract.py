"""The writer's cache of runs on both databases: bounded by the steps of the runs in it, which changes nothing else."""

from __future__ import annotations

import pytest

from pilothouse.engine import runs
from support.kernel import Kernel

THREE = """
jobs:
  - name: j
    steps: [{name: a, uses: dummy}, {name: b, uses: dummy}, {name: c, uses: dummy}]
"""


async def test_the_steps_of_kept_runs_are_bounded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_STEPS", 7)
    agent = await kernel.agent("a1")
    started = [await kernel.run(THREE) for _ in range(4)]
    for _ in range(12):
        kept = [len(job.steps) for run in kernel.runs._kept.values() for job in run.jobs]
        assert sum(kept) <= 7
        assert len(kept) == 2
        await kernel.do(agent)
    assert [kernel.view(run_id)["status"] for run_id in started] == ["succeeded"] * 4


async def test_a_run_that_is_larger_than_the_bound_is_kept_alone(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_STEPS", 2)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(THREE)
    for _ in range(3):
        assert list(kernel.runs._kept) == [run_id]
        await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
