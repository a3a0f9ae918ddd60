"""The planner and what is made of its decisions, without I/O: tables, then random graphs with random fates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planning import Sim, job, sim, step

from pilothouse.engine.model import LOST, MAX_LOST_RERUNS, MAX_UNSTARTED, Status
from pilothouse.engine.plan import StartRun, decide, may_retry
from pilothouse.engine.spec import Job as JobSpec
from pilothouse.engine.spec import Retry
from pilothouse.fleet.model import LeaseState
from pilothouse.wire import entries

ALWAYS, FAILURE = "always()", "failure()"


def rerun(name: str, **more: Any) -> Any:
    return step(name, on_lost="rerun", **more)


TABLE = {
    # name: (jobs, outcomes, statuses expected, status of the run)
    "all well": ([job("j", "a", "b")], {}, {"j": "succeeded", "a": "succeeded", "b": "succeeded"}, "succeeded"),
    "no steps at all": ([job("j")], {}, {"j": "succeeded"}, "succeeded"),
    "a failure skips the rest": (
        [job("j", "a", "b", "c")],
        {"a": "fail"},
        {"j": "failed", "a": "failed", "b": "skipped", "c": "skipped"},
        "failed",
    ),
    "a timeout is a failure": ([job("j", "a", "b")], {"a": "timeout"}, {"a": "timed_out", "b": "skipped"}, "failed"),
    "always and failure run after one": (
        [job("j", "a", "b", step("c", when=FAILURE), step("d", when=ALWAYS))],
        {"a": "fail"},
        {"j": "failed", "b": "skipped", "c": "succeeded", "d": "succeeded"},
        "failed",
    ),
    "failure does not run without one": (
        [job("j", "a", step("b", when=FAILURE), "c")],
        {},
        {"j": "succeeded", "b": "skipped", "c": "succeeded"},
        "succeeded",
    ),
    "continue on error": (
        [job("j", step("a", continue_on_error=True), "b")],
        {"a": "fail"},
        {"j": "succeeded", "a": "failed", "b": "succeeded"},
        "succeeded",
    ),
    "continue on error does not hide what follows": (
        [job("j", step("a", continue_on_error=True), "b", "c")],
        {"a": "fail", "b": "fail"},
        {"j": "failed", "c": "skipped"},
        "failed",
    ),
    "continue on error when lost": (
        [job("j", step("a", continue_on_error=True), "b")],
        {"a": "lost"},
        {"j": "succeeded", "a": "failed", "b": "succeeded"},
        "succeeded",
    ),
    "a step cancelled by its agent cancels": (
        [job("j", "a", "b"), job("k", "c", depends_on=("j",))],
        {"a": "cancel"},
        {"j": "cancelled", "a": "cancelled", "b": "skipped", "k": "skipped"},
        "cancelled",
    ),
    "what depends on a failure is skipped": (
        [job("j", "a"), job("k", "b", depends_on=("j",)), job("l", "c", depends_on=("k",)), job("m", "d")],
        {"a": "fail"},
        {"j": "failed", "k": "skipped", "l": "skipped", "b": "skipped", "m": "succeeded"},
        "failed",
    ),
    "a job for the failure of another": (
        [job("j", "a"), job("k", "b", depends_on=("j",), when=FAILURE)],
        {"a": "fail"},
        {"k": "succeeded"},
        "failed",
    ),
    "a false condition is no failure": (
        [job("j", step("a", when="1 > 2"), "b"), job("k", "c", when="false")],
        {},
        {"j": "succeeded", "a": "skipped", "b": "succeeded", "k": "skipped", "c": "skipped"},
        "succeeded",
    ),
    "a condition that cannot be computed fails": (
        [job("j", step("a", when="variables.missing == 1"), "b")],
        {},
        {"j": "failed", "a": "failed", "b": "skipped"},
        "failed",
    ),
    "a job's condition that cannot be computed fails": (
        [job("j", "a", when="variables.missing == 1")],
        {},
        {"j": "failed", "a": "skipped"},
        "failed",
    ),
    "retried until it works": (
        [job("j", step("a", retry=Retry(3)), "b")],
        {"a": "fail timeout ok"},
        {"j": "succeeded", "a": "succeeded"},
        "succeeded",
    ),
    "lost and rerun": ([job("j", rerun("a"))], {"a": "lost gone ok"}, {"a": "succeeded"}, "succeeded"),
    "lost and not rerun": ([job("j", "a", "b")], {"a": "lost"}, {"a": "failed", "b": "skipped"}, "failed"),
    "refused goes back to the queue": ([job("j", "a")], {"a": "refused refused ok"}, {"j": "succeeded"}, "succeeded"),
    "the job starts again": (
        [job("j", "a", "b", retry=Retry(2))],
        {"b": "fail ok"},
        {"j": "succeeded", "a": "succeeded", "b": "succeeded"},
        "succeeded",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_outcomes(name: str) -> None:
    jobs, outcomes, expected, run_status = TABLE[name]
    run = sim(*jobs)
    run.play(**outcomes)
    found = run.statuses()
    assert {key: found[key] for key in expected} == expected
    assert run.run.status.value == run_status
    check_everything(run)


def test_a_run_that_is_over_decides_nothing_and_a_new_one_only_to_start() -> None:
    run = sim(job("j", "a"))
    assert decide(run.run, 0) == [StartRun()]
    run.play()
    assert decide(run.run, 10**15) == []


@pytest.mark.parametrize(("tries", "delay"), [(1, 5000), (2, 5000), (3, None), (4, None)])
def test_max_attempts_counts_all_tries(tries: int, delay: int | None) -> None:
    assert may_retry(Retry(3, "5s"), tries) == delay
    assert may_retry(None, tries) is None


def test_a_retry_waits_its_delay() -> None:
    run = sim(job("j", step("a", retry=Retry(2, "30s"))))
    run.settle()
    began = run.now
    run.do(run.queued[0], "fail")
    assert run.queued == []
    assert run.step("a").status is Status.PENDING
    assert run.of(entries.ATTEMPT_COMPLETED)[0]["retry_at"] == began + 30_000
    run.now = began + 29_999
    run.settle()
    assert run.queued == []
    run.now += 1
    run.settle()
    assert len(run.queued) == 1


def test_a_step_that_is_tried_again_does_not_ask_its_condition_again() -> None:
    run = sim(job("j", "x", step("a", when="step.attempt == 1", retry=Retry(2))))
    run.play(a="fail ok")
    assert run.tries("a") == ["failed", "succeeded"]


def test_every_attempt_is_used_up_and_no_more() -> None:
    run = sim(job("j", step("a", retry=Retry(3))))
    run.play(a="fail " * 10)
    assert run.tries("a") == ["failed"] * 3
    assert [e["final"] for e in run.of(entries.ATTEMPT_COMPLETED)] == [False, False, True]
    check_everything(run)


def test_job_retry_starts_from_the_first_step_in_a_fresh_workspace() -> None:
    run = sim(job("j", "a", step("b", retry=Retry(2)), retry=Retry(3)))
    run.play(b="fail fail fail ok")
    the_job = run.run.jobs[0]
    assert run.tries("a") == ["succeeded", "succeeded"]
    assert run.tries("b") == ["failed", "failed", "failed", "succeeded"], "a round's retries begin anew"
    assert the_job.round == 2
    assert the_job.workspace != the_job.id
    assert [e["round"] for e in run.of(entries.JOB_RESTARTED)] == [2]
    check_everything(run)


def test_a_restarted_job_waits_and_its_steps_have_not_ended() -> None:
    run = sim(job("j", "a", "b", retry=Retry(2, "10s")))
    run.settle()
    run.do(run.queued[0], "ok")
    run.do(run.queued[0], "fail")
    assert run.queued == []
    for name in ("a", "b"):
        assert run.step(name).status is Status.PENDING
        assert run.step(name).finished_at == 0, "a step that is to run again has not finished"
    assert run.wait()
    assert len(run.queued) == 1


def test_lost_reruns_are_bounded_over_all_rounds() -> None:
    run = sim(job("j", rerun("a")))
    run.play(a="lost " * 10)
    assert run.tries("a") == ["failed"] * (1 + MAX_LOST_RERUNS)
    assert run.step("a").reason.startswith(LOST)

    run = sim(job("j", "a", on_lost="rerun"))
    run.play(a="lost " * 10)
    assert run.tries("a") == ["failed"] * (1 + MAX_LOST_RERUNS)


def test_a_job_that_is_lost_starts_again_as_a_whole() -> None:
    run = sim(job("j", "a", "b", on_lost="rerun"))
    run.play(b="gone ok")
    assert run.tries("a") == ["succeeded", "succeeded"]
    assert run.tries("b") == ["failed", "succeeded"]
    assert run.run.status is Status.SUCCEEDED
    check_everything(run)


def test_reruns_for_loss_come_on_top_of_retries() -> None:
    """decisions.md: tried again where onLost says so, at most two more times, *besides* ``retry``."""
    run = sim(job("j", "a", on_lost="rerun", retry=Retry(2)))
    run.play(a="lost fail ok")
    assert run.tries("a") == ["failed", "failed", "succeeded"]
    assert run.run.status is Status.SUCCEEDED


def test_work_that_never_starts_goes_back_but_not_for_ever() -> None:
    run = sim(job("j", "a"))
    run.play(a="refused " * 50)
    assert run.tries("a") == ["failed"] * (1 + MAX_UNSTARTED)
    assert run.run.status is Status.FAILED
    assert run.step("a").reason.startswith(LOST)


def test_unstarted_work_stays_where_its_job_left_its_files() -> None:
    """Nothing was lost of what step a made: step b must not begin in an empty workspace as if it had been."""
    run = sim(job("j", "a", "b"))
    run.settle()
    run.do(run.queued[0], "ok")
    before = (run.run.jobs[0].workspace, run.run.jobs[0].agent_id)
    attempt = run.queued[0]
    run.offer(attempt)
    run.lose(attempt, gone=True)
    assert len(run.queued) == 1, "it never started, so it goes back to the queue"
    assert (run.run.jobs[0].workspace, run.run.jobs[0].agent_id) == before


def test_a_job_timeout_stops_what_runs_and_ends_the_rest() -> None:
    run = sim(job("j", "a", "b", timeout="60s"), job("k", "c", depends_on=("j",)))
    run.settle()
    attempt = run.queued[0]
    run.offer(attempt)
    run.start(attempt)
    run.now += 60_000
    run.settle()
    assert run.cancels == [attempt.id]
    assert run.step("a").status is Status.RUNNING, "it runs until its agent says otherwise"
    run.end(attempt, Status.CANCELLED)
    found = run.statuses()
    assert (found["j"], found["a"], found["b"], found["k"]) == ("timed_out", "timed_out", "skipped", "skipped")
    assert "timeout of 60s" in run.run.jobs[0].reason
    assert run.run.status is Status.FAILED


@pytest.mark.parametrize("offered", [False, True])
def test_a_job_timeout_ends_what_only_waits_at_once(offered: bool) -> None:
    run = sim(job("j", "a", timeout="60s"))
    run.settle()
    if offered:
        run.offer(run.queued[0])
    assert run.wait()
    assert run.run.status is Status.FAILED
    assert run.leases == {}
    assert run.statuses() == {"j": "timed_out", "a": "timed_out"}


@pytest.mark.parametrize("end", ["report", "lost", "success"])
def test_cancelling_waits_for_what_runs(end: str) -> None:
    run = sim(job("j", "a", "b"), job("k", "c"), job("l", "d", depends_on=("j",), when=ALWAYS))
    run.settle()
    attempt = run.queued[0]
    run.offer(attempt)
    run.start(attempt)
    run.cancel("enough")
    found = run.statuses()
    assert (found["k"], found["c"], found["l"], found["d"]) == ("cancelled",) * 4
    assert not run.run.status.over
    run.settle()
    assert run.cancels == [attempt.id], "told once"
    if end == "lost":
        run.lose(attempt, gone=True)
    else:
        run.end(attempt, Status.SUCCEEDED if end == "success" else Status.FAILED)
    assert run.run.status is Status.CANCELLED
    assert run.run.reason == "enough"
    assert run.statuses()["a"] == ("succeeded" if end == "success" else "cancelled")
    assert run.statuses()["b"] == "cancelled"
    check_everything(run)


def test_no_retry_while_cancelling() -> None:
    run = sim(job("j", step("a", retry=Retry(5), on_lost="rerun"), retry=Retry(5)))
    run.settle()
    attempt = run.queued[0]
    run.offer(attempt)
    run.start(attempt)
    run.cancel()
    run.end(attempt, Status.FAILED, "killed")
    assert run.tries("a") == ["cancelled"]
    assert run.run.status is Status.CANCELLED


def test_cancelling_in_the_pause_before_a_retry() -> None:
    run = sim(job("j", step("a", retry=Retry(2, "1h"))), job("k", "b", retry=Retry(2, "1h")))
    run.settle()
    for attempt in run.queued:
        run.do(attempt, "fail")
    run.cancel()
    assert run.run.status is Status.CANCELLED
    check_everything(run)


# -- random graphs, random fates --------------------------------------------------------------------------

_retries = st.one_of(st.none(), st.builds(Retry, st.integers(1, 3), st.sampled_from(["", "1s", "1m"])))
_whens = st.sampled_from(["", "", "", ALWAYS, FAILURE, "success()", "false", "variables.missing", "step.attempt < 3"])
_lost = st.sampled_from(["fail", "rerun"])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[JobSpec, ...]:
    jobs = []
    for number in range(draw(st.integers(1, 4))):
        before = [f"j{n}" for n in range(number)]
        needs = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        on_lost = draw(_lost)
        steps = [
            step(
                f"j{number}s{index}",
                when=draw(_whens),
                continue_on_error=draw(st.booleans()),
                retry=draw(_retries),
                on_lost=draw(st.sampled_from([on_lost, "rerun"])),
            )
            for index in range(draw(st.integers(0, 3)))
        ]
        more = {"retry": draw(_retries), "timeout": draw(st.sampled_from(["", "30s"])), "on_lost": on_lost}
        when = draw(st.sampled_from(["", "", ALWAYS, FAILURE, "false"]))
        jobs.append(job(f"j{number}", *steps, depends_on=tuple(needs), when=when, **more))
    return tuple(jobs)


@settings(max_examples=250, deadline=None)
@given(graphs(), st.data())
def test_every_run_ends_and_nothing_is_left(jobs: tuple[JobSpec, ...], data: st.DataObject) -> None:
    run = sim(*jobs)
    run.settle()
    for _ in range(5000):
        if run.run.status.over:
            break
        act(run, data)
    check_everything(run)


def act(run: Sim, data: st.DataObject) -> None:
    """Something happens, as the hypothesis has it."""
    choices = ["queued"] * bool(run.queued) + ["out"] * bool(run.out)
    assert choices or run.wait(), f"nobody will ever wake this run: {run.statuses()}"
    if not choices:
        return
    kind = data.draw(st.sampled_from([*choices, "time", "cancel"] if not run.run.cancelling else [*choices, "time"]))
    if kind == "cancel":
        if data.draw(st.integers(0, 9)) == 0:
            run.cancel()
    elif kind == "time":
        run.now += data.draw(st.sampled_from([1, 500, 31_000]))
        run.settle()
    elif kind == "queued":
        run.offer(data.draw(st.sampled_from(run.queued)))
    else:
        attempt = data.draw(st.sampled_from(run.out))
        if run.leases[attempt.id] is LeaseState.OFFERED and data.draw(st.booleans()):
            run.start(attempt)
        elif data.draw(st.integers(0, 3)) == 0 or run.leases[attempt.id] is LeaseState.OFFERED:
            run.lose(attempt, gone=data.draw(st.booleans()))
        else:
            ends = [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED, Status.SKIPPED]
            run.end(attempt, data.draw(st.sampled_from(ends)))


def check_everything(run: Sim) -> None:
    """What must hold of every run that has ended."""
    assert run.run.status.over
    assert run.leases == {}
    assert run.queued == []
    assert all(attempt.status.over for attempt in run.attempts.values())
    for a_job in run.run.jobs:
        assert a_job.status.over
        assert all(one.status.over and not one.current for one in a_job.steps)
        check_job(run, a_job)
    check_run(run)
    check_order(run)
    check_previous(run)


def check_run(run: Sim) -> None:
    told = run.of(entries.RUN_COMPLETED)
    assert len(told) == 1
    assert run.told[-1].type == entries.RUN_COMPLETED
    statuses = {a_job.status for a_job in run.run.jobs}
    if run.run.cancelling:
        assert run.run.status is Status.CANCELLED
    elif statuses & {Status.FAILED, Status.TIMED_OUT}:
        assert run.run.status is Status.FAILED
    elif Status.CANCELLED in statuses:
        assert run.run.status is Status.CANCELLED
    else:
        assert run.run.status is Status.SUCCEEDED
    assert told[0]["counts"]["completed"] == told[0]["counts"]["total"] == len(run.run.jobs)


def check_job(run: Sim, a_job: Any) -> None:
    spec = run.run.job_spec(a_job)
    rounds = spec.retry.max_attempts if spec.retry else 1
    assert a_job.round <= rounds + MAX_LOST_RERUNS
    for one in a_job.steps:
        of_step = run.run.step_spec(a_job, one)
        tries = [a for a in run.attempts.values() if a.step_id == one.id]
        failed = [a for a in tries if a.status.bad and not a.error.startswith(LOST)]
        limit = of_step.retry.max_attempts if of_step.retry else 1
        assert len(failed) <= limit * a_job.round
        assert [a.number for a in tries] == list(range(1, len(tries) + 1))
        if of_step.on_lost == spec.on_lost == "fail":
            lost = [a for a in tries if a.started_at and a.error.startswith(LOST)]
            assert len(lost) <= 1
        if one.status is Status.SUCCEEDED:
            assert tries[-1].status is Status.SUCCEEDED
        if a_job.status is Status.SUCCEEDED and not of_step.continue_on_error:
            assert one.status in (Status.SUCCEEDED, Status.SKIPPED)


def check_order(run: Sim) -> None:
    """Jobs start after what they need, steps one after another, and nothing happens to what is over."""
    over: set[str] = set()
    started: set[str] = set()
    for told in run.told:
        name = told.body.get("job")
        if name is None:
            continue
        needs = run.run.job_spec(run.run.job(name)).depends_on
        assert name not in over, f"{told.type} after the end of the job"
        if told.type == entries.JOB_STARTED:
            assert set(needs) <= over
            assert name not in started
            started.add(name)
        elif told.type == entries.JOB_COMPLETED:
            over.add(name)
        elif told.type == entries.JOB_RESTARTED:
            over -= {key for key in over if key.startswith(f"{name}/")}
        elif told.type == entries.STEP_QUEUED:
            assert name in started
            earlier = [s.name for s in run.run.job(name).steps[: told.body["index"]]]
            assert all(f"{name}/{other}" in over for other in earlier)
            assert f"{name}/{told.body['step']}" not in over
        elif told.type == entries.STEP_COMPLETED:
            assert f"{name}/{told.body['step']}" not in over
            over.add(f"{name}/{told.body['step']}")


def check_previous(run: Sim) -> None:
    """``previous`` is always the status that was told before (or the first)."""
    after = {
        entries.RUN_STARTED: "running",
        entries.JOB_STARTED: "running",
        entries.STEP_QUEUED: "queued",
        entries.STEP_STARTED: "running",
    }
    now: dict[tuple[str, str], str] = {}
    for told in run.told:
        key = (told.body.get("job", ""), told.body.get("step", ""))
        if told.type == entries.JOB_RESTARTED:
            now = {k: v for k, v in now.items() if k[0] != key[0] or not k[1]}
        elif told.type == entries.ATTEMPT_COMPLETED:
            if not told.body["final"]:
                now[key] = "pending"
        elif "previous" in told.body:
            assert told.body["previous"] == now.get(key, "pending"), told
            now[key] = str(after.get(told.type) or told.body["status"])
