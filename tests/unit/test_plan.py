"""The planner and what is made of its decisions, without I/O: case by case."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.engine import graph
from pilothouse.engine.decisions import StartRun
from pilothouse.engine.model import LOST, MAX_LOST_RERUNS, MAX_UNSTARTED, Status
from pilothouse.engine.plan import may_retry
from pilothouse.pipelines.spec import Retry
from pilothouse.wire import entries
from support.planning import decide, job, sim, started, step
from support.planning_checks import check_everything

ALWAYS, FAILURE = "always()", "failure()"


def rerun(name: str, **more: Any) -> Any:
    return step(name, on_lost="rerun", **more)


def test_a_lost_step_of_a_paused_run_waits() -> None:
    run = started(job("j", rerun("a")))
    run.pause()
    run.lose(run.out[0])
    a = run.step("a")
    assert (a.status, a.current, a.not_before, a.reason) == (Status.PENDING, "", 1, f"{LOST}it burnt")
    run.resume()
    assert (a.status, a.not_before) == (Status.QUEUED, 0)


def test_a_workspace_is_lost_once_with_all_that_its_agent_ran() -> None:
    run = sim(job("j", rerun("db", background=True), rerun("a")))
    run.settle()
    run.do(run.queued[0], "lost")
    for _ in range(2):
        attempt = run.queued[0]
        run.offer(attempt)
        run.start(attempt)
    [j] = run.run.jobs
    db, a = sorted(run.out, key=lambda attempt: -attempt.number)
    assert [run.place(attempt)[1].name for attempt in (db, a)] == ["db", "a"]
    run.pause()
    run.lose(db, gone=True)
    assert (j.workspace, j.agent_id, j.fresh) == (f"{j.id}-1.2", "", True)
    run.lose(a, gone=True)
    assert (j.workspace, j.agent_id, j.fresh) == (f"{j.id}-1.2", "", True)


TABLE = {
    # name: (jobs, outcomes, statuses expected, status of the run)
    "all well": (
        [job("j", "a", "b")],
        {},
        {"j": "succeeded", "a": "succeeded", "b": "succeeded"},
        "succeeded",
    ),
    "no steps at all": ([job("j")], {}, {"j": "succeeded"}, "succeeded"),
    "a failure skips the rest": (
        [job("j", "a", "b", "c")],
        {"a": "fail"},
        {"j": "failed", "a": "failed", "b": "skipped", "c": "skipped"},
        "failed",
    ),
    "a timeout is a failure": (
        [job("j", "a", "b")],
        {"a": "timeout"},
        {"a": "timed_out", "b": "skipped"},
        "failed",
    ),
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
    "refused goes back to the queue": (
        [job("j", "a")],
        {"a": "refused refused ok"},
        {"j": "succeeded"},
        "succeeded",
    ),
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
    assert may_retry(graph.Retry(3, 5.0), tries) == delay
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
    assert (found["j"], found["a"], found["b"], found["k"]) == (
        "timed_out",
        "timed_out",
        "skipped",
        "skipped",
    )
    assert "timeout of 1m" in run.run.jobs[0].reason
    assert run.run.status is Status.FAILED


@pytest.mark.parametrize("offered", [False, True])
def test_a_job_timeout_ends_what_only_waits_at_once(offered: bool) -> None:
    run = sim(job("j", "a", "b", timeout="60s"))
    run.settle()
    run.do(run.queued[0], "ok")
    if offered:
        run.offer(run.queued[0])
    assert run.wait()
    assert run.run.status is Status.FAILED
    assert run.leases == {}
    assert run.statuses() == {"j": "timed_out", "a": "succeeded", "b": "timed_out"}


@pytest.mark.parametrize("end", ["report", "lost", "success"])
def test_cancelling_waits_for_what_runs(end: str) -> None:
    run = sim(job("j", "a", "b"), job("k", "c"), job("l", "d", depends_on=("j",), when=FAILURE))
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


def test_the_reason_of_a_run_names_a_few_of_many_failed_jobs() -> None:
    run = sim(*(job(f"j{n}", f"s{n}") for n in range(30)))
    run.play(**{f"s{n}": "fail" for n in range(30)})
    names = ", ".join(f"j{n}" for n in range(20))
    assert run.run.reason == f"failed: {names} and 10 more"
