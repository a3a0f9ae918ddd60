"""How much of a run one transaction moves on: so many changes, and for so long."""

from __future__ import annotations

from typing import Any

import pytest

from pilothouse.engine import transitions
from pilothouse.engine.model import SETTLE_STEPS, Job
from support.planning import Sim, gate, job, sim, step
from support.stories import story


def transaction(run: Sim, job: Job | None = None, *, again: bool = False) -> list[str]:
    """What one transaction tells: time and place, type; ``again``: it settles the run twice."""
    woken: list[Any] = []
    with run._store() as tx:
        tx.after_commit = woken.append
        run._transitions.on_unsettled(unsettled)
        for _ in range(1 + again):
            run._transitions.settle(tx, run.run, job)
    run.rows.check(run.run, *run.parts, *run.attempts.values())
    assert (unsettled in woken) is run.run.unsettled
    return [" ".join(line.split()[1:3]) for line in story(run)]


def unsettled() -> None:
    """Stands for what wakes the server."""


def four(**more: Any) -> Sim:
    return sim(*(job(f"j{at}", f"s{at}", **more) for at in range(4)))


def test_a_transaction_makes_so_many_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "MAX_CHANGES", 3)
    run = four()
    assert transaction(run, again=True) == ["run run.started", "j0 job.started", "j1 job.started"]
    assert run.run.unsettled
    assert transaction(run) == ["j2 job.started", "j3 job.started", "j0.s0#1 step.queued"]
    assert transaction(run) == [f"j{at}.s{at}#1 step.queued" for at in (1, 2, 3)]
    assert run.run.unsettled, "whether there is more is not known yet"
    assert transaction(run) == []
    assert not run.run.unsettled


def test_other_runs_take_part_of_what_a_transaction_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "MAX_CHANGES", 5)
    run = four()
    with run._store() as tx:
        run._transitions.spend(tx, 3)
        run._transitions.settle(tx, run.run)
    assert [told.type for told in run.told] == ["run.started", "job.started"]
    run.told.clear()
    with run._store() as tx:
        run._transitions.spend(tx, 5)
        run._transitions.settle(tx, run.run)
        run._transitions.spend(tx, 1)
        run._transitions.settle(tx, run.run)
    assert run.told == []
    assert run.run.unsettled


def test_a_gate_counts_as_much_as_four_other_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "MAX_CHANGES", 6)
    run = sim(job("j", gate("g")), job("k", "a"), job("l", "b"))
    assert transaction(run)[1:] == ["j job.started", "k job.started", "l job.started", "j.g#1 step.started"]
    assert transaction(run) == ["k.a#1 step.queued", "l.b#1 step.queued"]
    run.gates.on_due = lambda: 60_000
    run.step("g").deadline = run.now + 1
    run.rows.note(run.step("g"))
    run.now += 1
    assert transaction(run) == []
    assert run.step("g").deadline == run.now + 60_000
    assert not run.run.unsettled


def test_the_steps_of_a_job_that_ends_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "MAX_CHANGES", 4)
    run = sim(job("j", *(f"s{at}" for at in range(6)), when="1 > 2"), job("k", *"abc", when="1 > 2"))
    ended = "step.completed"
    assert [line for line in transaction(run) if ended in line] == [f"j.s{at}#1 {ended}" for at in range(4)]
    told = [line for line in transaction(run) if "attempt" not in line]
    assert told == [*(f"k.{at}#1 {ended}" for at in "abc"), "k job.completed"]
    told = [line for line in transaction(run) if "attempt" not in line]
    assert told == [f"j.s4#1 {ended}", f"j.s5#1 {ended}", "j job.completed", "run run.completed"]


def test_a_transaction_takes_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes one change in any case."""
    clock = [5.0]

    def thread_time() -> float:
        return clock[0]

    monkeypatch.setattr(transitions.time, "thread_time", thread_time)
    run = four()
    run.seconds = transitions.MAX_SECONDS
    real = run._decide_job

    def slow(*given: Any) -> Any:
        clock[0] += 0.05
        return real(*given)

    run._decide_job = slow  # type: ignore[method-assign]
    assert transaction(run) == ["run run.started", "j0 job.started"]
    assert transaction(run) == ["j2 job.started"], "what was decided of j1 came too late; it is the last now"
    run.seconds = 0
    assert transaction(run) == ["j0.s0#1 step.queued"]
    assert transaction(run) == ["j1 job.started"]


def test_only_the_job_that_changed_is_planned() -> None:
    run = four()
    assert len(transaction(run)) == 9
    planned = run.planned
    assert transaction(run, run.run.jobs[1]) == []
    assert run.planned == planned + 1
    assert transaction(run) == []
    assert run.planned == planned + 5


def test_conditions_have_their_steps_until_the_run_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one settled change; not those of each transaction that it takes."""
    monkeypatch.setattr(transitions, "MAX_CHANGES", 2)
    run = sim(job("j", step("a", when="1 < 2")), job("k", step("b", when="1 < 2")))
    transaction(run)
    left = run.run.condition_steps
    while run.run.unsettled:
        transaction(run)
        assert run.run.condition_steps <= left
        left = run.run.condition_steps
    assert left < SETTLE_STEPS
    transaction(run)
    assert run.run.condition_steps == SETTLE_STEPS
