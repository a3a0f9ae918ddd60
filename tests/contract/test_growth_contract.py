"""Runs that grow, and large runs, on both databases."""

from __future__ import annotations

import pytest

from pilothouse.engine.errors import JobEnding, JobOver, RunOver
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.growth import MAX_STEPS
from pilothouse.engine.lookup import find_jobs, find_step_run, find_step_runs
from pilothouse.engine.problems import SpecError
from pilothouse.fleet.model import TaskStatus
from pilothouse.wire import entries
from support.kernel import Kernel


def steps(*names: str, **more: str) -> tuple[Step, ...]:
    return tuple(Step(name, "dummy", "run", **more) for name in names)  # type: ignore[arg-type]


async def test_a_run_grows_by_jobs_and_by_steps(kernel: Kernel) -> None:
    run_id = await kernel.run(Graph((Job("j", steps("a")), Job("last", steps("z"), depends_on=("j",)))))
    await kernel.extend(run_id, Job("k", steps("c"), depends_on=("j",)), j=steps("b"))
    view = kernel.view(run_id)
    assert [(job["name"], [step["name"] for step in job["steps"]]) for job in view["jobs"]] == [
        ("j", ["a", "b"]),
        ("last", ["z"]),
        ("k", ["c"]),
    ]
    added = kernel.step(run_id, "c")["attempts"][0]
    assert (added["status"], added["number"]) == ("pending", 1)
    agent = await kernel.agent("a1")
    [told] = kernel.told(run_id, entries.RUN_EXTENDED)
    assert [job["name"] for job in told["jobs"]] == ["k", "j"]
    await kernel.do(agent)
    kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    assert agent.names == ["b"]
    await kernel.extend(run_id, Job("m", steps("d"), depends_on=("k",)))
    while kernel.view(run_id)["status"] == "running":
        await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
    assert kernel.step(run_id, "c")["attempts"][0]["step_run_id"] == added["step_run_id"]
    with pytest.raises(RunOver):
        await kernel.extend(run_id, Job("late", steps("x")))
    again = await kernel.rerun(run_id, from_failed=False)
    assert [job["name"] for job in kernel.view(again)["jobs"]] == ["j", "last", "k", "m"], "as it has grown"


@pytest.mark.parametrize(
    ("jobs", "more", "why"),
    [
        ((Job("j", steps("x")),), {}, 'job "j" is there 2 times'),
        ((Job("k", steps("x"), depends_on=("nothing",)),), {}, "which is no job"),
        ((Job("k", steps("x"), depends_on=("k",)),), {}, "depend on each other"),
        ((), {"j": steps("a")}, 'step "a" is there 2 times'),
        ((), {"nothing": steps("x")}, 'no job "nothing"'),
        ((Job("k", tuple(Step(f"s{n}") for n in range(MAX_STEPS))),), {}, "steps"),
        ((Job("k", (Step("x", env={"A": "${{ secrets.NONE }}"}),)),), {}, "which this project does not have"),
    ],
)
async def test_what_cannot_be_run_is_refused_and_changes_nothing(
    kernel: Kernel, jobs: tuple[Job, ...], more: dict[str, tuple[Step, ...]], why: str
) -> None:
    run_id = await kernel.run(Graph((Job("j", steps("a")),)))
    before = kernel.load(run_id)
    with pytest.raises(SpecError, match=why):
        await kernel.extend(run_id, *jobs, **more)
    assert kernel.load(run_id) == before


async def test_no_step_follows_one_after_which_the_workspace_is_removed(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(Graph((Job("j", steps("a", "b")),)))
    await kernel.ack(agent)
    await kernel.extend(run_id, j=steps("c"))
    for name in "abc":
        assert agent.last.payload.name == name
        if name == "c":
            with pytest.raises(JobEnding):
                await kernel.extend(run_id, j=steps("d"))
            await kernel.extend(run_id, Job("k", steps("e"), depends_on=("j",)))
        await (kernel.report(agent) if name == "a" else kernel.do(agent))
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_nothing_is_added_to_a_job_that_is_over(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(Graph((Job("j", steps("a")), Job("k", steps("b"), depends_on=("j",)))))
    await kernel.do(agent)
    with pytest.raises(JobOver):
        await kernel.extend(run_id, j=steps("late"))


async def test_a_run_has_at_most_so_many_steps(kernel: Kernel) -> None:
    with pytest.raises(SpecError, match=f"at most {MAX_STEPS}"):
        await kernel.run(Graph(tuple(Job(f"j{n}", steps("a")) for n in range(MAX_STEPS + 1))))
    with pytest.raises(SpecError, match="no jobs"):
        await kernel.run(Graph())


# -- large runs: many transactions, none of them large --------------------------------------------------


async def test_many_jobs_begin_and_end_in_many_transactions(kernel: Kernel) -> None:
    count = 450
    run_id = await kernel.run(Graph(tuple(Job(f"j{n}", steps("a", "b")) for n in range(count))), pump=False)
    assert kernel.load(run_id).unsettled
    assert kernel.load(run_id).counts.shown()["running"] < count
    kernel = await kernel.restart()
    await kernel.tick()
    run = kernel.load(run_id)
    assert not run.unsettled
    assert run.counts.shown()["running"] == count
    assert all(job.steps[0].current for job in run.jobs)
    await kernel.cancel(run_id)
    run = kernel.load(run_id)
    assert (run.status.value, run.counts.completed) == ("cancelled", count)
    ended = kernel.told(run_id, entries.ATTEMPT_COMPLETED)
    assert len({body["step_run_id"] for body in ended}) == len(ended) == 2 * count, (
        "every step run ends, once"
    )


async def test_a_job_of_many_steps_is_skipped_in_many_transactions(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    names = [f"s{n}" for n in range(350)]
    run_id = await kernel.run(Graph((Job("j", steps("a")), Job("k", steps(*names), depends_on=("j",)))))
    await kernel.do(agent, TaskStatus.FAILED)
    run = kernel.load(run_id)
    assert (run.status.value, run.job("k").status.value) == ("failed", "skipped")
    assert len(kernel.told(run_id, entries.STEP_COMPLETED)) == 351
    assert len(kernel.told(run_id, entries.JOB_COMPLETED)) == 2


# -- step runs from the creation of the run -------------------------------------------------------------


async def test_step_runs_are_found_before_they_begin(kernel: Kernel) -> None:
    run_id = await kernel.run(Graph((Job("j", steps("a", "b")), Job("k", steps("c"), depends_on=("j",)))))
    [created] = kernel.told(run_id, entries.RUN_CREATED)
    told = {step["name"]: step["step_run_id"] for job in created["jobs"] for step in job["steps"]}
    shown = {name: kernel.step(run_id, name)["attempts"] for name in ("a", "b", "c")}
    assert {name: attempts[0]["step_run_id"] for name, attempts in shown.items()} == told
    assert [shown[name][0]["status"] for name in "abc"] == ["queued", "pending", "pending"]
    with kernel.database.read() as conn:
        at = find_step_run(conn, told["c"])
        assert at is not None
        assert (at.job.name, at.step.name, at.attempt.status.value) == ("k", "c", "pending")
        parts = find_step_runs(conn, list(told.values()))
        assert sorted(part.job for part in parts) == ["j", "j", "k"]
        assert [part.job for part in find_jobs(conn, [created["jobs"][1]["id"]])] == ["k"]
        assert find_step_run(conn, "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10") is None
        assert find_step_runs(conn, ["nothing", ""]) == []


async def test_the_first_hand_out_keeps_the_id_and_a_skip_ends_it(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(
        Graph((Job("j", (*steps("a"), *steps("b", when="false"))), Job("k", steps("c"), depends_on=("j",))))
    )
    ids = {name: kernel.step(run_id, name)["attempts"][0]["step_run_id"] for name in "abc"}
    assert agent.last.id == ids["a"]
    await kernel.do(agent, TaskStatus.FAILED)
    for name in "bc":
        [attempt] = kernel.step(run_id, name)["attempts"]
        assert (attempt["step_run_id"], attempt["status"]) == (ids[name], "skipped")
        [told] = [b for b in kernel.told(run_id, entries.ATTEMPT_COMPLETED) if b["step"] == name]
        assert (told["step_run_id"], told["status"], told["previous"]) == (ids[name], "skipped", "pending")


async def test_a_step_run_that_ended_with_a_round_is_not_begun_in_the_next(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    spec = """
    jobs:
      - name: j
        retry: {maxAttempts: 2}
        steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]
    """
    run_id = await kernel.run(spec)
    first = kernel.step(run_id, "b")["attempts"][0]["step_run_id"]
    await kernel.do(agent, TaskStatus.FAILED)
    assert kernel.view(run_id)["jobs"][0]["round"] == 2
    kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    await kernel.do(agent)
    assert agent.names == ["a", "b"]
    assert agent.last.id != first
    await kernel.do(agent)
    attempts = [(a["number"], a["status"]) for a in kernel.step(run_id, "b")["attempts"]]
    assert attempts == [(1, "skipped"), (2, "succeeded")]
    assert kernel.view(run_id)["status"] == "succeeded"
