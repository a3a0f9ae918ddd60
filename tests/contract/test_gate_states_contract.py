"""Gates as they are stored and listed, on both databases: each state as a whole, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pilothouse.access.model import SYSTEM, Principal, Role
from pilothouse.engine.errors import GateClosed, GateNotFound, NotAnApprover
from pilothouse.engine.gates.model import Approval, Gate, Outcome
from pilothouse.engine.gates.store import find_gate, insert_gate, list_gates
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.model import Status
from pilothouse.identity.records import list_audit
from pilothouse.wire import entries
from pilothouse.wire.times import rfc3339_ms
from support.kernel import PROJECT, Kernel
from support.pipelines import define, start

OLGA = Principal("user", "u-1", "olga", Role.OPERATOR, frozenset(), "t-1", None)
ASK = "jobs: [{name: j, steps: [{name: ask, uses: approval, timeout: 50s, args: {message: 'sure?'}}]}]"
WEEKEND = "{days: [sat], from: '09:00', to: '10:00'}"
WINDOW = f"jobs: [{{name: j, steps: [{{name: w, uses: window, %s args: {WEEKEND}}}]}}]"
SATURDAY = 25 * 3_600_000
"""From the beginning of the clock (Friday, 2027-01-15 08:00 UTC) until the window opens."""


def gates_of(kernel: Kernel, **more: Any) -> tuple[list[Gate], int]:
    given: dict[str, Any] = {"run": "", "status": "", "projects": None, "page": 1, "limit": 10, **more}
    with kernel.database.read() as conn:
        return list_gates(conn, **given)


async def asked(kernel: Kernel) -> Gate:
    """The open gate of a run that waits for approval."""
    run_id = await kernel.run(ASK)
    [gate], _ = gates_of(kernel, run=run_id)
    step_run = kernel.step(run_id, "ask")["attempts"][0]["step_run_id"]
    assert gate == Gate(
        id=step_run,
        run_id=run_id,
        project=PROJECT,
        kind="hold",
        message="sure?",
        roles=["admin", "operator"],
        opened_at=kernel.clock.now,
        deadline=kernel.clock.now + 50_000,
        run_name="build",
        job="j",
        step="ask",
    )
    return gate


@pytest.mark.parametrize(
    ("decision", "status", "step", "reason"),
    [
        ("approve", "approved", "succeeded", ""),
        ("reject", "rejected", "failed", "rejected by olga: not on a Friday"),
    ],
)
async def test_a_decision(kernel: Kernel, decision: str, status: str, step: str, reason: str) -> None:
    gate = await asked(kernel)
    kernel.clock.advance(7)
    returned = await kernel.decide(gate.run_id, "ask", decision, by=OLGA, comment="not on a Friday")
    decided: dict[str, Any] = {"decided_by": "olga", "decided_by_id": "u-1", "comment": "not on a Friday"}
    given = [Approval("u-1", "olga", kernel.clock.now, "not on a Friday")] if decision == "approve" else []
    expected = replace(
        gate, status=status, deadline=0, closed_at=kernel.clock.now, approvals=given, **decided
    )
    assert returned == expected
    assert gates_of(kernel) == ([expected], 1)
    shown = kernel.step(gate.run_id, "ask")
    assert (shown["status"], shown["reason"]) == (step, reason)
    assert shown["outputs"] == {
        **{
            "decision": decision,
            "by": "olga",
            "comment": "not on a Friday",
            "at": rfc3339_ms(kernel.clock.now),
        },
        "approvals": [{"by": "olga", "at": rfc3339_ms(one.at), "comment": one.comment} for one in given],
    }
    [entry] = kernel.entries(entries.run_stream(gate.run_id), entries.GATE_DECIDED)
    assert entry.subject == gate.id
    told = (
        "step",
        "job",
        "step_run_id",
        "attempt",
        "decision",
        "by",
        "by_id",
        "comment",
        "waits_for",
        "needed",
    )
    assert [entry.body[key] for key in told] == [
        *("ask", "j", gate.id, 1, decision),
        *("olga", "u-1", "not on a Friday", "", 1),
    ]
    assert (entry.body["approved_by"], entry.body["no_longer_counted"]) == ([one.user for one in given], [])
    with kernel.database.read() as conn:
        records, _ = list_audit(conn, actor="olga", action=None, target=None, since=None, offset=0, limit=5)
    [record] = records
    assert (record.action, record.target) == (f"gate.{decision}", gate.id)
    assert record.detail == {"run": gate.run_id, "comment": "not on a Friday"}


async def test_a_rejection_without_a_comment(kernel: Kernel) -> None:
    gate = await asked(kernel)
    await kernel.decide(gate.run_id, "ask", "reject", by=OLGA)
    assert kernel.step(gate.run_id, "ask")["reason"] == "rejected by olga"


async def test_what_cannot_be_decided_says_why(kernel: Kernel) -> None:
    gate = await asked(kernel)

    async def refused(by: Principal, gate_id: str) -> str:
        with pytest.raises((GateClosed, GateNotFound, NotAnApprover)) as caught:
            await kernel.write(lambda tx: kernel.gates.decide(tx, by, gate_id, "approve", ""))
        return str(caught.value)

    user = replace(OLGA, role=Role.USER, projects=frozenset({PROJECT}))
    assert await refused(user, gate.id) == "this gate is decided by role admin or role operator"
    nobody = replace(user, projects=frozenset())
    assert await refused(nobody, gate.id) == f"No gate with ID '{gate.id}' exists"
    assert await refused(OLGA, "g0") == "No gate with ID 'g0' exists"
    kernel.clock.advance(50)
    assert await refused(OLGA, gate.id) == "the gate is expired", "the timekeeper has not closed it yet"
    await kernel.tick(0)
    assert await refused(OLGA, gate.id) == "the gate is closed"
    run_id = await kernel.run(WINDOW % "")
    [window], _ = gates_of(kernel, run=run_id)
    admin = replace(OLGA, role=Role.ADMIN)
    assert await refused(admin, window.id) == "the gate is not for people to decide: it is a window"
    await kernel.write(lambda tx: insert_gate(tx.conn, replace(gate, id="g0")))
    assert await refused(OLGA, "g0") == "the gate is open", "its run does not know it"


async def test_a_gate_whose_time_is_over(kernel: Kernel) -> None:
    gate = await asked(kernel)
    await kernel.tick(50)
    assert gates_of(kernel) == (
        [replace(gate, status="closed", deadline=0, closed_at=kernel.clock.now)],
        1,
    )


@pytest.mark.parametrize(
    ("timeout", "seconds", "status", "reason"),
    [
        ("", SATURDAY // 1000, "succeeded", ""),
        ("timeout: 30h,", SATURDAY // 1000, "succeeded", ""),
        ("timeout: 25h,", SATURDAY // 1000, "timed_out", "the gate was not passed within the step's timeout"),
        ("timeout: 90s,", 90, "timed_out", "the gate was not passed within the step's timeout"),
    ],
)
async def test_a_window_and_the_steps_timeout(
    kernel: Kernel, timeout: str, seconds: int, status: str, reason: str
) -> None:
    run_id = await kernel.run(WINDOW % timeout)
    [gate], _ = gates_of(kernel)
    assert gate.deadline == kernel.clock.now + seconds * 1000
    assert kernel.step(run_id, "w")["reason"] == gate.message == "opens 2027-01-16 09:00 UTC"
    await kernel.tick(seconds - 1)
    assert kernel.step(run_id, "w")["status"] == "running"
    await kernel.tick(1)
    step = kernel.step(run_id, "w")
    assert (step["status"], step["reason"]) == (status, reason)


async def test_gates_are_listed_with_the_newest_first(kernel: Kernel) -> None:
    gate = await asked(kernel)
    more = [
        Gate("g1", "r1", "p1", "hold", opened_at=kernel.clock.now + 1),
        Gate("g2", "r1", "p2", "window", status="closed", users=["uwe"], opened_at=kernel.clock.now + 1),
        Gate("g3", "r2", "p2", "run", child_run="r1", opened_at=5, deadline=6, closed_at=7),
    ]

    def insert(tx: Any) -> None:
        for each in more:
            insert_gate(tx.conn, each)

    await kernel.write(insert)
    g1, g2, g3 = more
    assert gates_of(kernel) == ([g2, g1, gate, g3], 4)
    assert gates_of(kernel, run="r1") == ([g2, g1], 2)
    assert gates_of(kernel, status="open") == ([g1, gate, g3], 3)
    assert gates_of(kernel, run="r1", status="closed") == ([g2], 1)
    assert gates_of(kernel, projects=frozenset({"p2"})) == ([g2, g3], 2)
    assert gates_of(kernel, projects=frozenset({"p1", "p2"}), status="open") == ([g1, g3], 2)
    assert gates_of(kernel, projects=frozenset()) == ([], 0)
    assert gates_of(kernel, page=1, limit=3) == ([g2, g1, gate], 4)
    assert gates_of(kernel, page=2, limit=3) == ([g3], 4)
    assert gates_of(kernel, page=3, limit=2)[0] == []
    with kernel.database.read() as conn:
        assert find_gate(conn, "g3") == g3
        assert find_gate(conn, "g4") is None


async def test_a_gate_of_another_package_is_settled_once(kernel: Kernel) -> None:
    class Elsewhere:
        """Decided by what is not the engine."""

        def opened(self, tx: Any, run: Any, gate: Gate, args: Any) -> None:
            gate.message = f"waits for {args['it']}"

        def due(self, tx: Any, run: Any, gate: Gate) -> Outcome:
            return Outcome(Status.FAILED, "too late")

        def closed(self, tx: Any, run: Any, gate: Gate) -> None:
            closed.append(gate.id)

    closed: list[str] = []
    kernel.gates.handle("elsewhere", Elsewhere())
    step = Step("s", gate="elsewhere", args={"it": "${{ variables.it }}"})
    run_id = await kernel.run(Graph((Job("j", (step,)),)), variables={"it": "a reply"})
    [gate], _ = gates_of(kernel)
    assert gate.message == "waits for a reply"
    outcome = Outcome(Status.SUCCEEDED, "", {"answer": "yes"})

    async def settle(gate_id: str) -> bool:
        settled: bool = await kernel.write(lambda tx: kernel.gates.settle(tx, gate_id, outcome))
        return settled

    assert not await settle("g0")
    assert closed == []
    assert await settle(gate.id)
    assert not await settle(gate.id)
    assert closed == [gate.id]
    view = kernel.view(run_id)
    assert (view["status"], view["jobs"][0]["steps"][0]["outputs"]) == ("succeeded", {"answer": "yes"})
    await kernel.write(lambda tx: insert_gate(tx.conn, Gate("g0", run_id, PROJECT, "elsewhere")))
    assert not await settle("g0"), "its run does not know it"


async def test_a_gate_of_an_unknown_kind(kernel: Kernel) -> None:
    run_id = await kernel.run(Graph((Job("j", (Step("s", gate="unheard-of"),)),)))
    assert kernel.step(run_id, "s")["reason"] == "this server knows no gate of kind 'unheard-of'"
    [gate], _ = gates_of(kernel)
    assert (gate.kind, gate.status) == ("unheard-of", "closed")


async def test_a_kind_that_a_server_no_longer_knows(kernel: Kernel) -> None:
    """It is opened by one release, and due in another."""
    run_id = await kernel.run(WINDOW % "")
    del kernel.gates._kinds["window"]
    await kernel.tick(SATURDAY // 1000)
    assert kernel.step(run_id, "w")["reason"] == "this server knows no gate of kind 'window'"


async def test_a_child_run_that_takes_too_long(kernel: Kernel) -> None:
    await define(kernel, "below", "uses: approval")
    top = await define(kernel, "above", "uses: pipeline, timeout: 60s, args: {pipeline: below}")
    run_id = await start(kernel, top)
    await kernel.pump()
    [gate], _ = gates_of(kernel, run=run_id)
    child = gate.child_run
    assert gate.message == kernel.step(run_id, "s")["reason"] == f"waits for run {child}"
    await kernel.tick(60)
    assert kernel.step(run_id, "s")["status"] == "timed_out"
    assert kernel.step(run_id, "s")["reason"] == f"run {child} took longer than the step's timeout"
    view = kernel.view(child)
    assert (view["status"], view["reason"]) == ("cancelled", f"run {run_id} no longer waits for it")
    [told] = kernel.told(child, entries.RUN_CANCELLING)
    assert (told["by"], told["by_id"]) == (SYSTEM.name, SYSTEM.id)


async def test_a_child_that_ends_at_once(kernel: Kernel) -> None:
    await define(kernel, "below", "uses: dummy, when: 'false'")
    run_id = await start(kernel, await define(kernel, "above", "uses: pipeline, args: {pipeline: below}"))
    await kernel.pump()
    [gate], _ = gates_of(kernel)
    step = kernel.step(run_id, "s")
    outputs = {"run_id": gate.child_run, "status": "succeeded", "outputs": {}}
    assert (step["status"], step["outputs"]) == ("succeeded", outputs)


async def test_a_gate_of_a_run_names_what_it_starts(kernel: Kernel) -> None:
    run_id = await kernel.run(Graph((Job("j", (Step("s", gate="run", args={"pipelines": "x"}),)),)))
    assert kernel.step(run_id, "s")["reason"] == "it has to name one of: pipeline"
