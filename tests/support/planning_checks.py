"""What must hold of every run, whatever happens in it."""

from __future__ import annotations

from copy import copy
from typing import Any

from pilothouse.engine.ids import first_step_run_id
from pilothouse.engine.model import LOST, MAX_LOST_RERUNS, Job, Run, Status
from pilothouse.expressions import cleans_up
from pilothouse.wire import entries
from support.planning import GRACE, Sim, limits


def check_always(run: Sim) -> None:
    """What must hold at any time."""
    check_counts(run.run)
    open_gates = [run.attempts[id] for id in run.gates.open]
    assert all(attempt.status is Status.RUNNING for attempt in open_gates)
    for a_job in [one for one in run.run.jobs if not one.status.over]:
        assert not a_job.held_at or run.held(a_job), "nothing holds its time limits any longer"
        allowed = {
            "deadline": a_job.spec.timeout * 1000,
            "queue_deadline": a_job.spec.queue_timeout * 1000,
            "cleanup_until": GRACE,
        }
        for name, limit in limits(a_job).items():
            if limit:
                left = limit - (a_job.held_at or run.now)
                assert left + run.used[name, a_job.id] == allowed[name], name


def check_settled(run: Sim) -> None:
    """What must hold when nothing more can be decided."""
    assert not (run.gates.open and run.run.cancelling), "no gate stays open in a cancelled run"
    for a_job, step in [run.place(run.attempts[id]) for id in run.gates.open]:
        assert not a_job.stopping
        assert run.run.paused_at or not 0 < step.deadline <= run.now, "a gate is due"


def check_counts(run: Run) -> None:
    """What runs and jobs keep up as they change is what they work out anew."""
    for a_job in run.jobs:
        anew = copy(a_job)
        anew.recount()
        assert _kept_up(a_job) == _kept_up(anew), a_job.name
        assert a_job.unmet == sum(not run.job(need).status.over for need in set(a_job.spec.depends_on))
    statuses = [a_job.status for a_job in run.jobs]
    assert {status: run.counts.of(status) for status in Status} == {s: statuses.count(s) for s in Status}


def _kept_up(a_job: Job) -> tuple[Any, ...]:
    return (
        a_job.counts.shown(),
        [one.index for one in a_job.unfinished],
        [one.index for one in a_job.awaited],
        a_job.failing and a_job.failing.index,
        a_job.own_steps_over,
        a_job.begun,
        a_job.outputs(),
        a_job.at_step,
    )


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
    check_pauses(run)
    check_step_runs(run)
    check_guards(run)


def check_guards(run: Sim) -> None:
    """No step of a job that waits for approval begins before it is given, and none does if it never is."""
    approved: set[str] = set()
    for told in run.told:
        name = told.body.get("job")
        if name is None or not run.run.job(name).spec.guard:
            continue
        guard = run.run.job(name).spec.steps[0].name
        if told.type == entries.STEP_COMPLETED and told.body["step"] == guard:
            assert name not in approved, "it is asked once"
            if told.body["status"] == "succeeded":
                approved.add(name)
        elif told.type in (entries.STEP_QUEUED, entries.STEP_STARTED) and told.body["step"] != guard:
            assert name in approved


def check_pauses(run: Sim) -> None:
    """Nothing is queued or opened, and no job begins, while the run is paused; after a cancel no gate is opened."""
    paused = cancelled = False
    for told in run.told:
        if told.type in (entries.RUN_PAUSED, entries.RUN_RESUMED):
            assert paused == (told.type == entries.RUN_RESUMED)
            paused = not paused
        cancelled = cancelled or told.type == entries.RUN_CANCELLING
        opened = told.type == entries.STEP_STARTED and "gate" in told.body
        if opened or told.type in (entries.STEP_QUEUED, entries.JOB_STARTED, entries.RUN_COMPLETED):
            assert not paused
        assert not (cancelled and opened)
    assert not run.gates.open


def check_step_runs(run: Sim) -> None:
    """Every step has a step run from the beginning, and each ends exactly once."""
    ended = [told["step_run_id"] for told in run.of(entries.ATTEMPT_COMPLETED)]
    assert len(set(ended)) == len(ended)
    first = {
        first_step_run_id(run.run.id, a_job.index, one.index) for a_job in run.run.jobs for one in a_job.steps
    }
    assert set(ended) == first | set(run.attempts)


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
            approved = run.run.job(name).spec.steps[: told.body["from_step"]]
            kept = {f"{name}/{one.name}" for one in approved}
            over -= {key for key in over - kept if key.startswith(f"{name}/")}
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
