"""What is told of runs, and what is left of them: every entry and every part as a whole, in plan_stories.txt.

After a change that is meant: ``PYTHONPATH=tests python tests/unit/test_plan_told.py``, and read the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pilothouse.engine.model import Attempt, Status
from pilothouse.pipelines.spec import Approval, Retry
from support.planning import GRACE, Sim, finish, gate, job, sim, step
from support.stories import left, story

FILE = Path(__file__).with_name("plan_stories.txt")
ALWAYS = "always()"


def begin(run: Sim) -> Attempt:
    """An agent begins what has waited longest; what was told until then is in the story of another scenario."""
    attempt = run.queued[0]
    run.offer(attempt)
    run.start(attempt)
    return attempt


def wait(run: Sim, milliseconds: int) -> None:
    run.advance(run.now + milliseconds)
    run.settle()


def a_step_is_tried_again() -> Iterator[Sim]:
    run = sim(job("j", step("a", retry=Retry(2, "5s")), "b", timeout="1m", queue_timeout="2m"))
    run.settle()
    yield run
    run.advance(run.now + 1000)
    attempt = begin(run)
    run.advance(run.now + 500)
    run.end(attempt, Status.FAILED, "exit 1")
    yield run
    wait(run, 5000)
    attempt = begin(run)
    run.advance(run.now + 20)
    run.end(attempt, Status.FAILED)
    yield run


def a_run_is_cancelled_and_cleans_up() -> Iterator[Sim]:
    run = sim(
        job("j", "a", "b", step("c", when=ALWAYS)),
        job("k", "d"),
        job("l", "e", depends_on=("j",)),
        job("m", "f", depends_on=("j",), when=ALWAYS),
    )
    run.settle()
    attempt = begin(run)
    run.told.clear()
    run.advance(run.now + 1000)
    run.cancel("enough")
    yield run
    run.advance(run.now + 1000)
    run.end(attempt, Status.CANCELLED, "killed")
    finish(run)
    yield run


def a_paused_run_is_cancelled_with_force() -> Iterator[Sim]:
    run = sim(job("j", "a", step("c", when=ALWAYS)))
    run.settle()
    begin(run)
    run.told.clear()
    run.pause()
    run.advance(run.now + 1000)
    run.cancel("enough", force=True)
    yield run


def a_run_is_paused_and_resumed() -> Iterator[Sim]:
    run = sim(job("j", "a", "b", timeout="1m"), job("k", "c", queue_timeout="1m"), job("l", "d"))
    run.settle()
    attempt = begin(run)
    run.told.clear()
    run.advance(run.now + 1000)
    run.pause()
    yield run
    run.advance(run.now + 10_000)
    run.end(attempt, Status.SUCCEEDED)
    run.advance(run.now + 10_000)
    run.resume()
    yield run


def a_job_begins_again() -> Iterator[Sim]:
    run = sim(job("j", step("x", when="1 > 2"), "a", "b", retry=Retry(2, "7s"), timeout="1m"))
    run.settle()
    run.told.clear()
    run.advance(run.now + 1000)
    attempt = begin(run)
    run.advance(run.now + 1000)
    run.end(attempt, Status.TIMED_OUT, "too long")
    yield run
    wait(run, 7000)
    run.lose(begin(run))
    yield run


def a_step_is_lost_with_its_agent() -> Iterator[Sim]:
    run = sim(job("j", "z", step("a", on_lost="rerun"), "b"))
    run.settle()
    run.end(begin(run), Status.SUCCEEDED)
    run.told.clear()
    attempt = begin(run)
    run.advance(run.now + 1000)
    run.lose(attempt, gone=True)
    yield run
    run.offer(run.queued[0])
    run.lose(run.out[0])
    run.lose(begin(run))
    yield run


def a_job_is_lost() -> Iterator[Sim]:
    run = sim(job("j", step("db", background=True), "a", "b", on_lost="rerun"))
    run.settle()
    begin(run)
    attempt = begin(run)
    run.told.clear()
    run.advance(run.now + 1000)
    run.lose(attempt)
    yield run


def a_job_times_out_and_its_cleanup_too() -> Iterator[Sim]:
    run = sim(job("j", "a", "b", step("c", when=ALWAYS), timeout="1m", queue_timeout="9m"))
    run.settle()
    attempt = begin(run)
    run.told.clear()
    wait(run, 60_000)
    yield run
    run.advance(run.now + 1000)
    run.end(attempt, Status.CANCELLED)
    wait(run, GRACE)
    yield run


def a_job_waits_too_long() -> Iterator[Sim]:
    run = sim(job("j", "a", "b", queue_timeout="1m"))
    run.settle()
    run.told.clear()
    run.queued[0].reason = "no agent has 8 cpus"
    wait(run, 60_000)
    yield run


def a_background_step_is_stopped_at_the_end() -> Iterator[Sim]:
    run = sim(job("j", step("db", background=True), "a"))
    run.settle()
    database = begin(run)
    run.told.clear()
    run.advance(run.now + 1000)
    finish(run)
    yield run
    run.advance(run.now + 1000)
    run.end(database, Status.CANCELLED, "killed")
    yield run


def a_gate_is_passed() -> Iterator[Sim]:
    run = sim(job("j", "a", gate("ask"), "b", timeout="1m"))
    run.settle()
    run.told.clear()
    run.end(begin(run), Status.SUCCEEDED)
    yield run
    run.advance(run.now + 100_000)
    run.settle_gate(run.attempts[run.step("ask").current], Status.SUCCEEDED)
    yield run


def a_job_that_was_approved_begins_again() -> Iterator[Sim]:
    run = sim(job("j", "a", "b", approval=Approval(required=True), retry=Retry(2)))
    run.settle()
    run.settle_gate(run.attempts[run.step("approval").current], Status.SUCCEEDED)
    attempt = begin(run)
    run.told.clear()
    run.advance(run.now + 1000)
    run.end(attempt, Status.FAILED, "exit 1")
    yield run
    run.lose(begin(run))
    yield run


def a_run_grows_and_is_changed() -> Iterator[Sim]:
    run = sim(job("j", "a"))
    run.settle()
    run.told.clear()
    run.extend(job("k", "b", depends_on=("j",)), j=(step("c"),))
    yield run
    [one, _] = run.run.jobs
    spec = one.step_spec(run.step("c"))
    run.replace(run.step("c"), replace(spec, args={"x": "1"}), "args")
    run.replace(run.step("c"), replace(spec, removed=True))
    run.advance(run.now + 1000)
    run.replace(run.step("a"), replace(one.step_spec(run.step("a")), removed=True))
    yield run


def a_run_is_reopened() -> Iterator[Sim]:
    run = sim(
        job("j", step("db", background=True), "a", "b", timeout="1m"),
        job("k", "c", depends_on=("j",)),
        job("m", "d"),
    )
    run.play(b="fail")
    run.told.clear()
    run.advance(run.now + 1000)
    run.reopen(run.step("b"))
    yield run
    finish(run)
    run.told.clear()
    run.advance(run.now + 1000)
    run.reopen(run.step("db"))
    yield run


def a_run_that_no_agent_had_is_reopened() -> Iterator[Sim]:
    run = sim(job("j", step("a", when="1 > 2"), step("b", when="variables.x == 1")))
    run.settle()
    run.told.clear()
    run.advance(run.now + 1000)
    run.reopen(run.step("b"))
    yield run


def jobs_are_cancelled() -> Iterator[Sim]:
    run = sim(
        job("j", "a", step("b", when=ALWAYS), timeout="1m"),
        job("k", "c"),
        job("l", "d"),
        job("m", step("e", when=ALWAYS), "f"),
    )
    run.settle()
    for attempt in [one for one in run.queued if run.place(one)[1].name in "ae"]:
        run.offer(attempt)
        run.start(attempt)
    run.told.clear()
    run.advance(run.now + 1000)
    run.cancel_job(run.run.jobs[0], "enough")
    run.cancel_job(run.run.jobs[1])
    run.cancel_job(run.run.jobs[3])
    yield run


SCENARIOS: list[Callable[[], Iterator[Sim]]] = [
    a_step_is_tried_again,
    a_run_is_cancelled_and_cleans_up,
    a_paused_run_is_cancelled_with_force,
    a_run_is_paused_and_resumed,
    a_job_begins_again,
    a_step_is_lost_with_its_agent,
    a_job_is_lost,
    a_job_times_out_and_its_cleanup_too,
    a_job_waits_too_long,
    a_background_step_is_stopped_at_the_end,
    a_gate_is_passed,
    a_job_that_was_approved_begins_again,
    a_run_grows_and_is_changed,
    a_run_is_reopened,
    a_run_that_no_agent_had_is_reopened,
    jobs_are_cancelled,
]


def told(scenario: Callable[[], Iterator[Sim]]) -> list[str]:
    """What was told up to each ``yield``, and what was left then."""
    lines = []
    for run in scenario():
        lines += [*story(run), *(f"  {line}" for line in left(run))]
    return lines


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_run(scenario: Callable[[], Iterator[Sim]]) -> None:
    parts = FILE.read_text().split("# ")[1:]
    stories = {part.split("\n")[0]: part.strip().split("\n")[1:] for part in parts}
    assert told(scenario) == stories[scenario.__name__.replace("_", " ")]


def test_entries_of_a_type_have_the_same_keys() -> None:
    """But for those of gates, of steps that end without a step run, and of those that a user ends."""
    keys: dict[str, set[frozenset[str]]] = {}
    for scenario in SCENARIOS:
        for run in scenario():
            for entry in run.told:
                some = frozenset(entry.body) - {"gate", "step_run_id", "attempt", "alone"}
                keys.setdefault(entry.type, set()).add(some)
    assert len(keys) > 10
    assert {type: len(different) for type, different in keys.items()} == dict.fromkeys(keys, 1)


def test_whoever_hands_out_work_is_woken_when_there_may_be_some() -> None:
    run = sim(job("j", "a"), job("k", "b"))
    run.settle()
    assert run.woken == 2
    run.pause()
    assert run.woken == 2
    run.resume()
    assert run.woken == 3


if __name__ == "__main__":
    FILE.write_text(
        "\n\n".join("\n".join([f"# {one.__name__.replace('_', ' ')}", *told(one)]) for one in SCENARIOS)
        + "\n"
    )
