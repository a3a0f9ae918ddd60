"""Gates, pauses and time limits in the planner: cases that random runs seldom meet."""

from __future__ import annotations

from pilothouse.engine.model import Status
from pilothouse.engine.reruns import kept_jobs
from pilothouse.pipelines.spec import Retry
from support.planning import GRACE, Sim, gate, job, sim, started, step

ALWAYS = "always()"


def with_open_gate(run: Sim) -> Sim:
    """The first step is done, and the gate after it is open."""
    run.end(run.out[0], Status.SUCCEEDED)
    assert len(run.gates.open) == 1
    return run


def test_a_gate_is_due_while_a_background_step_before_it_waits_for_an_agent() -> None:
    run = sim(job("j", step("serve", background=True, on_lost="rerun"), gate("ask"), "after"))
    run.gates.on_open = lambda: 10_000
    run.settle()
    run.offer(run.queued[0])
    run.start(run.out[0])
    run.lose(run.out[0])
    assert run.statuses() | {"serve": "queued", "ask": "running"} == run.statuses()
    assert run.wait()
    assert run.statuses()["ask"] == "timed_out"


def test_a_gate_is_due_while_a_background_step_before_it_waits_for_its_next_try() -> None:
    run = sim(job("j", step("serve", background=True, retry=Retry(2, "1m")), gate("ask"), "after"))
    run.gates.on_open = lambda: 10_000
    run.settle()
    run.offer(run.queued[0])
    run.start(run.out[0])
    run.end(run.out[0], Status.FAILED)
    assert run.statuses()["serve"] == "pending"
    assert run.wait()
    assert run.statuses()["ask"] == "timed_out"


def test_a_cancel_ends_an_open_gate_whatever_its_condition_says() -> None:
    jobs = (job("j", "work", gate("ask", when=ALWAYS), step("tidy", when=ALWAYS)),)
    run = with_open_gate(started(*jobs))
    run.cancel()
    assert run.statuses() | {"ask": "cancelled", "tidy": "queued"} == run.statuses()
    run = with_open_gate(started(job("j", "work", gate("ask"), step("tidy", when=ALWAYS), when=ALWAYS)))
    run.cancel()
    assert run.statuses() | {"ask": "cancelled", "tidy": "queued"} == run.statuses()


def test_what_comes_after_a_gate_does_not_run_unapproved_in_a_job_that_cleans_up() -> None:
    run = started(job("j", "work"), job("clean", gate("ask"), "drop", depends_on=("j",), when=ALWAYS))
    run.cancel()
    run.end(run.out[0], Status.CANCELLED)
    assert run.statuses() | {"ask": "cancelled", "drop": "skipped", "clean": "cancelled"} == run.statuses()
    assert run.step("ask").reason == "not wanted"


def test_time_for_cleaning_up_after_a_timeout_stands_still_in_a_pause() -> None:
    run = started(job("j", step("work"), step("tidy", when=ALWAYS, retry=Retry(2)), timeout="30s"))
    run.advance(run.now + 30_000)
    run.settle()
    run.end(run.out[0], Status.TIMED_OUT)
    run.offer(run.queued[0])
    run.start(run.out[0])
    run.pause()
    run.advance(run.now + 2 * GRACE)
    run.settle()
    run.end(run.out[0], Status.FAILED)
    run.resume()
    assert run.statuses()["tidy"] == "queued", "it may be tried again"
    run.offer(run.queued[0])
    run.start(run.out[0])
    run.advance(run.now + GRACE - 1)
    run.settle()
    assert run.cancels == run.cancels[:1]
    run.end(run.out[0], Status.SUCCEEDED)
    assert run.run.job("j").status is Status.TIMED_OUT
    assert run.statuses()["tidy"] == "succeeded"


def test_a_rerun_of_a_job_that_only_had_gates_gets_a_workspace() -> None:
    run = sim(job("j", gate("ask", "pipeline", "run"), gate("again", "pipeline", "run"), "work"))
    run.gates.on_open = iter([Status.SUCCEEDED, Status.FAILED]).__next__
    run.settle()
    assert run.run.status is Status.FAILED
    [kept] = kept_jobs("019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a11", run.run)
    assert kept.steps[0].kept
    assert kept.fresh
