"""The planner under random graphs, random fates and random clocks: every run ends, and nothing is left."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.model import Status
from pilothouse.fleet.model import LeaseState
from pilothouse.pipelines.spec import Approval, Retry
from pilothouse.pipelines.spec import Job as JobSpec
from pilothouse.pipelines.spec import Step as StepSpec
from support.planning import GRACE, Sim, gate, job, sim, step
from support.planning_checks import check_always, check_everything, check_settled

ALWAYS, FAILURE, CANCELLED = "always()", "failure()", "cancelled()"

_retries = st.one_of(st.none(), st.builds(Retry, st.integers(1, 3), st.sampled_from(["", "1s", "1m"])))
_whens = st.sampled_from(
    ["", "", "", ALWAYS, FAILURE, CANCELLED, "success()", "false", "variables.missing", "step.attempt < 3"]
)
_lost = st.sampled_from(["fail", "rerun"])


_ends = st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT])


@st.composite
def some_steps(draw: st.DrawFn, name: str, on_lost: str = "fail") -> StepSpec:
    more = {
        "when": draw(_whens),
        "continue_on_error": draw(st.booleans()),
        "retry": draw(_retries),
    }
    if draw(st.integers(0, 3)) == 0:
        kinds = [("approval", "wait"), ("pipeline", "run")]  # what users decided is not tried again
        return gate(name, *draw(st.sampled_from(kinds)), **more)
    more["on_lost"] = draw(st.sampled_from([on_lost, "rerun", ""]))
    return step(name, background=draw(st.sampled_from([False, False, True])), **more)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[JobSpec, ...]:
    jobs = []
    for number in range(draw(st.integers(1, 4))):
        before = [f"j{n}" for n in range(number)]
        needs = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        on_lost = draw(_lost)
        steps = [draw(some_steps(f"j{number}s{index}", on_lost)) for index in range(draw(st.integers(0, 4)))]
        more = {"retry": draw(_retries), "timeout": draw(st.sampled_from(["", "30s"])), "on_lost": on_lost}
        more["queue_timeout"] = draw(st.sampled_from(["", "", "10s"]))
        when = draw(st.sampled_from(["", "", ALWAYS, FAILURE, CANCELLED, "always() && !success()", "false"]))
        more["approval"] = draw(st.sampled_from([None, None, None, Approval(required=True)]))
        jobs.append(job(f"j{number}", *steps, depends_on=tuple(needs), when=when, **more))
    return tuple(jobs)


@settings(max_examples=250, deadline=None)
@given(graphs(), st.data())
def test_every_run_ends_and_nothing_is_left(jobs: tuple[JobSpec, ...], data: st.DataObject) -> None:
    run = sim(*jobs)
    run.watch = lambda: check_always(run)
    run.gates.on_open = lambda: data.draw(st.one_of(st.sampled_from([0, 0, 1, 20_000, 90_000]), _ends))
    run.gates.on_due = lambda: data.draw(st.one_of(_ends, st.sampled_from([1, 40_000])))
    run.settle()
    for _ in range(5000):
        if run.run.status.over:
            break
        act(run, data)
        check_settled(run)
    check_everything(run)


def act(run: Sim, data: st.DataObject) -> None:
    """Something happens, as the hypothesis has it."""
    choices = ["queued"] * bool(run.queued) + ["out"] * bool(run.out) + ["gate"] * bool(run.gates.open)
    choices += ["resume"] if run.run.paused_at else []
    assert choices or run.wait(), f"nobody will ever wake this run: {run.statuses()}"
    if not choices:
        return
    choices += ["time"] + ["cancel"] * (not run.run.forced)
    choices += ["pause"] * (not run.run.paused_at and not run.run.cancelling)
    choices += ["extend"] * (len(run.run.jobs) < 6)
    kind = data.draw(st.sampled_from(choices))
    if kind == "gate":
        run.settle_gate(run.attempts[data.draw(st.sampled_from(run.gates.open))], data.draw(_ends))
    elif kind == "resume":
        run.resume()
    elif kind == "pause":
        if data.draw(st.integers(0, 2)) == 0:
            run.pause()
    elif kind == "extend":
        if data.draw(st.integers(0, 4)) == 0:
            extend(run, data)
    elif kind == "cancel":
        force = data.draw(st.integers(0, 3)) == 0
        if data.draw(st.integers(0, 9)) == 0 and (force or not run.run.cancelling):
            run.cancel(force=force)
    elif kind == "time":
        run.advance(run.now + data.draw(st.sampled_from([1, 500, 31_000, GRACE])))
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


def extend(run: Sim, data: st.DataObject) -> None:
    """A job more, or a step at the end of a job that goes on, or both."""
    count = run.run.graph.size
    going_on = [a_job.name for a_job in run.run.jobs if not a_job.status.over]
    jobs = []
    if data.draw(st.booleans()):
        names = [a_job.name for a_job in run.run.jobs]
        needs = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
        more = [data.draw(some_steps(f"x{count}a"))] * data.draw(st.integers(0, 1))
        when = data.draw(st.sampled_from(["", ALWAYS, FAILURE]))
        jobs.append(job(f"x{len(names)}", *more, depends_on=tuple(needs), when=when, timeout="30s"))
    steps = {}
    if going_on and (not jobs or data.draw(st.booleans())):
        steps[data.draw(st.sampled_from(going_on))] = (data.draw(some_steps(f"x{count}b")),)
    if jobs or steps:
        run.extend(*jobs, **steps)
