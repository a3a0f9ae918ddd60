"""Status streams on both databases: complete entries and the current state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM
from pilothouse.engine import reruns, store
from pilothouse.engine.model import Step
from pilothouse.engine.service import NewRun, Origin
from pilothouse.engine.streams import arcentra_status as statuses
from pilothouse.fleet.model import TaskReport, TaskStatus
from pilothouse.journal.protobuf import Matching
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.service import Pipelines
from pilothouse.pipelines.spec import parse_spec
from pilothouse.server import watches
from pilothouse.server.system_events import watch_events
from pilothouse.server.watches import JOBS, RUNS, STEP_RUNS, RunFilter, Watch, watch_agents, watch_runs
from pilothouse.wire import entries
from pilothouse.wire.stream.v1 import stream_pb2 as pb
from support.kernel import PROJECT, Kernel
from support.status_checks import PUBLIC_EVENTS, check_statuses

FAILED = TaskStatus.FAILED
TWO = """
jobs:
  - {name: first, steps: [{name: a, uses: dummy}, {name: b, uses: dummy}]}
  - {name: second, steps: [{name: c, uses: dummy}]}
"""
RETRIED = "jobs: [{name: j, steps: [{name: a, uses: dummy, retry: {maxAttempts: 2, delay: 30s}}]}]"
SECRET = """
jobs: [{name: j, steps: [{name: a, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]
"""


def everybody(_scope: str) -> bool:
    return True


def look(kernel: Kernel, find: Callable[[Connection], Watch]) -> Watch:
    with kernel.database.read() as conn:
        return find(conn)


def at(kernel: Kernel, view: watches.View, asked: RunFilter, *, present: bool = True) -> Watch:
    return look(kernel, lambda conn: watch_runs(conn, view, asked, everybody, present=present))


def refused(kernel: Kernel, find: Callable[[Connection], Watch]) -> str:
    with pytest.raises(Refusal) as caught:
        look(kernel, find)
    return caught.value.code


async def of_pipeline(kernel: Kernel, pipeline_id: str, spec: str = TWO) -> str:
    """A run of a definition."""
    new = NewRun("pipeline", "build", PROJECT, compile_spec(parse_spec(spec).spec), Origin(pipeline_id))
    run = await kernel.write(lambda tx: kernel.engine.start(tx, SYSTEM, new))
    await kernel.pump()
    return run.id


async def defined(kernel: Kernel, name: str) -> str:
    """A definition."""
    pipelines = Pipelines(kernel.engine, kernel.identity, kernel.journal)
    return (await kernel.write(lambda tx: pipelines.create(tx, SYSTEM, PROJECT, name))).id


# -- entries ------------------------------------------------------------------------------------------------


async def test_a_step_that_waits_to_be_tried_again_does_not_run(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(RETRIED)
    await kernel.do(agent, FAILED)
    assert kernel.view(run_id)["status"] == "running"
    check_statuses(kernel.database, kernel.entries())
    told = [m for m in map(statuses.job_status, kernel.entries()) if m]
    assert [m.running_steps for m in told] == [0, 0, 1, 0]
    await kernel.beat(31, agent)
    check_statuses(kernel.database, kernel.entries())
    await kernel.do(agent)
    assert [m.attempt for m in map(statuses.step_run_status, kernel.entries()) if m] == [1, 1, 1, 2, 2, 2]


async def test_what_was_measured_is_masked_and_bounded(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await kernel.secret("TOKEN", "s3cr3t-value")
    run_id = await kernel.run(SECRET)
    await kernel.ack(agent)
    metrics = {"leak s3cr3t-value": "it is s3cr3t-value", **{f"m{n}": "x" * 1000 for n in range(200)}}
    report = TaskReport(agent.last.id, TaskStatus.SUCCEEDED, metrics=metrics)
    await kernel.write(lambda tx: kernel.fleet.report(tx, "a1", report))
    [told] = kernel.told(run_id, entries.ATTEMPT_COMPLETED)
    assert told["metrics"]["leak ***"] == "it is ***"
    assert "s3cr3t-value" not in str(told)
    assert len(told["metrics"]) == 100
    assert max(map(len, told["metrics"].values())) == 256


async def test_what_an_entry_says_of_an_agent(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=3, os="linux")
    await kernel.write(lambda tx: kernel.fleet.drain(tx, SYSTEM, "a1", True))
    await kernel.disconnect(agent)
    await kernel.connect("a1")
    told = kernel.entries(entries.agent_stream("a1"))
    assert [(e.type, e.body["status"], e.body.get("previous")) for e in told] == [
        ("agent.registered", "offline", None),
        ("agent.online", "online", "offline"),
        ("agent.draining", "draining", "online"),
        ("agent.offline", "offline", "draining"),
        ("agent.online", "draining", "offline"),
    ]
    assert {(e.body["slots"], e.body["busy"], e.body["labels"]["os"]) for e in told} == {(3, 0, "linux")}
    assert told[2].body["by"] == "system"


# -- how things stand ---------------------------------------------------------------------------------------


async def test_parts_that_are_named(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id, other = await kernel.run(TWO), await kernel.run(TWO)
    await kernel.do(agent)  # of the first run's step a
    run = kernel.load(run_id)
    first, second = (job.id for job in run.jobs)
    [over] = kernel.step(run_id, "a")["attempts"]
    stream = entries.run_stream(run_id)
    for view, asked, shown, going_on in [
        (STEP_RUNS, RunFilter(run_ids=frozenset({run_id})), ["a", "b", "c"], {run_id}),
        (STEP_RUNS, RunFilter(job_ids=frozenset({first})), ["a", "b"], {first}),
        (STEP_RUNS, RunFilter(run_ids=frozenset({run_id}), job_name="second"), ["c"], {second}),
        (STEP_RUNS, RunFilter(step_run_ids=frozenset({over["step_run_id"]})), ["a"], set()),
        (JOBS, RunFilter(run_ids=frozenset({run_id})), ["first", "second"], {run_id}),
        (JOBS, RunFilter(job_ids=frozenset({second})), ["second"], {second}),
        (RUNS, RunFilter(run_ids=frozenset({run_id}), pipeline_ids=frozenset({run_id})), [run_id], {run_id}),
    ]:
        watch = at(kernel, view, asked)
        assert [name_of(m) for m in watch.present] == shown, asked
        assert watch.ending is not None
        assert watch.ending.going_on == going_on, asked
        assert watch.selection.stream == stream
        assert watch.scopes == {f"project/{PROJECT}"}
        assert at(kernel, view, asked, present=False).present == []
    both = at(kernel, RUNS, RunFilter(run_ids=frozenset({run_id, other})))
    assert both.selection.stream is None
    assert [name_of(m) for m in both.present] == [run_id, other]
    wanted = [e for e in kernel.entries() if both.selection.wants(e)]
    assert {e.body["run_id"] for e in wanted} == {run_id, other}
    assert refused(
        kernel, lambda conn: watch_runs(conn, RUNS, RunFilter(run_ids=frozenset({"x"})), everybody, present=True)
    ) == "RUN_NOT_FOUND"  # fmt: skip


def name_of(message: Any) -> str:
    return str(
        getattr(message, "step_name", "")
        or getattr(message, "job_name", "")
        or getattr(message, "run_id", "")
    )


async def test_the_present_of_what_is_not_named(kernel: Kernel) -> None:
    """What is not over, and of a pipeline its newest run in any case."""
    one, two = await defined(kernel, "one"), await defined(kernel, "two")
    runs = [await of_pipeline(kernel, pipeline_id) for pipeline_id in (one, one, two, one)]
    alone = await kernel.run(TWO)  # of no definition
    for run_id in (runs[0], runs[2], runs[3]):
        await kernel.cancel(run_id)
    assert [m.run_id for m in at(kernel, RUNS, RunFilter()).present] == [runs[1], alone]  # type: ignore[attr-defined]
    for pipeline_id, shown in ((one, [runs[1], runs[3]]), (two, [runs[2]]), (alone, [alone])):
        asked = RunFilter(pipeline_ids=frozenset({pipeline_id}))
        watch = at(kernel, RUNS, asked)
        assert [name_of(m) for m in watch.present] == shown
        assert watch.ending is None
        assert {e.body["run_id"] for e in kernel.entries() if watch.selection.wants(e)} == {
            *shown,
            *([runs[0]] if pipeline_id == one else []),
        }
        assert {m.job_name for m in at(kernel, JOBS, asked).present} == {"first", "second"}  # type: ignore[attr-defined]
    selection = at(kernel, JOBS, RunFilter(job_name="second")).selection
    assert isinstance(selection, Matching)
    assert {e.body["job"] for e in kernel.entries() if selection.wants(e)} == {"second"}
    hidden = look(kernel, lambda conn: watch_runs(conn, RUNS, RunFilter(), lambda scope: False, present=True))
    assert hidden.present == []
    # A definition that is gone leaves its runs.
    pipelines = Pipelines(kernel.engine, kernel.identity, kernel.journal)
    await kernel.write(lambda tx: pipelines.delete(tx, SYSTEM, two))
    assert [name_of(m) for m in at(kernel, RUNS, RunFilter(pipeline_ids=frozenset({two}))).present] == [
        runs[2]
    ]


async def test_a_part_costs_no_more_in_a_large_run(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read for one who names a job or a step run is that part, and is shown as in the whole run."""
    agent = await kernel.agent("a1")
    steps = ", ".join(f"{{name: s{n}, uses: dummy}}" for n in range(12))
    run_id = await kernel.run("jobs:" + "".join(f"\n  - {{name: j{n}, steps: [{steps}]}}" for n in range(30)))
    await kernel.do(agent)
    await kernel.do(agent, FAILED)
    made: list[Step] = []

    def counted(*args: Any, **fields: Any) -> Step:
        made.append(Step(*args, **fields))
        return made[-1]

    for module in (store, reruns):
        monkeypatch.setattr(module, "Step", counted)
    whole = frozenset({run_id})
    all_steps = at(kernel, STEP_RUNS, RunFilter(run_ids=whole)).present
    all_jobs = at(kernel, JOBS, RunFilter(run_ids=whole)).present
    assert (len(all_steps), len(all_jobs)) == (360, 30)
    assert len({m.status for m in all_steps}) > 2  # type: ignore[attr-defined]
    for shown in (*all_steps[:30], *all_steps[-2:]):
        made.clear()
        id = frozenset({shown.step_run_id})  # type: ignore[attr-defined]
        assert at(kernel, STEP_RUNS, RunFilter(step_run_ids=id)).present == [shown]
        assert len(made) <= 4
    for shown in (*all_jobs[:2], all_jobs[-1]):
        made.clear()
        job = frozenset({shown.job_id})  # type: ignore[attr-defined]
        assert at(kernel, JOBS, RunFilter(job_ids=job)).present == [shown]
        assert at(kernel, JOBS, RunFilter(run_ids=whole, job_name=shown.job_name)).present == [shown]  # type: ignore[attr-defined]
        of_job = [m for m in all_steps if m.job_id in job]  # type: ignore[attr-defined]
        assert at(kernel, STEP_RUNS, RunFilter(job_ids=job)).present == of_job
        assert len(made) <= 80
    made.clear()
    [shown_run] = at(kernel, RUNS, RunFilter(run_ids=whole)).present
    assert made == []
    assert shown_run == statuses.present_run(kernel.load(run_id))
    ids = frozenset(m.step_run_id for m in all_steps)  # type: ignore[attr-defined]
    assert at(kernel, STEP_RUNS, RunFilter(step_run_ids=ids)).present == all_steps


async def test_too_much_of_a_present_is_refused(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "MAX_PRESENT", 2)
    await kernel.run(TWO)
    assert len(at(kernel, JOBS, RunFilter()).present) == 2
    await kernel.run(TWO)
    assert refused(kernel, lambda conn: watch_runs(conn, JOBS, RunFilter(), everybody, present=True)) == (
        "PAYLOAD_TOO_LARGE"
    )
    assert at(kernel, JOBS, RunFilter(), present=False).present == []


async def test_agents_and_events(kernel: Kernel) -> None:
    agent = await kernel.agent("a1", slots=2)
    await kernel.agent("a2")
    run_id = await kernel.run(TWO)
    await kernel.ack(agent)
    watch = look(kernel, lambda conn: watch_agents(conn, frozenset(), present=True))
    assert [(m.agent_id, m.running_step_runs_count) for m in watch.present] == [("a1", 1), ("a2", 1)]  # type: ignore[attr-defined]
    one = look(kernel, lambda conn: watch_agents(conn, frozenset({"a2"}), present=True))
    assert (one.selection.stream, len(one.present)) == ("agent/a2", 1)
    assert refused(kernel, lambda conn: watch_agents(conn, frozenset({"a3"}), present=True)) == (
        "AGENT_NOT_FOUND"
    )
    for ids, stream in (
        ([agent.last.id], f"run/{run_id}"),
        ([agent.last.job_id, run_id], f"run/{run_id}"),
        (["a1"], "agent/a1"),
        (["a1", run_id], None),
        ([], None),
    ):
        request = pb.StreamEventsRequest(resource_ids=ids)
        found = look(
            kernel, lambda conn, request=request: watch_events(conn, request, everybody, PUBLIC_EVENTS)
        )
        assert found.selection.stream == stream
        assert any(found.selection.wants(entry) for entry in kernel.entries())
