"""What runs and jobs work out of their steps: counts, outputs, what is open, what is left to plan."""

from __future__ import annotations

from pilothouse.engine.model import Counts, Status
from pilothouse.wire import entries
from support.planning import job, sim, started, step


def test_counts_are_equal_if_each_number_is() -> None:
    counts = Counts([Status.FAILED, Status.FAILED, Status.RUNNING, Status.SKIPPED])
    assert counts == Counts([Status.RUNNING, Status.SKIPPED, Status.FAILED, Status.FAILED])
    assert counts != Counts([Status.RUNNING, Status.SKIPPED, Status.FAILED])
    assert counts != "counts"
    assert counts.shown() == {"total": 4, "completed": 3, "failed": 2, "running": 1}
    counts.add(Status.RUNNING, 2)
    counts.move(Status.RUNNING, Status.TIMED_OUT)
    assert counts.shown() == {"total": 6, "completed": 4, "failed": 3, "running": 2}
    assert [counts.of(status) for status in (Status.RUNNING, Status.TIMED_OUT, Status.QUEUED)] == [2, 1, 0]


def test_outputs_of_the_later_step_and_job_are_stronger() -> None:
    run = sim(job("j", "a", "b", "c"), job("k", "d"))
    run.settle()
    j, k = run.run.jobs
    j.set_outputs(run.step("b"), {"x": "b", "y": "b"})
    j.set_outputs(run.step("a"), {"x": "a", "z": "a"})
    assert j.outputs() == {"x": "b", "y": "b", "z": "a"}
    k.set_outputs(run.step("d"), {"y": "d"})
    assert run.run.outputs() == {"x": "b", "y": "d", "z": "a"}
    j.set_outputs(run.step("b"), {})
    assert (run.step("b").outputs, j.outputs()) == ({}, {"x": "a", "z": "a"})
    j.set_outputs(run.step("c"), {})
    run.run.recount()
    assert run.run.outputs() == {"x": "a", "y": "d", "z": "a"}


def test_outputs_are_told_with_the_end() -> None:
    run = sim(job("j", "a"), job("k", "b"))
    run.settle()
    for one, outputs in (("a", {"x": 1}), ("b", {"y": "2"})):
        attempt = next(attempt for attempt in run.queued if run.place(attempt)[1].name == one)
        run.offer(attempt)
        run.start(attempt)
        run.place(attempt)[0].set_outputs(run.step(one), outputs)
        run.rows.note(run.step(one))
        run.end(attempt, Status.SUCCEEDED)
    assert [body["outputs"] for body in run.of(entries.STEP_COMPLETED)] == [{"x": 1}, {"y": "2"}]
    assert [body["outputs"] for body in run.of(entries.RUN_COMPLETED)] == [{"x": 1, "y": "2"}]


def test_a_node_is_named_with_its_job_where_there_are_several() -> None:
    run = sim(job("j", "a")).run
    assert run.node(run.jobs[0], run.jobs[0].steps[0]) == "a"
    run = sim(job("j", "a"), job("k", "b")).run
    assert run.node(run.jobs[1], run.jobs[1].steps[0]) == "k/b"


def test_a_run_that_is_not_settled_is_planned_as_a_whole_when_it_is_loaded() -> None:
    run = sim(job("j", "a"), job("k", "b", when="1 > 2"), job("l", "c"))
    run.settle()
    assert run.run.jobs[1].status is Status.SKIPPED
    run.run.recount()
    assert list(run.run.agenda) == []
    run.run.unsettled = True
    run.run.recount()
    assert [(at, one.name) for at, one in run.run.agenda.items()] == [(0, "j"), (2, "l")]


def test_the_graph_of_a_run_of_the_first_release_is_stored_before_it_grows() -> None:
    run = sim(job("j", "a"))
    run.settle()
    original, run.rows.parts = run.rows.parts[0], []
    run.extend(j=(step("b"),))
    run.extend(j=(step("c"),))
    assert len(run.rows.parts) == 3
    assert run.rows.parts[0] == original


def test_where_a_job_is() -> None:
    run = started(job("j", step("db", background=True), "a", "b"))
    [j] = run.run.jobs
    found = [j.at_step, [one.name for one in j.unfinished], [one.name for one in j.awaited]]
    assert found == [0, ["db", "a", "b"], ["a", "b"]]
    assert [one.name for one in j.background] == ["db"]
    j.recount()
    assert [one.name for one in j.awaited] == ["a", "b"]
    j.move(run.step("a"), Status.FAILED)
    assert j.failing is run.step("a")
    j.move(run.step("db"), Status.FAILED)
    assert (j.failing, j.at_step) == (run.step("db"), 2)
    j.recount()
    assert j.failing is run.step("db")
    j.move(run.step("b"), Status.SKIPPED)
    assert (j.at_step, j.own_steps_over) == (2, True)
    assert sim(job("j")).run.jobs[0].at_step == 0


def test_a_background_step_that_waits_again_keeps_its_place() -> None:
    run = started(job("j", "a", step("db", background=True), "b"))
    [j] = run.run.jobs
    j.move(run.step("a"), Status.SUCCEEDED)
    for status, expected in (
        (Status.RUNNING, ["b"]),
        (Status.PENDING, ["db", "b"]),
        (Status.QUEUED, ["db", "b"]),
        (Status.RUNNING, ["b"]),
    ):
        j.move(run.step("db"), status)
        assert [one.name for one in j.awaited] == expected


def test_a_step_that_is_over_or_beside_may_be_told_so_again() -> None:
    run = started(job("j", "a", step("db", background=True), "b"))
    [j] = run.run.jobs
    for status in (Status.FAILED, Status.SUCCEEDED):
        j.move(run.step("a"), status)
        assert [one.name for one in j.unfinished] == ["db", "b"]
    j.move(run.step("db"), Status.RUNNING)
    j.move(run.step("db"), Status.RUNNING)
    assert [one.name for one in j.awaited] == ["b"]
