"""What counts for a job's timeouts, and what outputs an attempt leaves; case by case."""

from __future__ import annotations

import pytest

from pilothouse.pipelines.spec import Retry
from support.planning import finish, job, sim, step
from support.planning_checks import check_everything

ALWAYS, FAILURE = "always()", "failure()"


def test_the_wait_for_an_agent_is_no_part_of_the_timeout() -> None:
    run = sim(job("j", "a", "b", timeout="60s"))
    run.settle()
    run.now += 3_600_000
    run.settle()
    assert run.statuses()["j"] == "running"
    run.do(run.queued[0], "refused")
    run.now += 3_600_000
    attempt = run.queued[0]
    run.offer(attempt)
    run.start(attempt)
    assert run.run.jobs[0].deadline == run.now + 60_000
    run.now += 59_999
    run.settle()
    assert run.cancels == []
    run.now += 1
    run.settle()
    assert run.cancels == [attempt.id]


def test_all_tries_of_a_job_count_for_its_timeout() -> None:
    run = sim(job("j", "a", timeout="60s", retry=Retry(5, "20s")))
    run.settle()
    began = run.now
    while not run.run.status.over:
        if run.queued:
            run.do(run.queued[0], "fail")
        else:
            run.wait()
    assert run.now == began + 60_000
    assert run.tries("a") == ["failed"] * 3
    assert run.run.jobs[0].reason == "the job ran longer than its timeout of 1m"


def test_a_deadline_of_the_first_release_waits_for_the_first_step() -> None:
    run = sim(job("j", "a", timeout="60s"))
    run.settle()
    run.run.jobs[0].deadline = run.now + 60_000
    run.rows.note(run.run.jobs[0])
    run.now += 60_000
    run.settle()
    assert run.statuses()["j"] == "running"


@pytest.mark.parametrize("stage", ["queued", "explained", "offered", "requeued"])
def test_a_job_waits_no_longer_than_its_queue_timeout(stage: str) -> None:
    run = sim(
        job("j", "a", step("b", when=ALWAYS), queue_timeout="30s"),
        job("k", "c", depends_on=("j",), when=FAILURE),
    )
    run.settle()
    why = ""
    if stage == "requeued":
        run.now += 29_000
        run.do(run.queued[0], "refused")
    if stage == "explained":
        run.queued[0].reason = why = "no online agent matches gpu=yes"
    if stage == "offered":
        run.offer(run.queued[0])
    assert run.wait()
    assert run.now == 1_030_000
    found = run.statuses()
    assert (found["j"], found["a"], found["b"]) == ("timed_out", "timed_out", "skipped"), "it has not begun"
    expected = "the job waited longer than its queueTimeout of 30s" + (f": {why}" if why else "")
    assert run.run.jobs[0].reason == run.step("a").reason == expected
    assert run.leases == {}
    assert finish(run) == ["c"]
    check_everything(run)


def test_a_queue_timeout_is_over_once_the_first_step_has_started() -> None:
    run = sim(job("j", "a", "b", queue_timeout="30s", retry=Retry(2)))
    run.settle()
    run.now += 29_999
    run.do(run.queued[0], "ok")
    run.now += 3_600_000
    run.settle()
    assert run.statuses()["j"] == "running"
    run.do(run.queued[0], "fail")
    run.now += 3_600_000
    run.settle()
    assert run.statuses()["a"] == "queued", "begun again, it has begun"


# -- outputs ----------------------------------------------------------------------------------------------


def test_outputs_of_a_failed_attempt_are_removed_once_the_next_one_is_queued() -> None:
    run = sim(job("j", step("a", retry=Retry(2, "10s"))))
    run.settle()
    run.run.jobs[0].set_outputs(run.step("a"), {"tag": "half done"})
    run.do(run.queued[0], "fail")
    assert run.step("a").outputs == {"tag": "half done"}
    run.wait()
    assert run.step("a").outputs == {}
    run.run.jobs[0].set_outputs(run.step("a"), {"other": "x"})
    run.do(run.queued[0], "fail")
    assert run.step("a").outputs == {"other": "x"}, "those of the last attempt stay"
