"""What a run and its jobs ask of concurrency groups and of the gate that waits for the run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pilothouse.engine import transitions
from pilothouse.engine.errors import GroupInvalid
from pilothouse.engine.model import Job, Run, Status
from support.planning import Sim, job, sim, step
from support.planning_rows import CONNECTION
from support.stories import story


@dataclass
class Groups:
    """Stands in for ``concurrency.py``: ``answer`` is what a job that enters is told."""

    answer: bool | GroupInvalid = True
    said: list[tuple[Any, ...]] = field(default_factory=list)

    def enter_job(self, tx: Any, run: Run, job: Job) -> bool:
        assert tx.conn is CONNECTION
        self.said.append(("enter", run.id, job.name, job.status))
        if isinstance(self.answer, GroupInvalid):
            raise self.answer
        if not self.answer:
            job.waits_for = "other"
        return self.answer

    def leave_run(self, tx: Any, run: Run) -> None:
        assert tx.conn is CONNECTION
        self.said.append(("leave", run.id, run.status))

    def leave_job(self, tx: Any, run: Run, job: Job) -> None:
        assert tx.conn is CONNECTION
        self.said.append(("leave", run.id, job.name, job.status))


def grouped(answer: bool | GroupInvalid = True) -> tuple[Sim, Groups]:
    run = sim(job("j", "a", concurrency="g"), job("k", "b"))
    groups = Groups(answer)
    run._transitions.handle_groups(groups)
    return run, groups


def test_a_job_enters_its_group_and_leaves_it() -> None:
    run, groups = grouped()
    run.play(b="fail")
    id = run.run.id
    assert groups.said == [("enter", id, "j", Status.PENDING), ("leave", id, "j", Status.SUCCEEDED)]


def test_a_job_waits_for_its_group() -> None:
    run, groups = grouped(answer=False)
    run.settle()
    assert [line.split()[1:3] for line in story(run)] == [
        ["run", "run.started"],
        ["k", "job.started"],
        ["k.b#1", "step.queued"],
    ]
    assert run.run.jobs[0].status is Status.PENDING
    groups.answer, run.run.jobs[0].waits_for = True, ""
    run.settle()
    assert [line.split()[1:3] for line in story(run)] == [["j", "job.started"], ["j.a#1", "step.queued"]]


def test_waiting_for_a_group_counts_as_much_as_a_gate(monkeypatch: Any) -> None:
    monkeypatch.setattr(transitions, "MAX_CHANGES", 5)
    run, _ = grouped(answer=False)
    with run._store() as tx:
        run._transitions.settle(tx, run.run)
    assert [told.type for told in run.told] == ["run.started"]


def test_a_group_that_makes_no_sense_fails_the_job() -> None:
    run, groups = grouped(GroupInvalid("it has no name"))
    run.settle()
    [j, _] = run.run.jobs
    assert (j.status, j.reason) == (Status.FAILED, "it has no name")
    assert groups.said[1:] == [("leave", run.run.id, "j", Status.FAILED)]


def test_a_run_leaves_its_group_when_it_ends() -> None:
    run = sim(job("j", "a"))
    groups = Groups()
    run._transitions.handle_groups(groups)
    run.run.graph = replace(run.run.graph, concurrency="g")
    run.play()
    assert groups.said == [("leave", run.run.id, Status.SUCCEEDED)]


def test_a_run_that_waits_for_its_group_has_nothing_to_clean_up() -> None:
    run = sim(job("j", step("a", when="always()")))
    run.run.waits_for = "other"
    run.settle()
    assert run.told == []
    run.cancel("enough")
    assert (run.run.forced, run.run.status) == (True, Status.CANCELLED)
    assert [line for line in story(run) if "a#1 step" in line] == [
        "0 j.a#1 step.completed pending>cancelled reason=enough job_status=pending counts=1/1/0/0"
    ]


def test_the_gate_that_waits_for_a_run_is_told_of_its_end() -> None:
    run = sim(job("j", "a"))
    told: list[tuple[str, Status]] = []

    def child_ended(tx: Any, child: Run) -> None:
        assert tx.conn is CONNECTION
        told.append((child.id, child.status))

    run.gates.child_ended = child_ended  # type: ignore[method-assign]
    run.run.parent_gate = "g1"
    run.rows.note(run.run)
    run.play(a="fail")
    assert told == [(run.run.id, Status.FAILED)]
