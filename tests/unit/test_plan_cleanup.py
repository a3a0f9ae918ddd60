"""What still runs after a cancel and after a job's timeout, and how long; case by case."""

from __future__ import annotations

import pytest

from pilothouse.engine.model import Status
from pilothouse.engine.transitions import MAX_CHANGES
from pilothouse.pipelines.spec import Retry
from pilothouse.wire import entries
from support.planning import GRACE, decide, finish, job, sim, started, step
from support.planning_checks import check_everything

ALWAYS, FAILURE, CANCELLED = "always()", "failure()", "cancelled()"


# -- after a cancel ---------------------------------------------------------------------------------------

WHENS = {
    # when: whether such a step runs after a cancel
    "": False,
    "success()": False,
    "failure()": False,
    "!failure()": False,
    "true": False,
    "run.kind == 'pipeline'": False,
    ALWAYS: True,
    CANCELLED: True,
    "${{ always() }}": True,
    "failure() || cancelled()": True,
    "!cancelled()": False,
    "always() && success()": False,
    "always() && !success() && !failure()": True,
    "always() && run.kind == 'pipeline'": True,
    "always() && jobs.j.steps.a.status == 'cancelled'": True,
}


@pytest.mark.parametrize("when", WHENS)
def test_which_steps_run_after_a_cancel(when: str) -> None:
    run = started(job("j", "a", step("c", when=when), "z"))
    run.cancel("enough")
    run.end(run.out[0], Status.FAILED, "killed")
    assert finish(run) == (["c"] if WHENS[when] else [])
    expected = {"j": "cancelled", "a": "cancelled", "c": "succeeded" if WHENS[when] else "cancelled"}
    assert run.statuses() == {**expected, "z": "cancelled"}
    assert (run.run.status, run.run.reason) == (Status.CANCELLED, "enough")
    check_everything(run)


@pytest.mark.parametrize("when", WHENS)
def test_which_jobs_run_after_a_cancel(when: str) -> None:
    when = when.replace("jobs.j.steps.a.status", "jobs.j.status")
    run = started(job("j", "a"), job("k", "b", "c", depends_on=("j",), when=when))
    run.cancel()
    wanted = WHENS.get(when, True)
    run.end(run.out[0], Status.FAILED, "killed")
    assert finish(run) == (["b", "c"] if wanted else []), "its own steps need no condition"
    assert run.statuses()["k"] == ("succeeded" if wanted else "cancelled")
    assert run.run.status is Status.CANCELLED
    check_everything(run)


def test_a_job_that_does_not_clean_up_ends_at_once() -> None:
    run = started(
        job("j", "a"), job("k", "b", depends_on=("j",)), job("l", "c", depends_on=("k",), when=ALWAYS)
    )
    run.cancel()
    found = run.statuses()
    assert {name: found[name] for name in "jkl"} == {"j": "running", "k": "cancelled", "l": "running"}
    run.end(run.out[0], Status.CANCELLED)
    assert finish(run) == ["c"]
    check_everything(run)


def test_what_runs_ends_before_what_cleans_up_begins() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)))
    [running] = run.out
    run.cancel()
    assert run.cancels == [running.id]
    assert run.queued == [], "they share a workspace"
    run.end(running, Status.CANCELLED)
    assert [run.place(a)[1].name for a in run.queued] == ["b"]


@pytest.mark.parametrize("where", ["step", "job"])
def test_what_cleans_up_already_is_not_stopped(where: str) -> None:
    if where == "step":
        run = started(job("j", step("a", when=ALWAYS), "b"))
    else:
        run = started(job("j", "a", "b", when=ALWAYS))
    [running] = run.out
    run.cancel()
    assert run.cancels == []
    run.end(running, Status.SUCCEEDED)
    assert finish(run) == (["b"] if where == "job" else [])
    assert run.run.status is Status.CANCELLED
    check_everything(run)


def test_a_job_that_has_not_begun_has_nothing_to_clean_up() -> None:
    """Else a run that waits for an agent could not be cancelled without waiting for that agent."""
    run = sim(job("j", "a", step("b", when=ALWAYS)))
    run.settle()
    run.cancel("enough")
    assert run.run.status is Status.CANCELLED
    assert run.statuses() == {"j": "cancelled", "a": "cancelled", "b": "cancelled"}


def test_a_job_between_two_tries_cleans_up() -> None:
    run = sim(job("j", step("a", retry=Retry(2, "1h")), step("b", when=CANCELLED)))
    run.settle()
    run.do(run.queued[0], "fail")
    run.cancel()
    assert finish(run) == ["b"]
    assert run.tries("a") == ["failed"], "no try after a cancel"
    assert run.statuses()["a"] == "cancelled"
    check_everything(run)


@pytest.mark.parametrize(("delay", "tries"), [("", 3), ("10s", 3), ("10m", 1)])
def test_what_cleans_up_is_tried_again_within_its_time(delay: str, tries: int) -> None:
    run = started(job("j", "a", step("b", when=ALWAYS, retry=Retry(3, delay))))
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    while not run.run.status.over:
        finish(run, "fail")
        run.wait()
    assert run.run.status is Status.CANCELLED
    assert run.tries("b") == ["failed"] * tries
    assert run.now < run.run.cleanup_until
    check_everything(run)


def test_a_job_is_not_begun_again_after_a_cancel() -> None:
    run = started(job("j", "a"), job("k", "b", depends_on=("j",), when=ALWAYS, retry=Retry(5)))
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    assert finish(run, "fail") == ["b"]
    assert run.statuses()["k"] == "failed"
    assert run.run.status is Status.CANCELLED, "whatever becomes of what cleans up"


@pytest.mark.parametrize("stage", ["stopping", "queued", "offered", "running"])
def test_the_time_for_cleaning_up_ends(stage: str) -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)), job("k", "c", depends_on=("j",), when=ALWAYS))
    run.cancel("enough")
    until = run.now + GRACE
    assert run.run.cleanup_until == until
    if stage != "stopping":
        run.end(run.out[0], Status.CANCELLED)
        [attempt] = run.queued
        if stage != "queued":
            run.offer(attempt)
        if stage == "running":
            run.start(attempt)
    run.now = until - 1
    run.settle()
    assert run.statuses()["k"] == "pending"
    run.now = until
    run.settle()
    for attempt in run.out:
        assert attempt.id in run.cancels
        run.end(attempt, Status.FAILED, "killed")
    assert (run.run.status, run.run.reason) == (Status.CANCELLED, "enough")
    assert run.statuses() == {"j": "cancelled", "k": "cancelled", "c": "cancelled"} | {
        "a": "cancelled",
        "b": "cancelled",
    }
    check_everything(run)


def test_a_second_cancel_forces_only_if_requested() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)))
    run.cancel("enough")
    run.end(run.out[0], Status.CANCELLED)
    [attempt] = run.queued
    run.offer(attempt)
    run.start(attempt)
    run.cancel("now", force=True)
    assert attempt.id in run.cancels
    assert decide(run.run, run.now) == [], "its agent has yet to say so"
    run.end(attempt, Status.CANCELLED)
    assert (run.run.status, run.run.reason) == (Status.CANCELLED, "enough")
    assert [(e["force"], bool(e["until"])) for e in run.of(entries.RUN_CANCELLING)] == [
        (False, True),
        (True, False),
    ]
    check_everything(run)


def test_a_forced_cancel_runs_nothing() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)), job("k", "c", depends_on=("j",), when=ALWAYS))
    run.cancel(force=True)
    run.end(run.out[0], Status.CANCELLED)
    assert run.queued == []
    assert run.run.status is Status.CANCELLED
    check_everything(run)


def test_without_time_for_cleaning_up_nothing_does() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)))
    run.grace(0)
    run.cancel("enough")
    run.end(run.out[0], Status.CANCELLED)
    assert run.run.status is Status.CANCELLED
    assert run.step("a").reason == "enough"
    check_everything(run)


def test_cleanup_of_a_job_that_is_stopped_later_ends_with_that_of_the_run() -> None:
    """What a cancel does to jobs may take several transactions."""
    run = started(job("j", "a", step("b", when=ALWAYS)))
    with run._store() as tx:
        run._transitions.cancel(tx, run.run, "enough", force=False, by="alice", by_id="u1")
    run.advance(run.now + 1000)
    run.settle()
    assert run.run.jobs[0].cleanup_until == run.run.cleanup_until == run.now - 1000 + GRACE


def test_a_cancel_under_way_in_an_older_release_ends_as_it_began() -> None:
    """Its run has no time for cleaning up."""
    run = started(job("j", "a", step("b", when=ALWAYS)))
    run.run.cancel_reason = "enough"
    run.rows.note(run.run)
    run.settle()
    run.end(run.out[0], Status.CANCELLED)
    assert run.run.status is Status.CANCELLED
    assert run.queued == []


def test_a_result_that_crosses_the_cancel_counts() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)))
    run.cancel()
    run.end(run.out[0], Status.SUCCEEDED)
    assert finish(run) == ["b"]
    assert run.statuses() == {"j": "cancelled", "a": "succeeded", "b": "succeeded"}
    assert run.run.status is Status.CANCELLED


@pytest.mark.parametrize("gone", [False, True])
def test_a_lost_agent_does_not_hold_up_the_cancel(gone: bool) -> None:
    run = started(job("j", "a", step("b", when=ALWAYS), step("c", when=ALWAYS), on_lost="rerun"))
    run.cancel()
    run.lose(run.out[0], gone=gone)
    assert run.tries("a") == ["cancelled"]
    assert finish(run, "lost") == ["b", "c"], "lost work that cleans up does not begin the job again"
    assert run.run.status is Status.CANCELLED
    check_everything(run)


def test_work_that_cleans_up_and_never_started_goes_back_to_the_queue() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS)))
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    run.do(run.queued[0], "refused")
    assert finish(run) == ["b"]


def test_a_condition_that_cannot_be_computed_does_not_hold_up_the_cancel() -> None:
    bad = "always() && variables.missing == 1"
    run = started(job("j", "a", step("b", when=bad)), job("k", "c", depends_on=("j",), when=bad))
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    assert run.statuses() == {
        "j": "cancelled",
        "a": "cancelled",
        "b": "failed",
        "k": "failed",
        "c": "skipped",
    }
    assert run.run.status is Status.CANCELLED


def test_a_thousand_steps_are_cancelled_in_few_decisions() -> None:
    run = started(job("j", *(f"s{n}" for n in range(1000))))
    run.cancel()
    before = run.planned
    run.end(run.out[0], Status.CANCELLED)
    assert run.run.status is Status.CANCELLED
    assert run.planned - before < 10 + 1000 / MAX_CHANGES, "not one plan for each step"


# -- after a job's timeout --------------------------------------------------------------------------------


def test_after_a_timeout_what_follows_a_failure_runs() -> None:
    run = started(
        job(
            "j",
            step("a", continue_on_error=True),
            "b",
            step("c", when=FAILURE),
            step("d", when=CANCELLED),
            step("e", when=ALWAYS),
            step("f", when="success()"),
            timeout="60s",
        ),
        job("k", "x", depends_on=("j",), when=FAILURE),
        job("l", "y", depends_on=("j",), when=ALWAYS),
        job("m", "z", depends_on=("j",)),
    )
    began = run.now
    assert run.wait()
    assert run.now == began + 60_000
    run.end(run.out[0], Status.CANCELLED)
    assert finish(run) == ["c", "e", "x", "y"]
    assert run.statuses() == {
        **{"j": "timed_out", "a": "timed_out", "b": "skipped", "c": "succeeded", "d": "skipped"},
        **{"e": "succeeded", "f": "skipped", "k": "succeeded", "x": "succeeded"},
        **{"l": "succeeded", "y": "succeeded", "m": "skipped", "z": "skipped"},
    }
    assert run.run.jobs[0].reason == "the job ran longer than its timeout of 1m"
    assert run.run.status is Status.FAILED
    check_everything(run)


def test_a_timeout_stops_what_runs_whatever_its_condition() -> None:
    run = started(job("j", step("a", when=ALWAYS), step("b", when=ALWAYS), timeout="60s"))
    [running] = run.out
    run.wait()
    assert run.cancels == [running.id]
    run.end(running, Status.FAILED)
    assert run.statuses()["a"] == "timed_out"
    assert finish(run) == ["b"]


def test_the_time_after_a_timeout_ends_too() -> None:
    run = started(job("j", "a", step("b", when=ALWAYS), step("c", when=ALWAYS), timeout="60s"))
    run.wait()
    run.end(run.out[0], Status.CANCELLED)
    [attempt] = run.queued
    run.offer(attempt)
    run.start(attempt)
    began = run.now
    assert run.wait()
    assert run.now == began + GRACE
    assert attempt.id in run.cancels
    run.end(attempt, Status.FAILED)
    assert run.statuses() == {"j": "timed_out", "a": "timed_out", "b": "cancelled", "c": "skipped"}
    check_everything(run)


def test_a_cancel_while_a_job_cleans_up_after_its_timeout() -> None:
    run = started(job("j", "a", step("b", when=FAILURE), step("c", when=CANCELLED), timeout="60s"))
    run.wait()
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    assert finish(run) == ["b", "c"]
    assert run.statuses()["j"] == "timed_out"
    assert run.run.status is Status.CANCELLED
    check_everything(run)


def test_a_timeout_while_a_job_cleans_up_after_a_cancel() -> None:
    run = started(job("k", "a"), job("j", "b", step("c", when=ALWAYS), when=ALWAYS, timeout="60s"))
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    run.now += 60_000
    run.settle()
    run.end(run.out[0], Status.CANCELLED)
    assert finish(run) == ["c"]
    assert run.statuses()["j"] == "timed_out"
    assert run.run.status is Status.CANCELLED
    check_everything(run)
