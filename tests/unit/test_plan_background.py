"""Steps that run in the background of their job; case by case."""

from __future__ import annotations

import pytest

from pilothouse.engine.model import JOB_ENDED, Attempt, Status
from pilothouse.pipelines.spec import Retry
from pilothouse.wire import entries
from support.planning import Sim, finish, job, sim, started, step
from support.planning_checks import check_everything

ALWAYS, FAILURE = "always()", "failure()"


def of(run: Sim, name: str) -> Attempt:
    """The current attempt of a step."""
    return run.attempts[run.step(name).current]


def serving(*steps: object, **more: object) -> Sim:
    """A job whose first step has started in the background."""
    return started(job("j", step("db", background=True), *steps, **more))  # type: ignore[arg-type]


def test_the_job_goes_on_once_a_background_step_has_started() -> None:
    run = sim(job("j", step("db", background=True), "a", "b"))
    run.settle()
    [db] = run.queued
    run.offer(db)
    assert run.queued == [], "an offer is no start"
    run.start(db)
    assert finish(run) == ["a", "b"]
    assert run.cancels == [db.id]
    assert run.statuses() == {"j": "running", "db": "running", "a": "succeeded", "b": "succeeded"}
    run.end(db, Status.CANCELLED, "killed")
    assert run.statuses()["db"] == run.statuses()["j"] == "succeeded"
    assert (db.error, db.reason, run.step("db").reason) == ("", JOB_ENDED, JOB_ENDED)
    check_everything(run)


@pytest.mark.parametrize(
    "end", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT, "lost", "gone"]
)
def test_however_it_ends_when_its_job_has_ended_it_succeeds(end: Status | str) -> None:
    run = serving("a", retry=Retry(3), on_lost="rerun")
    finish(run)
    if isinstance(end, Status):
        run.end(of(run, "db"), end, "said so")
    else:
        run.lose(of(run, "db"), gone=end == "gone")
    assert run.statuses() == {"j": "succeeded", "db": "succeeded", "a": "succeeded"}
    check_everything(run)


@pytest.mark.parametrize(
    ("end", "status"), [("ok", "succeeded"), ("fail", "failed"), ("timeout", "timed_out")]
)
def test_one_that_ends_by_itself_ends_as_any_step(end: str, status: str) -> None:
    run = serving("a", "b", step("c", when=ALWAYS))
    ends = {"ok": Status.SUCCEEDED, "fail": Status.FAILED, "timeout": Status.TIMED_OUT}
    a = of(run, "a")
    run.offer(a)
    run.start(a)
    run.end(of(run, "db"), ends[end])
    assert run.statuses()["a"] == "running", "it takes effect at the next step"
    run.end(a, Status.SUCCEEDED)
    assert finish(run) == (["b", "c"] if end == "ok" else ["c"])
    assert run.statuses()["db"] == status
    assert run.statuses()["j"] == ("succeeded" if end == "ok" else "failed")
    check_everything(run)


def test_one_that_fails_may_be_forgiven() -> None:
    run = started(job("j", step("db", background=True, continue_on_error=True), "a"))
    run.end(of(run, "db"), Status.FAILED)
    assert finish(run) == ["a"]
    assert run.statuses()["j"] == "succeeded"


def test_one_that_fails_is_tried_again_beside_what_runs() -> None:
    run = started(job("j", step("db", background=True, retry=Retry(2)), "a", "b"))
    a = of(run, "a")
    run.offer(a)
    run.start(a)
    run.end(of(run, "db"), Status.FAILED)
    assert run.queued == [of(run, "db")]
    run.end(a, Status.SUCCEEDED)
    assert run.statuses()["b"] == "pending", "it may count on it"
    db = of(run, "db")
    run.offer(db)
    run.start(db)
    assert finish(run) == ["b"]
    run.end(db, Status.CANCELLED)
    assert run.tries("db") == ["failed", "succeeded"]
    assert run.statuses()["j"] == "succeeded"
    check_everything(run)


def test_no_try_is_waited_for_when_all_other_steps_are_over() -> None:
    run = started(job("j", step("db", background=True, retry=Retry(2, "1h")), "a"))
    a = of(run, "a")
    run.offer(a)
    run.start(a)
    run.end(of(run, "db"), Status.FAILED)
    run.end(a, Status.SUCCEEDED)
    assert run.run.status is Status.FAILED
    assert run.statuses()["db"] == "failed"
    check_everything(run)


def test_one_that_comes_last_and_never_started_goes_back_to_the_queue() -> None:
    run = sim(job("j", "a", step("db", background=True)))
    run.settle()
    run.do(run.queued[0], "ok")
    run.do(run.queued[0], "refused")
    db = of(run, "db")
    run.offer(db)
    run.start(db)
    assert run.cancels == [db.id]
    run.end(db, Status.CANCELLED)
    assert run.statuses() == {"j": "succeeded", "a": "succeeded", "db": "succeeded"}
    check_everything(run)


def test_a_failure_beside_it_stops_it_too() -> None:
    run = serving("a", "b", step("c", when=FAILURE))
    run.do(of(run, "a"), "fail")
    assert finish(run) == ["c"]
    run.end(of(run, "db"), Status.CANCELLED)
    assert run.statuses() == {
        "j": "failed",
        "db": "succeeded",
        "a": "failed",
        "b": "skipped",
        "c": "succeeded",
    }
    check_everything(run)


def test_a_job_begins_again_only_after_it_has_ended() -> None:
    run = serving("a", retry=Retry(2))
    db = of(run, "db")
    run.do(of(run, "a"), "fail")
    assert run.cancels == [db.id]
    assert run.run.jobs[0].round == 1
    run.end(db, Status.CANCELLED)
    assert run.run.jobs[0].round == 2
    assert [run.place(a)[1].name for a in run.queued] == ["db"]


@pytest.mark.parametrize("lost", ["a", "db"])
def test_a_job_that_is_lost_leaves_nothing_behind(lost: str) -> None:
    run = serving("a", on_lost="rerun")
    a, db = of(run, "a"), of(run, "db")
    run.offer(a)
    run.start(a)
    run.lose(a if lost == "a" else db)
    other = db if lost == "a" else a
    assert run.run.jobs[0].round == 2
    assert other.status is Status.CANCELLED
    assert other.id in run.cancels
    run.end(other, Status.FAILED)
    assert run.run.jobs[0].round == 2, "what it reports counts no more"
    again = of(run, "db")
    run.offer(again)
    run.start(again)
    assert finish(run) == ["a"]
    run.end(again, Status.CANCELLED)
    assert run.run.status is Status.SUCCEEDED
    check_everything(run)


def test_a_job_of_nothing_else_waits_for_them() -> None:
    run = started(job("j", step("x", background=True), step("y", background=True)))
    y = of(run, "y")
    run.offer(y)
    run.start(y)
    assert run.cancels == []
    run.end(of(run, "x"), Status.SUCCEEDED)
    assert run.statuses()["j"] == "running"
    run.end(y, Status.FAILED)
    assert run.statuses() == {"j": "failed", "x": "succeeded", "y": "failed"}
    check_everything(run)


def test_several_are_stopped_together() -> None:
    run = started(job("j", step("x", background=True), step("y", background=True), "a"))
    for name in ("y",):
        run.offer(of(run, name))
        run.start(of(run, name))
    finish(run)
    assert set(run.cancels) == {of(run, "x").id, of(run, "y").id}


@pytest.mark.parametrize("force", [False, True])
def test_a_cancel_stops_them_with_the_rest(force: bool) -> None:
    run = serving("a", step("c", when=ALWAYS))
    a, db = of(run, "a"), of(run, "db")
    run.offer(a)
    run.start(a)
    run.cancel(force=force)
    assert set(run.cancels) == {a.id, db.id}
    run.end(a, Status.CANCELLED)
    assert run.queued == [], "both still use the workspace"
    run.end(db, Status.CANCELLED)
    assert finish(run) == ([] if force else ["c"])
    assert run.statuses()["db"] == "cancelled"
    assert run.run.status is Status.CANCELLED
    check_everything(run)


def test_one_that_cleans_up_lives_on_until_the_rest_has_cleaned_up() -> None:
    run = started(job("j", step("db", background=True, when=ALWAYS), "a", step("c", when=ALWAYS)))
    a, db = of(run, "a"), of(run, "db")
    run.offer(a)
    run.start(a)
    run.cancel()
    assert run.cancels == [a.id]
    run.end(a, Status.CANCELLED)
    assert finish(run) == ["c"]
    assert run.cancels == [a.id, db.id]
    run.end(db, Status.CANCELLED)
    assert run.statuses() == {"j": "cancelled", "db": "succeeded", "a": "cancelled", "c": "succeeded"}
    check_everything(run)


def test_a_timeout_of_the_job_stops_them() -> None:
    run = serving("a", timeout="60s")
    a, db = of(run, "a"), of(run, "db")
    run.wait()
    assert set(run.cancels) == {db.id}
    run.end(db, Status.CANCELLED)
    assert a.status is Status.TIMED_OUT, "it had not started"
    assert run.statuses() == {"j": "timed_out", "db": "timed_out", "a": "timed_out"}
    assert len(run.of(entries.JOB_COMPLETED)) == 1
    check_everything(run)
