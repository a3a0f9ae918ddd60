"""Gates and their kinds; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.engine.model import Status

HOLD, WINDOW, CHILD_RUN = "hold", "window", "run"
"""The kinds that the engine has itself."""

MAX_COMMENT = 1000
"""Characters of the comment of a decision."""


@dataclass(slots=True)
class Gate:
    """A gate that was opened; its ``id`` is the step run id of its step.

    ``status``: ``open``, ``approved``, ``rejected``, or ``closed`` where nobody decided. ``roles`` and ``users``
    (names) may decide it; neither: nobody may. ``child_run``: the run it waits for. Times are in ms, 0: none.
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a gate ends. ``reason`` is empty where it succeeded."""

    status: Status
    reason: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)


class GateInvalid(Exception):
    """The arguments of a gate make no sense, or what it asks for is refused; its step fails with the message."""
