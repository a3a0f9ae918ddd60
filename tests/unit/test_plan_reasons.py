"""Why a job or step did not run or did not succeed, in the words that people read; each reason as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.engine import cleanup, plan
from pilothouse.engine.model import JOB_ENDED, Status
from pilothouse.pipelines.spec import Retry
from pilothouse.wire import entries
from support.planning import GRACE, Sim, finish, job, sim, started, step

ALWAYS = "always()"


def reasons(run: Sim) -> dict[str, str]:
    """Of jobs and steps, by name."""
    found = {job.name: job.reason for job in run.run.jobs}
    return found | {step.name: step.reason for job in run.run.jobs for step in job.steps}


@pytest.mark.parametrize(
    ("word", "said"), [("fail", "a failed"), ("timeout", "a timed out"), ("cancel", "said cancel")]
)
def test_what_a_step_did_to_the_others(word: str, said: str) -> None:
    run = sim(job("j", "a", "b"), job("k", "c", depends_on=("j",)))
    run.play(a=word)
    ended = {"fail": "j failed", "timeout": "j failed", "cancel": "j was cancelled"}[word]
    beside = "a was cancelled" if word == "cancel" else said
    assert reasons(run) == {"j": said, "a": f"said {word}", "b": beside, "k": ended, "c": ended}


def test_a_job_that_was_skipped_or_timed_out_is_a_reason() -> None:
    run = sim(
        job("j", "a", when="1 > 2"),
        job("k", "b", depends_on=("j",)),
        job("l", "c", queue_timeout="1m"),
        job("m", "d", depends_on=("l",)),
    )
    run.settle()
    run.advance(run.now + 60_000)
    run.settle()
    found = reasons(run)
    assert found["j"] == "when is false: 1 > 2"
    assert (found["k"], found["m"]) == ("j was skipped", "l timed out")


def test_a_condition_that_is_false_is_shown() -> None:
    run = sim(job("j", step("a", when="1 > 2"), "b", step("c", when="failure()")))
    run.play()
    assert reasons(run) == {
        "j": "",
        "a": "when is false: 1 > 2",
        "b": "",
        "c": "when is false: failure()",
    }


def test_what_is_skipped_after_a_failure_names_it() -> None:
    run = sim(job("j", "a", step("b", when="success()"), step("c", when="1 > 2")))
    run.play(a="timeout")
    assert {name: reasons(run)[name] for name in "bc"} == {"b": "a timed out", "c": "a timed out"}


def test_steps_that_do_not_clean_up_say_why() -> None:
    run = started(job("j", "a", "b", step("c", when=ALWAYS), "d", timeout="1m"))
    why = "the job ran longer than its timeout of 1m"
    run.advance(run.now + 60_000)
    run.settle()
    run.end(run.out[0], Status.TIMED_OUT, why)
    assert finish(run) == ["c"]
    assert reasons(run) == {"j": why, "a": why, "b": why, "c": "", "d": why}


@pytest.mark.parametrize("running", [True, False])
def test_cleanup_that_takes_too_long_after_a_timeout_says_so(running: bool) -> None:
    run = started(job("j", "a", step("c", when=ALWAYS), timeout="1m"))
    run.advance(run.now + 60_000)
    run.settle()
    why = "the job ran longer than its timeout of 1m"
    assert [step.reason for step in run.run.jobs[0].steps if step.stopping] == [why]
    run.end(run.out[0], Status.TIMED_OUT, why)
    if running:
        run.offer(run.queued[0])
        run.start(next(a for a in run.attempts.values() if a.status is Status.QUEUED))
    run.advance(run.run.jobs[0].cleanup_until)
    run.settle()
    too_long = "the time limit of cleanup after the job's timeout has passed"
    if running:
        assert run.step("c").reason == too_long
        run.end(run.out[0], Status.CANCELLED, too_long)
    assert run.step("c").reason == too_long
    assert (run.run.jobs[0].status, run.run.jobs[0].reason) == (Status.TIMED_OUT, why)


@pytest.mark.parametrize(
    ("force", "said"), [(True, "enough"), (False, "enough; the time limit of cleanup has passed")]
)
def test_cleanup_that_is_ended_after_a_cancel_says_so(force: bool, said: str) -> None:
    run = started(job("j", "a", step("c", when=ALWAYS)))
    run.cancel("enough")
    run.end(run.out[0], Status.CANCELLED, "enough")
    run.offer(run.queued[0])
    run.start(next(a for a in run.attempts.values() if a.status is Status.QUEUED))
    if force:
        run.cancel("enough", force=True)
    else:
        run.advance(run.now + GRACE)
        run.settle()
    assert run.step("c").reason == said
    run.end(run.out[0], Status.CANCELLED, said)
    assert (run.run.jobs[0].status, run.run.jobs[0].reason) == (Status.CANCELLED, "enough")


def test_a_job_that_timed_out_before_a_forced_cancel_still_did() -> None:
    run = started(job("j", "a", step("c", when=ALWAYS), timeout="1m"))
    run.advance(run.now + 60_000)
    run.settle()
    run.cancel("enough", force=True)
    run.end(run.out[0], Status.TIMED_OUT)
    why = "the job ran longer than its timeout of 1m"
    assert (run.run.jobs[0].status, run.run.jobs[0].reason) == (Status.TIMED_OUT, why)
    assert run.run.status is Status.CANCELLED


def test_a_background_step_ends_because_its_job_has() -> None:
    run = started(job("j", step("db", background=True), "a"))
    assert finish(run) == ["a"]
    [db] = run.out
    assert (db.status, run.step("db").reason) == (Status.RUNNING, JOB_ENDED)


# -- time limits of cleanup, to the millisecond -----------------------------------------------------------


def test_nothing_is_tried_again_at_the_time_limit_of_cleanup() -> None:
    run = started(job("j", "a"))
    run.cancel("enough")
    [j], limit = run.run.jobs, run.run.cleanup_until
    assert cleanup.limit(run.run, j) == limit
    assert plan._in_time(run.run, j, limit - 1)
    assert not plan._in_time(run.run, j, limit)
    run.cancel("enough", force=True)
    assert cleanup.limit(run.run, j) == 0, "at once, and before any time there is"
    assert not plan._in_time(run.run, j, 0)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_job_that_cleans_up_does_not_start_again_for_a_lost_agent(how: str) -> None:
    more: dict[str, Any] = {"timeout": "1m"} if how == "timeout" else {}
    run = started(job("j", "a", step("c", when=ALWAYS), on_lost="rerun", **more))
    if how == "cancel":
        run.cancel()
    else:
        run.advance(run.now + 60_000)
        run.settle()
    run.end(run.out[0], Status.CANCELLED)
    assert finish(run, "lost") == ["c"]
    assert run.run.jobs[0].round == 1


def test_cleanup_after_a_timeout_has_its_own_limit_which_stands_still_in_a_pause() -> None:
    run = started(job("j", "a", step("c", when=ALWAYS), timeout="1m"))
    [j] = run.run.jobs
    assert cleanup.limit(run.run, j) is None
    run.advance(run.now + 60_000)
    run.settle()
    assert cleanup.limit(run.run, j) == j.cleanup_until == run.now + GRACE
    run.pause()
    assert cleanup.limit(run.run, j) is None
    run.resume()
    run.advance(run.now + 1000)
    run.cancel("enough")
    assert cleanup.limit(run.run, j) == j.cleanup_until < run.run.cleanup_until, "the earlier of the two"


# -- of a cancel, and of the run --------------------------------------------------------------------------


def test_a_cancel_is_the_reason_of_all_that_it_ends() -> None:
    run = started(job("j", "a", "b"), job("k", "c", depends_on=("j",)))
    run.cancel("enough")
    assert (run.step("a").stopping, run.step("a").reason) == (Status.CANCELLED, "enough")
    run.end(run.out[0], Status.CANCELLED, "enough")
    assert set(reasons(run).values()) == {"enough"}
    assert run.run.reason == "enough"


def test_a_cancel_is_the_reason_of_a_job_that_still_waits_for_an_agent() -> None:
    run = sim(job("j", "a", "b"))
    run.settle()
    run.cancel("enough")
    assert [attempt.reason or attempt.error for attempt in run.attempts.values()] == ["enough"]
    assert reasons(run) == {"j": "enough", "a": "enough", "b": "enough"}


def test_a_run_that_succeeds_needs_no_reason() -> None:
    run = sim(job("j", "a"))
    run.play()
    assert (run.run.reason, reasons(run)) == ("", {"j": "", "a": ""})


def test_a_run_of_which_an_agent_cancelled_a_job_names_the_job() -> None:
    run = sim(job("j", "a"))
    run.play(a="cancel")
    assert (run.run.status, run.run.reason) == (Status.CANCELLED, "j: said cancel")


@pytest.mark.parametrize(("count", "more"), [(1, ""), (20, ""), (21, " and 1 more")])
def test_so_many_failed_jobs_are_named(count: int, more: str) -> None:
    run = sim(*(job(f"j{at}", f"s{at}") for at in range(count)))
    run.play(**{f"s{at}": "fail" for at in range(count)})
    assert run.run.reason == f"failed: {', '.join(f'j{at}' for at in range(min(count, 20)))}{more}"


def test_a_job_that_starts_again_says_what_failed() -> None:
    run = sim(job("j", "a", retry=Retry(2)))
    run.play(a="fail")
    assert [body["reason"] for body in run.of(entries.JOB_RESTARTED)] == ["a failed"]
