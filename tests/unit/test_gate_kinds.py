"""The kinds of gates: what arguments make of a gate, who may decide it, and how it ends. Without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM, Principal, Role
from pilothouse.engine.gates.child import outcome_of
from pilothouse.engine.gates.hold import Hold, may_decide
from pilothouse.engine.gates.http import _decidable, gate_view
from pilothouse.engine.gates.model import Approval, Gate, GateInvalid, Outcome
from pilothouse.engine.gates.parent import Parent
from pilothouse.engine.gates.service import check_comment
from pilothouse.engine.gates.window import TimeWindow, read_window
from pilothouse.engine.model import Run, Status
from pilothouse.wire.outputs import MAX_BYTES

NONE: Any = None  # a transaction or run of which nothing is used
GATE = Gate("g1", "r1", "p1", "hold", opened_at=1000)
UWE = Principal("user", "u-2", "uwe", Role.USER, frozenset({"p1"}), "t-2", None)
NAMES = [f"n{number:02}" for number in range(51)]


# -- hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, {"roles": ["admin", "operator"]}),
        ({"message": "ship it?", "users": []}, {"message": "ship it?", "roles": ["admin", "operator"]}),
        ({"roles": "user"}, {"roles": ["user"]}),
        ({"users": ["uwe", "ada", "uwe"]}, {"users": ["ada", "uwe"]}),
        ({"roles": ["viewer", "user"], "users": "uwe"}, {"roles": ["user", "viewer"], "users": ["uwe"]}),
        ({"users": NAMES[:50]}, {"users": NAMES[:50]}),
        ({"message": "x" * 1001, "roles": None}, {"message": "x" * 1000, "roles": ["admin", "operator"]}),
        ({"count": "20", "users": NAMES[:20]}, {"needed": 20, "users": NAMES[:20]}),
        ({"count": 2, "users": "uwe", "roles": "user"}, {"needed": 2, "users": ["uwe"], "roles": ["user"]}),
        ({"message": 5}, {"message": "5", "roles": ["admin", "operator"]}),
    ],
)
def test_what_arguments_make_of_an_approval(args: dict[str, Any], expected: dict[str, Any]) -> None:
    gate = replace(GATE)
    assert Hold().opened(NONE, NONE, gate, args) is None
    assert gate == replace(GATE, **expected)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"roles": ["queen", "king"]}, "there is no role 'king'"),
        ({"roles": "k" * 63}, f"there is no role '{'k' * 63}'"),
        ({"roles": "k" * 64}, "roles is a list of at most 50 names"),
        ({"count": 21}, "count is a whole number from 1 to 20"),
        ({"count": 2, "users": "uwe"}, "it needs 2 approvals and names 1 users"),
        ({"users": NAMES}, "users is a list of at most 50 names"),
        ({"users": ["a", 1]}, "users is a list of at most 50 names"),
        ({"roles": {"a": "b"}}, "roles is a list of at most 50 names"),
    ],
)
def test_arguments_of_an_approval_that_make_no_sense(args: dict[str, Any], why: str) -> None:
    with pytest.raises(GateInvalid) as caught:
        Hold().opened(NONE, NONE, replace(GATE), args)
    assert str(caught.value) == why


def test_an_approval_that_nobody_gave() -> None:
    assert Hold().due(NONE, NONE, GATE) == Outcome(Status.TIMED_OUT, "expired: nobody decided in time")


@pytest.mark.parametrize(
    ("caller", "named", "may"),
    [
        (UWE, {"users": ["uwe"]}, True),
        (UWE, {"users": ["ada"]}, False),
        (UWE, {"roles": ["user"]}, True),
        (UWE, {"roles": ["operator"], "users": ["u-2"]}, False),
        (replace(UWE, role=Role.ADMIN), {"users": ["ada"]}, True),
        (replace(UWE, role=Role.OPERATOR, projects=frozenset()), {"roles": ["operator"]}, True),
        (replace(UWE, role=Role.OPERATOR), {}, False),
        (replace(UWE, role=Role.VIEWER), {"users": ["uwe"], "roles": ["viewer"]}, False),
        (replace(UWE, projects=frozenset({"p2"})), {"users": ["uwe"], "roles": ["user"]}, False),
        (replace(UWE, role=Role.ADMIN, token_projects=frozenset({"p2"})), {}, False),
        (replace(UWE, role=None), {"users": ["uwe"]}, False),
        (replace(UWE, kind="agent"), {"users": ["uwe"], "roles": ["user"]}, False),
        (SYSTEM, {"users": [SYSTEM.name], "roles": ["admin"]}, False),
    ],
)
def test_who_may_decide(caller: Principal, named: dict[str, Any], may: bool) -> None:
    gate = replace(GATE, **named)
    assert may_decide(gate, caller) is may
    assert _decidable(gate, caller) is may
    assert not _decidable(replace(gate, status="approved"), caller)
    assert not _decidable(replace(gate, kind="window"), caller)


def test_comments_that_can_be_stored() -> None:
    assert check_comment("all\nfine") == "all\nfine"
    with pytest.raises(Refusal) as caught:
        check_comment("a\0b")
    assert (caught.value.code, caught.value.message) == (
        "VALIDATION_FAILED",
        "a comment holds no NUL characters",
    )


# -- window -------------------------------------------------------------------------------------------------

DAYS = "days are a list of mon, tue, wed, thu, fri, sat, sun"
ZONE = "timezone is a name of the IANA database, such as Europe/Berlin"


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"days": ["mon", "monday"]}, DAYS),
        ({"days": ["mon"] * 8}, DAYS),
        ({"days": {"mon": 1}}, DAYS),
        ({"from": "24:00"}, "from is a time such as 22:00"),
        ({"from": 9}, "from is a time such as 22:00"),
        ({"to": "9:00"}, "to is a time such as 22:00"),
        ({"to": "19:60"}, "to is a time such as 22:00"),
        ({"timezone": "Mars/Olympus"}, ZONE),
        ({"timezone": "a" * 33}, ZONE),
        ({"timezone": ["UTC"]}, ZONE),
        ({"timezone": "Europe"}, ZONE),  # a directory
    ],
)
def test_arguments_of_a_window_that_make_no_sense(args: dict[str, Any], why: str) -> None:
    with pytest.raises(GateInvalid) as caught:
        read_window(args)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("args", "now", "opens"),
    [
        # The whole day ends with its last millisecond.
        ({"days": "fri"}, "2027-01-15T23:59:59.999Z", "2027-01-15T23:59:59.999Z"),
        ({"days": "thu"}, "2027-01-15T00:00Z", "2027-01-21T00:00Z"),
        ({"days": ("sat", "mon")}, "2027-01-15T00:00Z", "2027-01-16T00:00Z"),
        ({"days": []}, "2027-01-15T00:00Z", "2027-01-15T00:00Z"),
        ({"from": "09:30", "to": "09:31"}, "2027-01-15T09:29:59.999Z", "2027-01-15T09:30Z"),
        ({"from": "09:30", "to": "09:31"}, "2027-01-15T09:31Z", "2027-01-16T09:30Z"),
        ({"days": "fri", "from": "09:30", "to": "09:31"}, "2027-01-15T09:31Z", "2027-01-22T09:30Z"),
        # It was over on Friday, begins on Friday next, and is on Friday in Auckland already.
        ({"days": "fri", "timezone": "Pacific/Auckland"}, "2027-01-14T10:59Z", "2027-01-14T11:00Z"),
        ({"days": "fri", "timezone": "Pacific/Auckland"}, "2027-01-15T11:00Z", "2027-01-21T11:00Z"),
        ({"days": "fri", "from": "22:00", "to": "22:00"}, "2027-01-16T21:59Z", "2027-01-16T21:59Z"),
        ({"days": "fri", "from": "22:00", "to": "22:00"}, "2027-01-16T22:00Z", "2027-01-22T22:00Z"),
        ({"timezone": None, "from": "19:05"}, "2027-01-15T19:04Z", "2027-01-15T19:05Z"),
        ({"timezone": "America/Argentina/Salta", "from": "23:59"}, "2027-01-15T04:00Z", "2027-01-16T02:59Z"),
    ],
)
def test_when_a_window_opens(args: dict[str, Any], now: str, opens: str) -> None:
    assert read_window(args).opens(ms(now)) == ms(opens)


def test_a_window_waits_until_it_opens() -> None:
    gate, kind = replace(GATE, kind="window"), TimeWindow()
    tx: Any = SimpleNamespace(now=ms("2027-01-15T08:00Z"))
    assert kind.opened(tx, NONE, gate, {"from": "10:05", "timezone": "Europe/Berlin"}) is None
    expected: dict[str, Any] = {"deadline": ms("2027-01-15T09:05Z"), "message": "opens 2027-01-15 09:05 UTC"}
    assert gate == replace(GATE, kind="window", **expected)
    assert kind.due(tx, NONE, gate) == Outcome(Status.SUCCEEDED)


def test_an_open_window_lets_through_at_once() -> None:
    gate = replace(GATE, kind="window")
    tx: Any = SimpleNamespace(now=ms("2027-01-15T08:00Z"))
    assert TimeWindow().opened(tx, NONE, gate, {}) == Outcome(Status.SUCCEEDED)
    assert gate.message == ""


# -- child runs ---------------------------------------------------------------------------------------------


def ended(status: Status, reason: str, outputs: dict[str, str]) -> Run:
    """Stands in for a run; only these attributes are read."""
    stands_in: Any = SimpleNamespace(id="r9", status=status, reason=reason, outputs=lambda: outputs)
    run: Run = stands_in
    return run


@pytest.mark.parametrize(
    ("status", "reason", "expected", "why"),
    [
        (Status.SUCCEEDED, "", Status.SUCCEEDED, ""),
        (Status.FAILED, "failed: j", Status.FAILED, "run r9 failed: failed: j"),
        (Status.CANCELLED, "", Status.FAILED, "run r9 cancelled"),
    ],
)
def test_how_a_child_run_ends_its_gate(status: Status, reason: str, expected: Status, why: str) -> None:
    outputs = {"run_id": "r9", "status": status.value, "outputs": {"tag": "v1"}}
    child = ended(status, reason, {"tag": "v1"})
    assert outcome_of(child) == Outcome(expected, why, outputs)


def test_outputs_of_a_child_run_as_large_as_a_step_may_have() -> None:
    frame = len('{"run_id":"r9","status":"succeeded","outputs":{"a":""}}')
    fitting = {"a": "x" * (MAX_BYTES - frame)}
    assert outcome_of(ended(Status.SUCCEEDED, "", fitting)).outputs["outputs"] == fitting
    large = {"a": "x" * (MAX_BYTES - frame + 1)}
    assert outcome_of(ended(Status.SUCCEEDED, "", large)).outputs == {
        "run_id": "r9",
        "status": "succeeded",
        "outputs": {},
    }


def test_a_run_does_not_wait_for_a_definition_above_it() -> None:
    parent = Parent("g1", 1, "p1", frozenset({"d1", "d2"}))
    parent.check("d3")
    with pytest.raises(GateInvalid) as caught:
        parent.check("d1")
    assert str(caught.value) == "the run would wait for another run of a definition that waits for it"


# -- as JSON ------------------------------------------------------------------------------------------------


def test_the_view_of_a_gate() -> None:
    open_gate = Gate("g1", "r1", "p1", "hold", message="sure?", roles=["admin"], users=["uwe"], opened_at=1)
    shown = {
        "id": "g1",
        "run_id": "r1",
        "run_name": "build",
        "job": "j",
        "step": "s",
        "project": "p1",
        "kind": "hold",
        "status": "open",
        "message": "sure?",
        "roles": ["admin"],
        "users": ["uwe"],
        "count": 2,
        "approvals": [],
        "waits_for": "waits for 2 of 2 approvals: needs role admin or user uwe: sure?",
        "child_run": None,
        "decidable": True,
        "opened_at": "1970-01-01T00:00:00.001Z",
        "deadline": None,
        "closed_at": None,
        "decided_by": None,
        "comment": "",
    }
    open_gate.run_name, open_gate.job, open_gate.step, open_gate.needed = "build", "j", "s", 2
    assert gate_view(open_gate, decidable=True) == shown
    more: dict[str, Any] = {
        "status": "approved",
        "approvals": [Approval("u1", "uwe", 2)],
        "child_run": "r2",
        "deadline": 2,
        "closed_at": 3,
        "decided_by": "ada",
        "comment": "fine",
    }
    assert gate_view(replace(open_gate, **more), decidable=False) == {
        **shown,
        "status": "approved",
        "approvals": [{"by": "uwe", "at": "1970-01-01T00:00:00.002Z"}],
        "waits_for": "",
        "child_run": "r2",
        "deadline": "1970-01-01T00:00:00.002Z",
        "closed_at": "1970-01-01T00:00:00.003Z",
        "decided_by": "ada",
        "comment": "fine",
        "decidable": False,
    }
