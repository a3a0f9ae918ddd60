"""Concurrency groups on both databases: one goes on, one waits, and what is newer replaces what waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.engine.errors import GroupInvalid, RunPaused
from pilothouse.engine.member_store import members
from pilothouse.fleet.model import TaskStatus
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from pilothouse.wire import entries
from support.kernel import PROJECT, Kernel

ONE = """
concurrency: {group: "deploy-${{ run.branch }}"%s}
jobs:
  - name: j
    steps: [{name: s, uses: dummy}]
  - name: tidy
    when: always()
    dependsOn: [j]
    steps: [{name: t, uses: dummy}]
"""
JOBS = """
jobs:
  - name: test
    steps: [{name: s, uses: dummy}]
  - name: deploy
    concurrency: prod
    dependsOn: [test]
    steps: [{name: d, uses: dummy}]
"""


def status(kernel: Kernel, run_id: str) -> tuple[str, str]:
    view = kernel.view(run_id)
    return view["status"], view["reason"]


def job(kernel: Kernel, run_id: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(job for job in kernel.view(run_id)["jobs"] if job["name"] == name)
    return found


def left(kernel: Kernel) -> int:
    with kernel.database.read() as conn:
        return len(list(conn.execute(members.select())))


async def test_one_run_goes_on_one_waits_and_a_newer_one_replaces_it(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=5)
    first = await kernel.run(ONE % "", branch="main")
    second = await kernel.run(ONE % "", branch="main")
    other = await kernel.run(ONE % "", branch="side")
    elsewhere = await kernel.run(ONE % "", branch="main", project="project-2")
    assert status(kernel, second) == ("pending", f"waits for run {first} of concurrency group deploy-main")
    assert {status(kernel, run)[0] for run in (first, other, elsewhere)} == {"running"}
    [told] = kernel.told(second, entries.RUN_WAITING)
    assert told["reason"].startswith(f"waits for run {first}")
    third = await kernel.run(ONE % "", branch="main")
    assert status(kernel, second) == (
        "cancelled",
        f"replaced by run {third} of concurrency group deploy-main",
    ), "without its cleanup: it has not started"
    assert status(kernel, third)[0] == "pending"
    kernel = await kernel.restart()
    assert status(kernel, third)[0] == "pending"
    agent = await kernel.connect("a1")
    await kernel.cancel(first, force=True)
    assert status(kernel, third) == ("running", "")
    assert [job["status"] for job in kernel.view(third)["jobs"]] == ["running", "pending"]
    await kernel.tick()
    assert agent.names


async def test_a_new_run_cancels_the_one_in_progress(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    more = ", cancelInProgress: true"
    first = await kernel.run(ONE % more)
    await kernel.ack(agent)
    second = await kernel.run(ONE % more)
    assert status(kernel, first) == ("running", "cancelling")
    assert status(kernel, second)[0] == "pending", "until the cleanup of the first is over"
    await kernel.report(agent, TaskStatus.CANCELLED, error="stopped")
    assert agent.last.name == "t"
    await kernel.do(agent)
    assert status(kernel, first)[0] == "cancelled"
    assert "is newer" in status(kernel, first)[1]
    assert status(kernel, second) == ("running", "")


async def test_a_waiting_run_can_be_cancelled_but_not_paused(kernel: Kernel) -> None:
    first = await kernel.run(ONE % "")
    second = await kernel.run(ONE % "")
    await kernel.cancel(second)
    assert status(kernel, second)[0] == "cancelled"
    third = await kernel.run(ONE % "")
    with pytest.raises(RunPaused, match=f"has not started: it waits for run {first}"):
        await kernel.pause(third)
    await kernel.cancel(first, force=True)
    assert status(kernel, third) == ("running", "")
    await kernel.cancel(third, force=True)
    assert left(kernel) == 0


async def test_jobs_of_a_group_go_on_one_at_a_time(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=5)
    runs = []
    for _ in range(3):
        runs.append(await kernel.run(JOBS))
        await kernel.do(agent)
    first, second, third = runs
    assert job(kernel, first, "deploy")["status"] == "running"
    replaced = job(kernel, second, "deploy")
    waiting = job(kernel, third, "deploy")
    assert (replaced["status"], waiting["status"]) == ("cancelled", "pending")
    assert replaced["reason"].startswith("replaced by job ")
    assert waiting["reason"] == (
        f"waits for job {job(kernel, first, 'deploy')['id']} of run {first}, concurrency group prod"
    )
    assert status(kernel, second)[0] == "cancelled"
    assert "replaced by" in status(kernel, second)[1]
    assert len(kernel.told(third, entries.JOB_WAITING)) == 1
    deploying = next(task.id for task in agent.tasks if task.name == "d")
    await kernel.ack(agent, deploying)
    await kernel.report(agent, task_id=deploying)
    assert status(kernel, first)[0] == "succeeded"
    assert job(kernel, third, "deploy")["status"] == "running"
    await kernel.do(agent)
    assert status(kernel, third)[0] == "succeeded"
    assert left(kernel) == 0


async def test_a_job_of_many_steps_that_is_replaced_ends_whole(kernel: Kernel) -> None:
    steps = "".join(f"\n      - {{name: d{at}, uses: dummy}}" for at in range(250))
    many = f"jobs:\n  - name: deploy\n    concurrency: prod\n    steps:{steps}\n"
    first, second, third = [await kernel.run(many) for _ in range(3)]
    for _ in range(10):
        await kernel.tick()
    assert status(kernel, second)[0] == "cancelled"
    assert (status(kernel, first)[0], status(kernel, third)[0]) == ("running", "running")
    assert job(kernel, third, "deploy")["status"] == "pending"


async def test_two_jobs_of_one_run(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=5)
    run = await kernel.run(
        "jobs:\n"
        "  - {name: a, concurrency: prod, steps: [{name: sa, uses: dummy}]}\n"
        "  - {name: b, concurrency: prod, steps: [{name: sb, uses: dummy}]}\n"
    )
    assert agent.names == ["sa"]
    await kernel.do(agent)
    assert agent.names == ["sa", "sb"]
    await kernel.do(agent)
    assert status(kernel, run)[0] == "succeeded"


async def test_many_at_once_leave_one_running_and_one_waiting(kernel: Kernel) -> None:
    runs = await asyncio.gather(*(kernel.run(ONE % "", pump=False) for _ in range(20)))
    await kernel.pump()
    for _ in range(5):
        await kernel.tick()
    words = [status(kernel, run)[0] for run in runs]
    assert (words.count("running"), words.count("pending"), words.count("cancelled")) == (1, 1, 18)
    assert left(kernel) == 2


async def test_a_child_may_not_wait_for_its_parent(kernel: Kernel) -> None:
    pipelines = kernel.graph.service(Pipelines)
    child = "concurrency: {group: g}\njobs: [{name: c, steps: [{name: c, uses: dummy}]}]\n"
    parent = (
        "concurrency: {group: g}\n"
        "jobs: [{name: p, steps: [{name: call, uses: pipeline, args: {pipeline: child}}]}]\n"
    )
    made = {}
    for name, text in (("child", child), ("parent", parent)):
        made[name] = await kernel.write(lambda tx, name=name: pipelines.create(tx, SYSTEM, PROJECT, name))
        spec = compile_source(text)
        await kernel.write(
            lambda tx, name=name, spec=spec: pipelines.save_spec(
                tx, SYSTEM, made[name].id, spec, expected_head="", message=""
            )
        )
    run = await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, made["parent"].id, TriggerRequest()))
    await kernel.pump()
    assert status(kernel, run.id)[0] == "failed"
    assert "waits for this run" in kernel.step(run.id, "call")["reason"]
    assert left(kernel) == 0


@pytest.mark.parametrize("group", ["${{ variables.none }}", "${{ variables.empty }}", "${{ 1 / 0 }}"])
async def test_a_group_whose_name_cannot_be_worked_out(kernel: Kernel, group: str) -> None:
    spec = ONE.replace("deploy-${{ run.branch }}", group) % ""
    spec = "variables: {empty: '', none: x}\n" + spec
    if "none" in group:
        spec = spec.replace("none: x", "some: x")
        with pytest.raises(Exception, match="has no value"):
            await kernel.run(spec)
        return
    with pytest.raises(GroupInvalid):
        await kernel.run(spec)
    assert left(kernel) == 0


async def test_a_run_without_groups_touches_no_table_of_theirs(kernel: Kernel) -> None:
    await kernel.agent("a1")
    run = await kernel.run("jobs: [{name: j, steps: [{name: s, uses: dummy}]}]")
    await kernel.cancel(run, force=True)
    assert left(kernel) == 0
