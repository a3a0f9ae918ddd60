"""What must hold of every run that has ended, whatever happened in it."""

from __future__ import annotations

from typing import Any

from pilothouse.engine.model import LOST, MAX_LOST_RERUNS, Status
from pilothouse.expressions import cleans_up
from pilothouse.wire import entries
from support.planning import Sim


def check_everything(run: Sim) -> None:
    """All of it."""
    assert run.run.status.over
    assert all(run.stale(run.attempts[id]) for id in run.leases)
    assert run.queued == []
    assert all(attempt.status.over for attempt in run.attempts.values())
    for a_job in run.run.jobs:
        assert a_job.status.over
        assert all(one.status.over and not one.current for one in a_job.steps)
        check_job(run, a_job)
    check_run(run)
    check_order(run)
    check_one_at_a_time(run)
    check_cleanup(run)
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
    spec = a_job.spec
    rounds = spec.retry.max_attempts if spec.retry else 1
    assert a_job.round <= rounds + MAX_LOST_RERUNS
    for one in a_job.steps:
        of_step = a_job.step_spec(one)
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
    begun: set[str] = set()
    for told in run.told:
        name = told.body.get("job")
        if name is None:
            continue
        needs = run.run.job(name).spec.depends_on
        assert name not in over, f"{told.type} after the end of the job"
        if told.type == entries.JOB_STARTED:
            assert set(needs) <= over
            assert name not in started
            started.add(name)
        elif told.type == entries.JOB_COMPLETED:
            over.add(name)
        elif told.type == entries.JOB_RESTARTED:
            over -= {key for key in over if key.startswith(f"{name}/")}
            begun -= {key for key in begun if key.startswith(f"{name}/")}
        elif told.type == entries.STEP_QUEUED:
            assert name in started
            earlier = run.run.job(name).spec.steps[: told.body["index"]]
            beside = {s.name for s in earlier if s.background and f"{name}/{s.name}" in begun}
            assert all(s.name in beside or f"{name}/{s.name}" in over for s in earlier)
            assert f"{name}/{told.body['step']}" not in over
        elif told.type == entries.STEP_STARTED:
            begun.add(f"{name}/{told.body['step']}")
        elif told.type == entries.STEP_COMPLETED:
            assert f"{name}/{told.body['step']}" not in over
            over.add(f"{name}/{told.body['step']}")


def check_one_at_a_time(run: Sim) -> None:
    """In a job no two attempts run at once, but for those of background steps."""
    running: dict[str, str] = {}
    for told in run.told:
        if told.type not in (entries.STEP_STARTED, entries.ATTEMPT_COMPLETED):
            continue
        spec = next(s for s in run.run.job(told.body["job"]).spec.steps if s.name == told.body["step"])
        if spec.background:
            continue
        if told.type == entries.STEP_STARTED:
            assert told.body["job"] not in running
            running[told.body["job"]] = told.body["step_run_id"]
        elif running.get(told.body["job"]) == told.body["step_run_id"]:
            del running[told.body["job"]]


def check_cleanup(run: Sim) -> None:
    """After a cancel only what cleans up is begun, none of it too late, and nothing once it is forced."""
    cancelled, until = False, 0
    timed_out: set[str] = set()
    for told in run.told:
        name = told.body.get("job", "")
        if told.type == entries.RUN_CANCELLING:
            cancelled, until = True, told.body["until"]
        elif told.type == entries.STEP_COMPLETED and told.body["status"] == "timed_out":
            timed_out.add(name)
        elif cancelled and told.type in (entries.STEP_QUEUED, entries.JOB_STARTED):
            assert told.at < until
            job = run.run.job(name).spec
            if told.type == entries.JOB_STARTED:
                assert cleans_up(job.when)
                continue
            when = next(s.when for s in job.steps if s.name == told.body["step"])
            after_timeout = "failure()" in when and name in timed_out
            assert cleans_up(job.when) or cleans_up(when) or after_timeout
        elif cancelled:
            assert told.type != entries.JOB_RESTARTED


def check_previous(run: Sim) -> None:
    """``previous`` is always the status of the preceding entry (or the initial one)."""
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
