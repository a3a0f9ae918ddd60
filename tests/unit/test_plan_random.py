"""The planner under random graphs, random fates and random clocks: every run ends, and nothing is left."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.model import Status
from pilothouse.fleet.model import LeaseState
from pilothouse.pipelines.spec import Job as JobSpec
from pilothouse.pipelines.spec import Retry
from support.planning import GRACE, Sim, job, sim, step
from support.planning_checks import check_everything

ALWAYS, FAILURE, CANCELLED = "always()", "failure()", "cancelled()"

_retries = st.one_of(st.none(), st.builds(Retry, st.integers(1, 3), st.sampled_from(["", "1s", "1m"])))
_whens = st.sampled_from(
    ["", "", "", ALWAYS, FAILURE, CANCELLED, "success()", "false", "variables.missing", "step.attempt < 3"]
)
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
                on_lost=draw(st.sampled_from([on_lost, "rerun", ""])),
                background=draw(st.sampled_from([False, False, True])),
            )
            for index in range(draw(st.integers(0, 3)))
        ]
        more = {"retry": draw(_retries), "timeout": draw(st.sampled_from(["", "30s"])), "on_lost": on_lost}
        more["queue_timeout"] = draw(st.sampled_from(["", "", "10s"]))
        when = draw(st.sampled_from(["", "", ALWAYS, FAILURE, CANCELLED, "always() && !success()", "false"]))
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
    kind = data.draw(
        st.sampled_from([*choices, "time", "cancel"] if not run.run.forced else [*choices, "time"])
    )
    if kind == "cancel":
        force = data.draw(st.integers(0, 3)) == 0
        if data.draw(st.integers(0, 9)) == 0 and (force or not run.run.cancelling):
            run.cancel(force=force)
    elif kind == "time":
        run.now += data.draw(st.sampled_from([1, 500, 31_000, GRACE]))
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
