"""Cancelling, timeouts and what cleans up after them, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.engine.errors import RunOver
from pilothouse.engine.store import due_runs
from pilothouse.fleet.model import TaskStatus, Verdict
from pilothouse.wire import entries
from support.kernel import LEASE, Kernel, RecorderChannel

FAILED, CANCELLED = TaskStatus.FAILED, TaskStatus.CANCELLED
GRACE = 300

TIDY = """
jobs:
  - name: deploy
    steps:
      - {name: push, uses: dummy}
      - {name: rest, uses: dummy}
      - {name: unlock, uses: dummy, when: always()}
  - name: report
    dependsOn: [deploy]
    when: cancelled() || failure()
    steps: [{name: tell, uses: dummy}]
"""


async def pushing(kernel: Kernel) -> tuple[RecorderChannel, str]:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TIDY)
    await kernel.ack(agent)
    return agent, run_id


def statuses(kernel: Kernel, run_id: str) -> dict[str, str]:
    view = kernel.view(run_id)
    found = {job["name"]: job["status"] for job in view["jobs"]}
    return found | {step["name"]: step["status"] for job in view["jobs"] for step in job["steps"]}


async def test_a_cancelled_run_is_cleaned_up_after(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    push = agent.last.id
    await kernel.cancel(run_id, "wrong branch")
    view = kernel.view(run_id)
    assert (view["status"], view["reason"]) == ("running", "cancelling")
    assert view["cleanup_until"] is not None
    assert view["jobs"][0]["stopping"] == "cancelled"
    assert agent.names == ["push"]
    assert await kernel.report(agent, FAILED, push, exit_code=143) is Verdict.ACCEPTED
    assert agent.names == ["push", "unlock"]
    assert agent.last.workspace == agent.tasks[0].workspace
    assert not agent.last.fresh_workspace
    assert not agent.last.last_in_job, "the run may be taken up again from where it was"
    await kernel.do(agent)
    assert agent.names == ["push", "unlock", "tell"]
    await kernel.do(agent, FAILED)
    view = kernel.view(run_id)
    assert (view["status"], view["reason"]) == ("cancelled", "wrong branch")
    assert view["cleanup_until"] is None
    assert statuses(kernel, run_id) == {
        **{"deploy": "cancelled", "push": "cancelled", "rest": "cancelled", "unlock": "succeeded"},
        **{"report": "failed", "tell": "failed"},
    }
    with pytest.raises(RunOver):
        await kernel.cancel(run_id, force=True)


async def test_cancelling_again_changes_nothing_but_by_force(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    await kernel.cancel(run_id, "enough")
    before = kernel.load(run_id)
    await kernel.cancel(run_id, "again")
    assert kernel.load(run_id) == before
    await kernel.cancel(run_id, "now", force=True)
    assert kernel.view(run_id)["cleanup_until"] is None
    assert statuses(kernel, run_id)["report"] == "cancelled"
    await kernel.report(agent, CANCELLED)
    assert kernel.view(run_id)["status"] == "cancelled"
    assert agent.names == ["push"]
    told = [(body["force"], body["reason"]) for body in kernel.told(run_id, entries.RUN_CANCELLING)]
    assert told == [(False, "enough"), (True, "enough")]


async def test_cleaning_up_goes_on_over_a_restart_and_ends_in_time(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    await kernel.cancel(run_id)
    await kernel.report(agent, CANCELLED)
    await kernel.ack(agent)
    kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    await kernel.beat(GRACE - 1, agent)
    assert statuses(kernel, run_id)["unlock"] == "running"
    await kernel.beat(2, agent)
    assert statuses(kernel, run_id)["report"] == "cancelled"
    [(task_id, reason)] = agent.cancelled
    assert reason.endswith("the time limit of cleanup has passed")
    assert await kernel.report(agent, FAILED, task_id) is Verdict.ACCEPTED
    assert kernel.view(run_id)["status"] == "cancelled"
    assert statuses(kernel, run_id)["unlock"] == "cancelled"


async def test_an_agent_lost_meanwhile_blocks_no_one(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    await kernel.cancel(run_id)
    await kernel.disconnect(agent)
    other = await kernel.agent("a2")
    await kernel.beat(LEASE + 1, other)
    found = statuses(kernel, run_id)
    assert (found["push"], found["unlock"]) == ("cancelled", "failed"), "the workspace is gone with the agent"
    assert other.names == ["tell"]
    await kernel.do(other)
    assert kernel.view(run_id)["status"] == "cancelled"


async def test_cleanup_without_an_agent_times_out(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    await kernel.cancel(run_id)
    await kernel.report(agent, CANCELLED)
    await kernel.do(agent)
    assert agent.names[-1] == "tell"
    await kernel.refuse(agent)
    await kernel.disconnect(agent)
    await kernel.tick(GRACE)
    assert kernel.view(run_id)["status"] == "cancelled"
    assert statuses(kernel, run_id)["tell"] == "cancelled"


async def test_a_run_that_is_over_is_not_due(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    await kernel.cancel(run_id)
    await kernel.report(agent, CANCELLED)
    await kernel.cancel(run_id, force=True)
    assert kernel.view(run_id)["status"] == "cancelled"
    with kernel.database.read() as conn:
        assert due_runs(conn, kernel.clock.now + 10 * GRACE * 1000) == []


async def test_a_cancelled_run_can_be_taken_up_again(kernel: Kernel) -> None:
    agent, run_id = await pushing(kernel)
    await kernel.cancel(run_id)
    await kernel.report(agent, CANCELLED)
    await kernel.do(agent)
    await kernel.do(agent)
    again = await kernel.rerun(run_id, from_failed=True)
    for _ in range(3):
        await kernel.do(agent)
    assert agent.names[3:] == ["push", "rest", "unlock"]
    assert statuses(kernel, again)["report"] == "skipped"
    assert kernel.view(again)["status"] == "succeeded"


# -- timeouts ---------------------------------------------------------------------------------------------

SLOW = """
jobs:
  - name: j
    timeout: 90s
    steps: [{name: a, uses: dummy}, {name: b, uses: dummy, when: failure()}]
"""


async def test_a_timeout_counts_from_the_start_of_the_first_step(kernel: Kernel) -> None:
    run_id = await kernel.run(SLOW)
    await kernel.tick(3600)
    [job] = kernel.view(run_id)["jobs"]
    assert (job["status"], job["waiting_for"], job["begun_at"]) == ("running", "no agent is online", None)
    agent = await kernel.agent("a1")
    await kernel.ack(agent)
    [job] = kernel.view(run_id)["jobs"]
    assert job["waiting_for"] is None
    assert job["begun_at"] > job["started_at"]
    await kernel.beat(89, agent)
    assert agent.cancelled == []
    await kernel.beat(2, agent)
    assert [reason for _, reason in agent.cancelled] == ["the job ran longer than its timeout of 1m30s"]
    [job] = kernel.view(run_id)["jobs"]
    assert (job["stopping"], job["reason"]) == ("timed_out", "the job ran longer than its timeout of 1m30s")
    await kernel.report(agent, CANCELLED)
    await kernel.ack(agent)
    kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    await kernel.beat(GRACE, agent)
    [(task_id, _)] = agent.cancelled
    await kernel.report(agent, CANCELLED, task_id)
    [job] = kernel.view(run_id)["jobs"]
    assert (job["status"], job["reason"]) == ("timed_out", "the job ran longer than its timeout of 1m30s")
    assert [step["status"] for step in job["steps"]] == ["timed_out", "cancelled"]
    assert kernel.view(run_id)["status"] == "failed"


async def test_a_job_reports_what_it_waited_for_too_long(kernel: Kernel) -> None:
    await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, queueTimeout: 30s, steps: [{name: a, uses: dummy, "
        "agentSelector: {matchLabels: {gpu: 'yes'}}}]}]"
    )
    await kernel.tick(29)
    assert kernel.view(run_id)["status"] == "running"
    await kernel.tick(1)
    [job] = kernel.view(run_id)["jobs"]
    expected = "the job waited longer than its queueTimeout of 30s: no online agent matches gpu=yes"
    assert (job["status"], job["reason"]) == ("timed_out", expected)
    assert job["steps"][0]["reason"] == expected
    assert kernel.view(run_id)["status"] == "failed"


async def test_an_offer_is_taken_back_when_it_comes_too_late(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run("jobs: [{name: j, queueTimeout: 30s, steps: [{name: a, uses: dummy}]}]")
    await kernel.tick(30)
    assert [id for id, _ in agent.cancelled] == [agent.last.id]
    assert await kernel.ack(agent) is Verdict.STALE
    assert kernel.view(run_id)["status"] == "failed"


# -- outputs and environment ------------------------------------------------------------------------------


async def test_outputs_of_a_failed_attempt_do_not_outlive_it(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, steps: [{name: a, uses: dummy, retry: {maxAttempts: 2}, "
        "env: {OLD: '${{ has(job.outputs.tag) ? job.outputs.tag : \"none\" }}'}}]}]"
    )
    await kernel.ack(agent)
    await kernel.tell("a1", 1, agent.last.id, "step.output", {"name": "tag", "value": "half"})
    assert kernel.step(run_id, "a")["outputs"] == {"tag": "half"}
    await kernel.report(agent, FAILED)
    assert agent.last.env == {"OLD": "none"}
    assert kernel.step(run_id, "a")["outputs"] == {}
    await kernel.do(agent)
    assert kernel.told(run_id, entries.STEP_COMPLETED)[0]["outputs"] == {}


async def test_a_secret_within_a_text_arrives_as_rendered(kernel: Kernel) -> None:
    await kernel.secret("AUTH", "hunter2-secret")
    agent = await kernel.agent("a1")
    await kernel.run(
        "jobs: [{name: j, steps: [{name: a, uses: dummy, env: {AUTH: 'Bearer ${{ secrets.AUTH }}'}}]}]"
    )
    assert agent.last.env == {"AUTH": "Bearer hunter2-secret"}


async def test_a_task_has_its_owner(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    facts: dict[str, Any] = {"branch": "main", "commit_sha": "9fceb02", "trigger": "cron"}
    await kernel.run("jobs: [{name: j, steps: [{name: a, uses: dummy}]}]", **facts)
    task = agent.last
    assert (task.pipeline_name, task.branch, task.commit_sha, task.event) == (
        "build",
        "main",
        "9fceb02",
        "cron",
    )
    assert not task.background
