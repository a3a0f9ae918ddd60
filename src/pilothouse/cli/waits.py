"""How gates are told: what an open one waits for, and the command that settles it; who decided it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.cli.reference import short

HOLD = "hold"
"""The kind of gate that people approve or reject."""


def waits_for(kind: str, reason: str, run_id: str, step: str = "") -> str:
    """What an open gate waits for. ``step``: ``job/step``, where others of the run may be open.

    ``reason``: as the server has it, ``waits for 1 of 2 approvals: …``; of gates that an older release opened the
    message alone. ``run_id`` empty: no command can settle it.
    """
    if kind != HOLD:
        return f"waiting: {reason}" if reason else "waiting"
    chosen = f" --step {step}" if step else ""
    command = f" (pilot run approve {short(run_id)}{chosen})" if run_id else ""
    if reason.startswith("waits for "):
        return f"{reason}{command}"
    told = f"waiting for approval{command}"
    return f"{told}: {reason}" if reason else told


def decided(body: Mapping[str, Any], *, alone: bool = False) -> str:
    """How people decided a gate: ``approved by ann (checked)``.

    ``body``: an entry, or the outputs of the step: ``decision``, ``by``, ``comment``; an entry has ``approved_by``
    too: all whose approvals count. ``alone``: only whose decision this was.
    """
    word = {"approve": "approved", "reject": "rejected"}.get(body["decision"], str(body["decision"]))
    by = body.get("by") or "?"
    if body["decision"] == "approve" and not alone:
        by = ", ".join(body.get("approved_by") or [by])
    comment = body.get("comment")
    return f"{word} by {by}" + (f" ({comment})" if comment else "")
