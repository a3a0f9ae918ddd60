"""Gates on both databases: approvals, time windows and child runs, and the time limits that stand still meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pilothouse.access.model import SYSTEM, Principal, Role
from pilothouse.engine.errors import ApprovalFixed, GateClosed, GateNotFound, NotAnApprover, NotRetryable
from pilothouse.engine.gates.store import find_gate, list_gates
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.step_runs import StepRuns
from pilothouse.fleet.model import TaskStatus
from pilothouse.pipelines import store as pipeline_store
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from pilothouse.wire import entries
from pilothouse.wire.outputs import MAX_BYTES
from support.kernel import PROJECT, Kernel, RecorderChannel

OPERATOR = Principal("user", "u-1", "olga", Role.OPERATOR, frozenset(), "t-1", None)
USER = Principal("user", "u-2", "uwe", Role.USER, frozenset({PROJECT}), "t-2", None)
OUTSIDER = replace(USER, id="u-3", name="otto", projects=frozenset())

HELD = """
jobs:
  - name: ship
    timeout: 100s
    steps:
      - {name: build, uses: dummy}
      - {name: ask, uses: approval, args: {message: "ship it?"%s}}
      - {name: push, uses: dummy}
      - {name: tidy, uses: dummy, when: always()}
"""


async def held(kernel: Kernel, more: str = "") -> tuple[RecorderChannel, str]:
    """A run whose gate is open, after its first step."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(HELD % more)
    await kernel.do(agent)
    return agent, run_id


def gate_of(kernel: Kernel, run_id: str) -> Any:
    with kernel.database.read() as conn:
        found, _ = list_gates(conn, run=run_id, status="", projects=None, page=1, limit=10)
    return found[0]


async def test_an_approval_lets_the_job_go_on_in_its_workspace(kernel: Kernel) -> None:
    agent, run_id = await held(kernel)
    step = kernel.step(run_id, "ask")
    reason = "waits for approval: needs role admin or role operator: ship it?"
    assert (step["status"], step["gate"], step["reason"]) == ("running", "hold", reason)
    assert agent.names == ["build"]
    [told] = [body for body in kernel.told(run_id, entries.STEP_STARTED) if body["step"] == "ask"]
    assert (told["agent_id"], told["gate"], told["previous"]) == ("", "hold", "pending")
    other = await kernel.run("jobs: [{name: j, steps: [{name: other, uses: dummy}]}]")
    assert agent.names == ["build", "other"], "an open gate holds no slot"
    await kernel.do(agent)
    await kernel.decide(run_id, "ask", by=OPERATOR, comment="looks good")
    assert agent.names == ["build", "other", "push"]
    assert agent.last.workspace == agent.tasks[0].workspace
    assert not agent.last.fresh_workspace
    await kernel.do(agent)
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == kernel.view(other)["status"] == "succeeded"
    outputs = kernel.step(run_id, "ask")["outputs"]
    [approval] = outputs.pop("approvals")
    assert approval == {"by": "olga", "at": outputs.pop("at"), "comment": "looks good"}
    assert outputs == {"decision": "approve", "by": "olga", "comment": "looks good"}
    [decided] = kernel.told(run_id, entries.GATE_DECIDED)
    assert (decided["decision"], decided["by"], decided["comment"]) == ("approve", "olga", "looks good")
    gate = gate_of(kernel, run_id)
    assert (gate.status, gate.decided_by, gate.closed_at) == ("approved", "olga", kernel.clock.now)
    with pytest.raises(GateClosed):
        await kernel.decide(run_id, "ask", "reject", by=OPERATOR)


async def test_a_rejection_fails_the_step_and_what_cleans_up_runs(kernel: Kernel) -> None:
    agent, run_id = await held(kernel)
    await kernel.decide(run_id, "ask", "reject", by=OPERATOR, comment="not on a Friday")
    assert agent.names == ["build", "tidy"]
    await kernel.do(agent)
    step = kernel.step(run_id, "ask")
    assert (step["status"], step["reason"]) == ("failed", "rejected by olga: not on a Friday")
    assert kernel.view(run_id)["status"] == "failed"


async def test_who_may_decide(kernel: Kernel) -> None:
    _, run_id = await held(kernel, ", users: [uwe]")
    for caller, refused in ((OPERATOR, NotAnApprover), (OUTSIDER, GateNotFound)):
        with pytest.raises(refused):
            await kernel.decide(run_id, "ask", by=caller)
    with pytest.raises(NotAnApprover):
        await kernel.decide(run_id, "ask", by=replace(USER, role=Role.VIEWER))
    with pytest.raises(GateNotFound):
        await kernel.write(lambda tx: kernel.gates.decide(tx, OPERATOR, "no-such-gate", "approve", ""))
    assert kernel.step(run_id, "ask")["status"] == "running"
    gate = await kernel.decide(run_id, "ask", by=USER)
    assert gate.status == "approved"


async def test_arguments_that_make_no_sense_fail_the_step(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    wrong = {
        """{roles: ['${{ "king" }}']}""": "there is no role 'king'",
        "{message: '${{ int(variables.number) }}'}": "in ${{ int(variables.number) }}",
    }
    for args, reason in wrong.items():
        graph = f"jobs: [{{name: j, steps: [{{name: ask, uses: approval, args: {args}}}]}}]"
        given = {"number": "many"} if "number" in args else {}
        run_id = await kernel.run(graph, variables=given)
        assert kernel.step(run_id, "ask")["reason"].startswith(reason)
        assert kernel.view(run_id)["status"] == "failed"
    run_id = await kernel.run(Graph((Job("j", (Step("g", gate="unheard-of"),)),)))
    assert "no gate of kind 'unheard-of'" in kernel.step(run_id, "g")["reason"]
    assert agent.names == []


async def test_the_jobs_timeout_stands_still_while_a_gate_is_open(kernel: Kernel) -> None:
    agent, run_id = await held(kernel)
    await kernel.beat(1000, agent)
    assert kernel.step(run_id, "ask")["status"] == "running"
    kernel = await kernel.restart()
    agent = await kernel.connect("a1")
    await kernel.decide(run_id, "ask", by=OPERATOR)
    await kernel.ack(agent)
    await kernel.beat(90, agent)
    assert kernel.step(run_id, "push")["status"] == "running"
    await kernel.beat(20, agent)
    assert [reason for _, reason in agent.cancelled] == ["the job ran longer than its timeout of 1m40s"]
    await kernel.report(agent, TaskStatus.CANCELLED)
    await kernel.do(agent)
    assert kernel.view(run_id)["jobs"][0]["status"] == "timed_out"


async def test_a_gate_has_a_deadline_of_its_own(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run("jobs: [{name: j, steps: [{name: ask, uses: approval, timeout: 50s}]}]")
    await kernel.tick(49)
    assert kernel.step(run_id, "ask")["status"] == "running"
    await kernel.tick(1)
    step = kernel.step(run_id, "ask")
    assert (step["status"], step["reason"]) == ("timed_out", "expired: nobody decided in time")
    assert kernel.view(run_id)["status"] == "failed"
    assert gate_of(kernel, run_id).status == "closed"
    assert agent.names == []


async def test_nobody_decides_after_the_deadline(kernel: Kernel) -> None:
    run_id = await kernel.run("jobs: [{name: j, steps: [{name: ask, uses: approval, timeout: 50s}]}]")
    kernel.clock.now += 50_000
    with pytest.raises(GateClosed, match="expired"):
        await kernel.decide(run_id, "ask", by=OPERATOR)
    kernel = await kernel.restart()
    with pytest.raises(GateClosed, match="expired"):
        await kernel.decide(run_id, "ask", by=OPERATOR)
    await kernel.tick(0)
    assert kernel.step(run_id, "ask")["reason"] == "expired: nobody decided in time"


async def test_an_approval_of_a_user_who_is_gone_does_not_count(kernel: Kernel) -> None:
    _, run_id = await held(kernel, ", count: 2")
    gate = await kernel.decide(run_id, "ask", by=OPERATOR)
    assert [one.user for one in gate.approvals] == ["olga"]
    gate = await kernel.decide(run_id, "ask", by=replace(OPERATOR, id="u-9", name="oscar"))
    assert (gate.status, [one.user for one in gate.approvals]) == ("open", ["oscar"])
    decided = kernel.told(run_id, entries.GATE_DECIDED)[-1]
    assert (decided["approved_by"], decided["no_longer_counted"], decided["needed"]) == (
        ["oscar"],
        ["olga"],
        2,
    )
    assert decided["waits_for"] == kernel.step(run_id, "ask")["reason"]
    assert decided["waits_for"].startswith("waits for 1 of 2 approvals: ")


async def test_an_approval_that_is_still_to_come_is_neither_changed_nor_deleted(kernel: Kernel) -> None:
    await kernel.agent("a1")
    run_id = await kernel.run(HELD % "")
    ask, push = (kernel.step(run_id, name)["attempts"][0]["step_run_id"] for name in ("ask", "push"))
    step_runs = kernel.graph.service(StepRuns)
    for change in (
        lambda tx: step_runs.delete(tx, OPERATOR, ask),
        lambda tx: step_runs.update(tx, OPERATOR, ask, timeout=1.0),
    ):
        with pytest.raises(ApprovalFixed):
            await kernel.write(change)
    await kernel.write(lambda tx: step_runs.update(tx, OPERATOR, push, timeout=1.0))
    assert kernel.step(run_id, "ask")["status"] == "pending"


async def test_a_cancel_ends_an_open_gate_and_opens_none(kernel: Kernel) -> None:
    agent, run_id = await held(kernel)
    await kernel.cancel(run_id)
    assert kernel.step(run_id, "ask")["status"] == "cancelled"
    assert agent.names == ["build", "tidy"]
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "cancelled"
    gated = """
    jobs:
      - name: j
        steps:
          - {name: work, uses: dummy}
          - {name: ask, uses: approval, when: always()}
          - {name: tidy, uses: dummy, when: always()}
    """
    run_id = await kernel.run(gated)
    await kernel.ack(agent)
    await kernel.cancel(run_id)
    await kernel.report(agent, TaskStatus.CANCELLED)
    assert kernel.step(run_id, "ask")["status"] == "cancelled"
    assert agent.last.name == "tidy"
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "cancelled"


async def test_an_approval_that_a_timeout_has_left_out_is_not_passed_by_a_retry(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    run_id = await kernel.run("""
    jobs:
      - name: j
        timeout: 10s
        steps:
          - {name: build, uses: dummy, continueOnError: true}
          - {name: ask, uses: approval}
          - {name: tidy, uses: dummy, when: always()}
          - {name: push, uses: dummy}
    """)
    await kernel.ack(agent)
    await kernel.beat(11, agent)
    await kernel.report(agent, TaskStatus.CANCELLED)
    await kernel.do(agent, TaskStatus.FAILED)
    assert kernel.view(run_id)["jobs"][0]["status"] == "timed_out"
    step_runs = kernel.graph.service(StepRuns)
    tidy = kernel.step(run_id, "tidy")["attempts"][-1]["step_run_id"]
    with pytest.raises(NotRetryable, match="step 'ask' before it"):
        await kernel.write(lambda tx: step_runs.retry(tx, OPERATOR, tidy))
    assert agent.names == ["build", "tidy"]


async def test_a_workspace_removed_before_the_gate_opens(kernel: Kernel) -> None:
    agent, run_id = await held(kernel)
    await kernel.disconnect(agent)
    other = await kernel.agent("a2")
    await kernel.beat(500, other)
    assert kernel.step(run_id, "ask")["status"] == "running", "nobody misses the agent yet"
    await kernel.decide(run_id, "ask", by=OPERATOR)
    await kernel.tick()
    assert kernel.step(run_id, "push")["reason"].startswith("lost: agent a1, which holds the job's workspace")
    again = HELD.replace("timeout: 100s", "onLost: rerun") % ""
    agent = await kernel.connect("a1")
    await kernel.disconnect(other)
    while agent.tasks and kernel.lease(agent.last.id):
        await kernel.do(agent)
    run_id = await kernel.run(again)
    await kernel.do(agent)
    await kernel.disconnect(agent)
    other = await kernel.connect("a2")
    await kernel.beat(500, other)
    await kernel.decide(run_id, "ask", by=OPERATOR)
    await kernel.tick()
    assert other.names == ["build"], "the job begins again"


def window(days: str, start: str, end: str, zone: str = "UTC") -> str:
    args = f"{{days: {days}, from: '{start}', to: '{end}', timezone: {zone}}}"
    return f"jobs: [{{name: j, steps: [{{name: w, uses: window, args: {args}}}]}}]"


async def test_a_window_opens_itself(kernel: Kernel) -> None:
    # The clock begins on Friday, 2027-01-15 08:00 UTC.
    open_now = window("[fri]", "07:00", "09:00")
    run_id = await kernel.run(open_now)
    assert kernel.view(run_id)["status"] == "succeeded"
    later = window("[fri]", "10:00", "12:00", "Europe/Berlin")
    run_id = await kernel.run(later)
    assert kernel.step(run_id, "w")["reason"] == "opens 2027-01-15 09:00 UTC"
    await kernel.tick(3599)
    assert kernel.step(run_id, "w")["status"] == "running"
    await kernel.tick(1)
    assert kernel.view(run_id)["status"] == "succeeded"


# -- child runs -----------------------------------------------------------------------------------------


def parent_of(named: str) -> str:
    return f"""
    jobs:
      - name: j
        steps:
          - {{name: go, uses: pipeline, args: {{pipeline: {named}}}}}
          - {{name: after, uses: dummy}}
    """


async def define(kernel: Kernel, name: str, spec: str) -> str:
    """A pipeline with a spec; returns its id."""
    pipelines = kernel.graph.service(Pipelines)
    made = await kernel.write(lambda tx: pipelines.create(tx, SYSTEM, PROJECT, name))
    await kernel.write(
        lambda tx: pipelines.save_spec(
            tx, SYSTEM, made.id, compile_source(spec), expected_head="", message=""
        )
    )
    return made.id


async def trigger(kernel: Kernel, pipeline_id: str) -> str:
    pipelines = kernel.graph.service(Pipelines)
    run = await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, pipeline_id, TriggerRequest()))
    await kernel.pump()
    return run.id


def child_of(kernel: Kernel, run_id: str) -> str:
    found: str = gate_of(kernel, run_id).child_run
    return found


CHILD = "jobs: [{name: c, steps: [{name: work, uses: dummy}]}]"


async def test_a_child_run_is_waited_for(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await define(kernel, "child", CHILD)
    run_id = await trigger(kernel, await define(kernel, "parent", parent_of("child")))
    child = child_of(kernel, run_id)
    assert kernel.view(child)["parent_gate"] == kernel.step(run_id, "go")["attempts"][0]["step_run_id"]
    assert agent.names == ["work"]
    await kernel.ack(agent)
    await kernel.tell("a1", 1, agent.last.id, "step.output", {"name": "tag", "value": "v1"})
    await kernel.report(agent)
    assert kernel.step(run_id, "go")["outputs"] == {
        "run_id": child,
        "status": "succeeded",
        "outputs": {"tag": "v1"},
    }
    assert agent.names == ["work", "after"]
    await kernel.do(agent)
    assert kernel.view(run_id)["status"] == "succeeded"


async def test_outputs_too_large_for_a_step_are_left_out(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    two = "jobs: [{name: c, steps: [{name: one, uses: dummy}, {name: two, uses: dummy}]}]"
    await define(kernel, "child", two)
    run_id = await trigger(kernel, await define(kernel, "parent", parent_of("child")))
    for seq, name in enumerate(("one", "two"), 1):
        await kernel.ack(agent)
        value = "x" * (MAX_BYTES * 3 // 4)
        await kernel.tell("a1", seq, agent.last.id, "step.output", {"name": name, "value": value})
        await kernel.report(agent)
    assert kernel.step(run_id, "go")["outputs"] == {
        "run_id": child_of(kernel, run_id),
        "status": "succeeded",
        "outputs": {},
    }


async def test_a_child_that_fails_fails_its_gate(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await define(kernel, "child", CHILD)
    run_id = await trigger(kernel, await define(kernel, "parent", parent_of("child")))
    await kernel.do(agent, TaskStatus.FAILED)
    assert kernel.step(run_id, "go")["reason"].endswith(" failed: failed: c")
    assert kernel.view(run_id)["status"] == "failed"


async def test_a_child_is_cancelled_with_its_parent(kernel: Kernel) -> None:
    agent = await kernel.agent("a1")
    await define(kernel, "child", CHILD)
    run_id = await trigger(kernel, await define(kernel, "parent", parent_of("child")))
    child = child_of(kernel, run_id)
    await kernel.ack(agent)
    await kernel.cancel(run_id)
    assert kernel.view(run_id)["status"] == "cancelled"
    assert [task for task, _ in agent.cancelled] == [agent.last.id]
    await kernel.report(agent, TaskStatus.CANCELLED)
    assert kernel.view(child)["status"] == "cancelled"


async def test_no_run_waits_for_itself(kernel: Kernel) -> None:
    await define(kernel, "one", parent_of("two"))
    two = await define(kernel, "two", parent_of("one"))
    run_id = await trigger(kernel, two)
    assert "definition that waits for it" in kernel.step(child_of(kernel, run_id), "go")["reason"]
    assert kernel.view(run_id)["status"] == "failed"


async def test_runs_nest_eight_deep(kernel: Kernel) -> None:
    await kernel.agent("a1")
    for depth in range(10):
        await define(kernel, f"p{depth}", parent_of(f"p{depth + 1}") if depth < 9 else CHILD)
    with kernel.database.read() as conn:
        top = pipeline_store.pipeline_named(conn, PROJECT, "p0")
    assert top is not None
    run_id = await trigger(kernel, top.id)
    chain = [run_id]
    while (child := child_of(kernel, chain[-1])) and kernel.step(child, "go")["attempts"]:
        chain.append(child)
        if not gate_of(kernel, child).child_run:
            break
    assert len(chain) == 9
    assert kernel.step(chain[-1], "go")["reason"] == "runs nest at most 8 deep"
    assert kernel.view(run_id)["status"] == "failed"


async def test_a_user_that_lost_the_permission_to_start_runs(kernel: Kernel) -> None:
    await define(kernel, "child", CHILD)
    parent = await define(kernel, "parent", parent_of("child"))
    pipelines = kernel.graph.service(Pipelines)
    run = await kernel.write(lambda tx: pipelines.trigger(tx, USER, parent, TriggerRequest()))
    assert kernel.step(run.id, "go")["reason"] == "uwe, who started this run, may not start another"


async def test_a_gate_is_found_by_the_id_of_its_step_run(kernel: Kernel) -> None:
    _, run_id = await held(kernel)
    step_run_id = kernel.step(run_id, "ask")["attempts"][0]["step_run_id"]
    with kernel.database.read() as conn:
        gate = find_gate(conn, step_run_id)
    assert gate is not None
    assert gate.run_id == run_id
