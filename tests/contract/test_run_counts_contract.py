"""The counts of a pipeline's runs on both databases: of how they ended, also of those that are opened again."""

from __future__ import annotations

from pilothouse.access.model import SYSTEM
from pilothouse.engine import run_counts
from pilothouse.engine.run_counts import RunCounts
from pilothouse.engine.step_runs import StepRuns
from pilothouse.fleet.model import TaskStatus
from support.kernel import Kernel
from support.pipelines import define, start


def counted(kernel: Kernel, pipeline_id: str) -> RunCounts:
    with kernel.database.read() as conn:
        return run_counts.of_pipelines(conn, [pipeline_id, "unknown"])[pipeline_id]


async def test_runs_are_counted_when_they_begin_end_and_begin_again(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    pipeline_id = await define(kernel, "counted", "uses: dummy")
    for status in (TaskStatus.SUCCEEDED, TaskStatus.FAILED):
        run_id = await start(kernel, pipeline_id)
        await kernel.pump()
        await kernel.do(agent, status)
    assert counted(kernel, pipeline_id) == RunCounts(2, 1, 1, "failed")
    step_runs, attempt = kernel.graph.service(StepRuns), kernel.step(run_id, "s")["attempts"][0]
    await kernel.write(lambda tx: step_runs.retry(tx, SYSTEM, attempt["step_run_id"]))
    assert counted(kernel, pipeline_id) == RunCounts(2, 1, 0, "running")
    await kernel.pump()
    await kernel.do(agent)
    assert counted(kernel, pipeline_id) == RunCounts(2, 2, 0, "succeeded")
    cancelled = await start(kernel, pipeline_id)
    await kernel.cancel(cancelled, force=True)
    assert counted(kernel, pipeline_id) == RunCounts(3, 2, 0, "cancelled")
