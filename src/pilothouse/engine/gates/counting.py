"""The counting of a gate's approvals, and what an open gate waits for; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pilothouse.engine.gates.model import HOLD, Approval, Gate

MAX_NAMED = 10
"""Approvers that a reason names; the view of a gate has them all."""


@dataclass(frozen=True, slots=True)
class Count:
    """The approvals that count now, the oldest first. ``added``: the new one is among them; ``lost``: the names of
    users whose approval counted before and does not any more."""

    approvals: list[Approval]
    added: bool
    lost: list[str]


def count(approvals: list[Approval], new: Approval, may_decide: Callable[[Approval], bool]) -> Count:
    """Count the approvals again, with a new one.

    Each user counts once: with the first approval since they may decide. ``may_decide``: whether whoever approved
    before may do so now; the user of the new approval may.
    """
    still = [one for one in approvals if one.user_id == new.user_id or may_decide(one)]
    lost = [one.user for one in approvals if one not in still]
    added = all(one.user_id != new.user_id for one in still)
    return Count([*still, new] if added else still, added, lost)


def waits_for(gate: Gate) -> str:
    """What an open gate waits for: ``waits for 2 of 3 approvals: needs role operator or user ann: ship it?``."""
    if gate.kind != HOLD:
        return gate.message
    left = gate.needed - len(gate.approvals)
    number = "approval" if gate.needed == 1 else f"{left} of {gate.needed} approvals"
    message = f": {gate.message}" if gate.message else ""
    return f"waits for {number}: needs {approvers(gate.roles, gate.users)}{message}"


def expired(gate: Gate) -> str:
    """The reason of a gate that was not approved before its deadline."""
    if gate.needed == 1:
        return "expired: nobody decided in time"
    return f"expired: {len(gate.approvals)} of {gate.needed} approvals in time"


def approvers(roles: list[str], users: list[str]) -> str:
    """Who may decide: ``role operator or user ann``."""
    named = [*(f"role {role}" for role in roles), *(f"user {user}" for user in users)]
    if len(named) > MAX_NAMED:
        named = [*named[:MAX_NAMED], f"{len(named) - MAX_NAMED} more"]
    return " or ".join(named) or "role admin"
