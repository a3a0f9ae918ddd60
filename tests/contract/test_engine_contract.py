"""The life of runs over the real services, on both databases: hand-out, results, cancelling, and time."""

from __future__ import annotations

import asyncio

import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.engine import dispatch
from pilothouse.engine.errors import RunNotFound, RunOver
from pilothouse.engine.streams.arcentra import StepLog, StepStatus
from pilothouse.engine.streams.framing import Framing
from pilothouse.engine.streams.stella import RunMessages
from pilothouse.fleet.model import TaskStatus, Verdict
from pilothouse.journal import Entry, WireFormat
from pilothouse.server.events import CloudEvents
from pilothouse.wire import entries
from support.kernel import LEASE, PROJECT, Kernel

FAILED, SUCCEEDED, CANCELLED = TaskStatus.FAILED, TaskStatus.SUCCEEDED, TaskStatus.CANCELLED
ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
TWO = "jobs: [{name: j, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
PAIR = """
jobs:
  - {name: first, steps: [{name: a, uses: dummy}]}
  - {name: second, dependsOn: [first], steps: [{name: b, uses: dummy}]}
"""


def named(name: str, more: str = "") -> str:
    return f"jobs: [{{name: j, steps: [{{name: {name}, uses: dummy{more}}}]}}]"


def types(kernel: Kernel, run_id: str) -> list[str]:
    return [entry.type for entry in kernel.entries(entries.run_stream(run_id))]


def rebuilt(entry: Entry) -> Entry:
    return Entry(entry.offset, entry.stream, entry.subject, entry.type, entry.at, entry.scope, entry.data)


# -- a whole life -----------------------------------------------------------------------------------------


async def test_a_run_from_start_to_end(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=2)
    run_id = await kernel.run(PAIR)
    assert agent.names == ["a"]
    task = agent.last
    assert (task.run_id, task.attempt, task.last_in_job, task.fresh_workspace) == (run_id, 1, True, True)
    assert kernel.attempt(task.id).reason == "offered to agent a1"
    kernel.clock.advance(1)
    await kernel.ack(agent)
    assert kernel.step(run_id, "a")["status"] == "running"
    assert kernel.attempt(task.id).reason == ""
    kernel.clock.advance(2)
    await kernel.report(agent)
    assert agent.names == ["a", "b"]
    await kernel.do(agent)
    view = kernel.view(run_id)
    assert view["status"] == "succeeded"
    assert view["duration"] == 3.0
    assert [job["status"] for job in view["jobs"]] == ["succeeded"] * 2
    assert types(kernel, run_id) == [
        *("run.created", "run.started", "job.started", "step.queued", "step.started"),
        *("attempt.completed", "step.completed", "job.completed"),
        *(
            "job.started",
            "step.queued",
            "step.started",
            "attempt.completed",
            "step.completed",
            "job.completed",
        ),
        "run.completed",
    ]
    [started, _] = kernel.told(run_id, entries.STEP_STARTED)
    assert (started["node"], started["agent_id"], started["previous"]) == ("first/a", "a1", "queued")
    [done, _] = kernel.told(run_id, entries.STEP_COMPLETED)
    assert (done["status"], done["duration"], done["previous"]) == ("succeeded", 2000, "running")
    assert kernel.lease(task.id) is None


async def test_what_memory_shows_disk_shows_as_well(kernel: Kernel) -> None:
    """Replay equals live: an entry's messages do not depend on where it was read."""
    agent = await kernel.agent("a1", slots=2)
    run_id = await kernel.run("jobs: [{name: j, retry: {maxAttempts: 2}, steps: [{name: a, uses: dummy}]}]")
    await kernel.ack(agent)
    await kernel.push("a1", 1, agent.last.id, "one", "two")
    await kernel.push("a1", 3, agent.last.id, "four")
    await kernel.tell("a1", 1, agent.last.id, "step.progress", {"percent": 30.0, "message": "m"})
    await kernel.tell("a1", 2, agent.last.id, "step.output", {"name": "o", "value": [1, {"x": None}]})
    await kernel.tell("a1", 3, agent.last.id, "step.annotation", {"title": "t"})
    await kernel.report(agent, FAILED, error="no")
    await kernel.do(agent)
    await kernel.cancel(await kernel.run(named("other", ", agentSelector: {matchLabels: {os: arm64}}")))
    framing = Framing("ws+cursor", kernel.journal.epoch)
    formats: list[WireFormat] = [RunMessages(framing), StepStatus(framing), CloudEvents(kernel.journal.epoch)]
    formats += [StepLog(framing, batched=False), StepLog(framing, batched=True)]
    window = kernel.journal.feed.window
    live = window.since(None, window.start, 10_000)
    disk = [entry for entry in kernel.entries() if entry.offset >= window.start]
    assert len(live) == len(disk) > 20
    for one, other in zip(live, disk, strict=True):
        assert one.body == other.body
        for fmt in formats:
            assert one.frames(fmt) == rebuilt(other).frames(fmt), (one.type, fmt.key)
    assert kernel.view(run_id)["jobs"][0]["round"] == 2


async def test_work_is_handed_out_oldest_first_and_one_for_each_slot(kernel: Kernel) -> None:
    for name in ("r1", "r2", "r3", "r4"):
        await kernel.run(named(name))
    agent = await kernel.agent("a1", slots=2)
    assert agent.names == ["r1", "r2"]
    await kernel.do(agent)
    assert agent.names == ["r1", "r2", "r3"]
    await kernel.ack(agent, agent.tasks[0].id)
    await kernel.report(agent, task_id=agent.tasks[0].id)
    assert agent.names == ["r1", "r2", "r3", "r4"]


async def test_work_goes_where_its_selector_says(kernel: Kernel) -> None:
    amd, arm = await kernel.agent("amd", slots=9), await kernel.agent("arm", slots=9, os="arm64")
    for index in range(4):
        await kernel.run(named(f"r{index}", ", agentSelector: {matchLabels: {os: arm64}}"))
    assert (len(amd.tasks), len(arm.tasks)) == (0, 4)


async def test_every_wait_has_a_reason(kernel: Kernel) -> None:
    arm = ", agentSelector: {matchLabels: {os: arm64}}"
    run_id = await kernel.run(named("a", arm))

    def reason() -> str:
        return str(kernel.step(run_id, "a")["reason"])

    assert reason() == "no agent is online"
    plain = await kernel.agent("plain")
    assert reason() == "no online agent matches os=arm64"
    big = await kernel.agent("big", os="arm64")
    assert big.names == ["a"]
    second = await kernel.run(named("b", arm))
    assert kernel.step(second, "b")["reason"] == "agent big is busy"
    await kernel.do(big)
    assert big.names == ["a", "b"]
    waited = [told["reason"] for told in kernel.told(run_id, entries.STEP_WAITING)]
    assert waited == ["no agent is online", "no online agent matches os=arm64"], "each told once"
    assert plain.tasks == []


async def test_labels_that_change_may_end_a_wait(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await kernel.run(named("a", ", agentSelector: {matchLabels: {os: arm64}}"))
    assert agent.tasks == []
    await kernel.write(
        lambda tx: kernel.fleet.registry.update_labels(tx, SYSTEM, "a1", {"os": "arm64"}, merge=True)
    )
    await kernel.pump()
    assert agent.names == ["a"]


async def test_a_queue_that_cannot_move_does_not_hold_up_what_can(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that wait for a missing agent do not block others, and all show why they wait."""
    monkeypatch.setattr(dispatch, "PAGE", 2)
    agent = await kernel.agent("a1")
    stuck = [await kernel.run(named("s", ", agentSelector: {matchLabels: {os: arm64}}")) for _ in range(5)]
    assert agent.tasks == []
    free = [await kernel.run(named(name)) for name in ("f1", "f2", "f3")]
    assert agent.names == ["f1"]
    assert {kernel.step(id, "s")["reason"] for id in stuck} == {"no online agent matches os=arm64"}
    assert [kernel.step(id, f"f{n}")["reason"] for n, id in enumerate(free[1:], start=2)] == [
        "agent a1 is busy"
    ] * 2
    await kernel.do(agent)
    assert agent.names == ["f1", "f2"]


async def test_a_job_that_has_begun_comes_before_any_number_that_has_not(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next step is the newest of the queue, and stands behind several pages of it."""
    monkeypatch.setattr(dispatch, "PAGE", 2)
    agent = await kernel.agent("a1")
    await kernel.run(TWO)
    for _ in range(5):
        await kernel.run(ONE.replace("name: a", "name: other"))
    await kernel.do(agent)
    assert agent.names == ["a", "b"]


async def test_a_step_that_cannot_be_handed_out_leaves_its_slot_to_the_next(kernel: Kernel) -> None:
    broken = await kernel.run(named("a", ", env: {TOKEN: '${{ env[\"MISSING\"] }}'}"))
    await kernel.run(named("b"))
    agent = await kernel.agent("a1")
    assert kernel.view(broken)["status"] == "failed"
    assert "MISSING" in kernel.step(broken, "a")["reason"]
    assert agent.names == ["b"]


# -- cancelling -------------------------------------------------------------------------------------------


async def test_cancelling_what_is_queued_is_at_once(kernel: Kernel) -> None:
    run_id = await kernel.run(PAIR)
    await kernel.cancel(run_id, "wrong branch")
    view = kernel.view(run_id)
    assert (view["status"], view["reason"]) == ("cancelled", "wrong branch")
    assert [s["status"] for job in view["jobs"] for s in job["steps"]] == ["cancelled"] * 2
    agent = await kernel.agent("a1")
    assert agent.tasks == []
    with pytest.raises(RunOver):
        await kernel.cancel(run_id)
    with pytest.raises(RunNotFound):
        await kernel.cancel("nothing")
    assert [told["by"] for told in kernel.told(run_id, entries.RUN_CANCELLING)] == ["system"]


async def test_cancelling_what_is_offered_takes_it_back(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.cancel(run_id, "enough")
    assert agent.cancelled == [(agent.last.id, "enough")]
    assert kernel.view(run_id)["status"] == "cancelled"
    assert kernel.lease(agent.last.id) is None
    assert await kernel.ack(agent) is Verdict.STALE, "it must not start it"
    await kernel.report(agent)
    assert kernel.view(run_id)["status"] == "cancelled"
    await kernel.run(named("next"))
    assert agent.names == ["a", "next"], "its slot is free again"


async def test_cancelling_what_runs_waits_for_the_agent(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(TWO)
    await kernel.ack(agent)
    await kernel.cancel(run_id, "enough")
    await kernel.cancel(run_id, "again")
    assert agent.cancelled == [(agent.last.id, "enough")]
    assert kernel.view(run_id)["status"] == "running"
    assert await kernel.report(agent, FAILED, exit_code=143, error="killed") is Verdict.ACCEPTED
    view = kernel.view(run_id)
    assert (view["status"], view["reason"]) == ("cancelled", "enough")
    assert kernel.attempt(agent.last.id).status == "cancelled"
    assert kernel.attempt(agent.last.id).exit_code == 143
    assert agent.names == ["a"]


async def test_a_result_of_a_cancelled_task_may_be_repeated(kernel: Kernel) -> None:
    """Results are idempotent, whatever became of them: the agent's answer was lost, so it reports again."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.ack(agent)
    await kernel.cancel(run_id)
    assert await kernel.report(agent, FAILED, exit_code=143) is Verdict.ACCEPTED
    assert await kernel.report(agent, FAILED, exit_code=143) is Verdict.REPEATED


async def test_a_cancelled_task_whose_agent_is_lost_is_cancelled(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run("jobs: [{name: j, onLost: rerun, steps: [{name: a, uses: dummy}]}]")
    await kernel.ack(agent)
    await kernel.cancel(run_id)
    await kernel.disconnect(agent)
    await kernel.tick(LEASE)
    assert kernel.view(run_id)["status"] == "cancelled"


# -- what time brings -------------------------------------------------------------------------------------


async def test_a_job_that_takes_too_long_is_stopped(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run("jobs: [{name: j, timeout: 90s, steps: [{name: a, uses: dummy}]}]")
    await kernel.ack(agent)
    await kernel.beat(89, agent)
    assert agent.cancelled == []
    await kernel.beat(2, agent)
    assert [id for id, _ in agent.cancelled] == [agent.last.id]
    await kernel.report(agent, CANCELLED)
    assert kernel.step(run_id, "a")["status"] == "timed_out"
    assert kernel.view(run_id)["jobs"][0]["status"] == "timed_out"
    assert kernel.view(run_id)["status"] == "failed"


async def test_a_retry_comes_after_its_delay_and_on_the_same_agent(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(named("a", ", retry: {maxAttempts: 2, delay: 20s}"))
    first = await kernel.do(a1, FAILED)
    await kernel.beat(19, a1, a2)
    assert len(a1.tasks) == 1
    await kernel.beat(1, a1, a2)
    assert a1.names == ["a", "a"]
    assert a2.tasks == []
    assert (a1.last.attempt, a1.last.workspace) == (2, a1.tasks[0].workspace)
    assert not a1.last.fresh_workspace
    await kernel.do(a1)
    tries = kernel.step(run_id, "a")["attempts"]
    assert [(t["number"], t["status"]) for t in tries] == [(1, "failed"), (2, "succeeded")]
    assert tries[0]["step_run_id"] == first != tries[1]["step_run_id"]


async def test_a_job_that_starts_again_has_a_fresh_workspace(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        "jobs: [{name: j, retry: {maxAttempts: 2}, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}]"
    )
    await kernel.do(agent)
    await kernel.do(agent, FAILED)
    assert agent.names == ["a", "b", "a"]
    assert agent.last.fresh_workspace
    assert agent.last.workspace != agent.tasks[0].workspace
    assert kernel.step(run_id, "b")["finished_at"] is None, "it is to run again"
    await kernel.do(agent)
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"


# -- results ----------------------------------------------------------------------------------------------


async def test_results_are_taken_once(kernel: Kernel) -> None:
    a1, a2 = await kernel.agent("a1"), await kernel.agent("a2")
    run_id = await kernel.run(ONE)
    assert await kernel.ack(a1) is Verdict.ACCEPTED
    assert await kernel.ack(a1) is Verdict.REPEATED
    assert await kernel.report(a1, TaskStatus.RUNNING) is Verdict.REPEATED
    assert await kernel.report(a2, SUCCEEDED, a1.last.id) is Verdict.STALE, "it is not this agent's"
    assert await kernel.report(a1, SUCCEEDED, "nothing") is Verdict.STALE
    assert await kernel.report(a1, FAILED, error="no") is Verdict.ACCEPTED
    assert await kernel.report(a1, FAILED, error="no") is Verdict.REPEATED
    assert await kernel.report(a1, SUCCEEDED) is Verdict.STALE, "an end is an end"
    assert await kernel.ack(a1) is Verdict.STALE
    assert types(kernel, run_id).count(entries.STEP_STARTED) == 1
    assert types(kernel, run_id).count(entries.RUN_COMPLETED) == 1
    assert kernel.view(run_id)["status"] == "failed"


async def test_a_result_without_an_acknowledgement_began_all_the_same(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    assert await kernel.report(agent) is Verdict.ACCEPTED
    assert kernel.view(run_id)["status"] == "succeeded"
    assert types(kernel, run_id).count(entries.STEP_STARTED) == 1


@pytest.mark.parametrize(
    ("code", "error", "shown"), [(3, "", "exit code 3"), (0, "", "failed"), (3, "boom", "boom")]
)
async def test_a_failure_has_words(kernel: Kernel, code: int, error: str, shown: str) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    await kernel.report(agent, FAILED, exit_code=code, error=error)
    assert kernel.step(run_id, "a")["reason"] == shown
    assert kernel.attempt(agent.last.id).error == shown


async def test_any_text_can_be_an_error(kernel: Kernel) -> None:
    """A result is never refused because of its message, or the agent would retry it forever."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(ONE)
    assert (
        await kernel.report(agent, FAILED, error="core\x00dump \U0001f4a5 " + "x" * 100_000)
        is Verdict.ACCEPTED
    )
    assert kernel.view(run_id)["status"] == "failed"
    assert len(kernel.attempt(agent.last.id).error) <= 4096


async def test_many_small_runs_on_many_agents_all_end(kernel: Kernel) -> None:
    agents = [await kernel.agent(f"a{n}", slots=3) for n in range(3)]
    runs = [await kernel.run(TWO if n % 2 else ONE, pump=False) for n in range(30)]
    await kernel.pump()
    done: set[str] = set()
    while any(task.id not in done for agent in agents for task in agent.tasks):
        for agent in agents:
            for task in [task for task in agent.tasks if task.id not in done]:
                done.add(task.id)
                verdicts = await asyncio.gather(
                    kernel.ack(agent, task.id), kernel.report(agent, task_id=task.id)
                )
                assert verdicts == [Verdict.ACCEPTED] * 2
    assert {kernel.load(run_id).status.value for run_id in runs} == {"succeeded"}
    assert len(done) == 45
    assert all(kernel.load(run_id).project == PROJECT for run_id in runs)


async def test_a_step_knows_which_attempt_it_is(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await kernel.run(
        "jobs: [{name: j, steps: [{name: s, uses: dummy, env: {N: '${{ step.attempt }}'}, "
        "retry: {maxAttempts: 2}}]}]"
    )
    assert agent.last.env == {"N": "1"}
    await kernel.do(agent, FAILED)
    assert agent.last.env == {"N": "2"}
