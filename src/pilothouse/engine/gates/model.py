"""Gates and their kinds; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.engine.model import Status

HOLD, WINDOW, CHILD_RUN = "hold", "window", "run"
"""The kinds that the engine has itself."""


@dataclass(frozen=True, slots=True)
class Approval:
    """That a user approved a gate: their id, and the name they had then; ``at`` in ms."""

    user_id: str
    user: str
    at: int
    comment: str = ""


@dataclass(slots=True)
class Gate:
    """An opened gate; its ``id`` is the step run id of its step.

    ``run_name``, ``job`` and ``step`` are names. ``status``: ``open``, ``approved``, ``rejected``, or ``closed``
    without a decision. ``roles`` and ``users`` (names): its approvers; if both are empty, users cannot decide it.
    ``needed``: the number of approvals that it needs, each of another user; ``approvals``: those that counted at the
    last decision, the oldest first. ``child_run``: the run it waits for. Times in ms, 0: none.
    """

    id: str
    run_id: str
    project: str
    kind: str
    status: str = "open"
    message: str = ""
    roles: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    child_run: str = ""
    opened_at: int = 0
    deadline: int = 0
    closed_at: int = 0
    decided_by: str = ""
    decided_by_id: str = ""
    comment: str = ""
    run_name: str = ""
    job: str = ""
    step: str = ""
    needed: int = 1
    approvals: list[Approval] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a gate. ``reason`` is empty if it succeeded."""

    status: Status
    reason: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)


class GateInvalid(Exception):
    """The arguments of a gate are invalid, or its action is not permitted; its step fails with this message."""
