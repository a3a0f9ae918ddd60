"""How gates are told: what an open one waits for, and the command that settles it; who decided it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.cli.reference import short

HOLD = "hold"
"""The kind of gate that people approve or reject."""


def waits_for(kind: str, message: str, run_id: str, step: str = "") -> str:
    """What an open gate waits for. ``step``: ``job/step``, where others of the run may be open.

    ``run_id`` empty: no command can settle it.
    """
    if kind != HOLD:
        return f"waiting: {message}" if message else "waiting"
    chosen = f" --step {step}" if step else ""
    told = "waiting for approval"
    told += f" (pilot run approve {short(run_id)}{chosen})" if run_id else ""
    return f"{told}: {message}" if message else told


def decided(body: Mapping[str, Any]) -> str:
    """How people decided a gate: ``approved by ann (checked)``. ``body``: ``decision``, ``by``, ``comment``."""
    word = {"approve": "approved", "reject": "rejected"}.get(body["decision"], str(body["decision"]))
    comment = body.get("comment")
    return f"{word} by {body.get('by') or '?'}" + (f" ({comment})" if comment else "")
