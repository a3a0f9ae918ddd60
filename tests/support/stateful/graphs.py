"""Small random graphs for the stateful test of the engine."""

from __future__ import annotations

from hypothesis import strategies as st

from pilothouse.engine.gates.model import HOLD
from pilothouse.engine.graph import Graph, Job, Retry, Step

ALWAYS, FAILURE, CANCELLED = "always()", "failure()", "cancelled()"

_retries = st.sampled_from([None, None, Retry(2), Retry(3), Retry(2, 20)])
_lost = st.sampled_from(["", "", "rerun"])
_whens = st.sampled_from(["", "", "", "success()", ALWAYS, FAILURE, CANCELLED])


@st.composite
def steps(draw: st.DrawFn, name: str) -> Step:
    """A step: work of an agent, or with little chance a gate that waits for one or two users."""
    when = draw(_whens)
    if draw(st.integers(0, 4)) == 4:
        args = {"count": draw(st.integers(1, 2))}
        limit = draw(st.sampled_from([0.0, 0.0, 50.0]))
        return Step(name, uses="approval", action="wait", gate=HOLD, args=args, when=when, timeout=limit)
    return Step(
        name,
        uses="dummy",
        when=when,
        retry=draw(_retries),
        on_lost=draw(_lost),
        continue_on_error=draw(st.integers(0, 3)) == 3,
        background=draw(st.integers(0, 5)) == 5,
    )


@st.composite
def jobs(draw: st.DrawFn, number: int) -> Job:
    """A job that may depend on those before it."""
    before = [f"j{n}" for n in range(number)]
    needs = draw(st.lists(st.sampled_from(before), unique=True, max_size=2)) if before else []
    return Job(
        f"j{number}",
        tuple(draw(steps(f"j{number}s{at}")) for at in range(draw(st.integers(1, 3)))),
        depends_on=tuple(needs),
        when=draw(_whens) if needs else draw(st.sampled_from(["", "", "", ALWAYS])),
        retry=draw(_retries),
        on_lost=draw(st.sampled_from(["fail", "rerun"])),
        timeout=draw(st.sampled_from([0.0, 0.0, 100.0])),
        queue_timeout=draw(st.sampled_from([0.0, 0.0, 0.0, 40.0])),
        concurrency=draw(st.sampled_from(["", "", "", "", "lock"])),
    )


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """One to four jobs."""
    made = tuple(draw(jobs(number)) for number in range(draw(st.integers(1, 4))))
    group = draw(st.sampled_from(["", "", "", "", "deploy"]))
    return Graph(made, concurrency=group, cancel_in_progress=bool(group) and draw(st.booleans()))
