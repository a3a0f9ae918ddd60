"""``hold``: a gate that users approve or reject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.access.model import ACTIONS, Principal, Role
from pilothouse.engine.gates.counting import expired
from pilothouse.engine.gates.model import Gate, GateInvalid, Outcome
from pilothouse.engine.model import Run, Status
from pilothouse.storage import Tx
from pilothouse.wire.bounds import MAX_APPROVALS, MAX_APPROVER, MAX_APPROVERS

MAX_MESSAGE = 1000

_USUAL = sorted(role.value for role in ACTIONS["approval.decide"])


class Hold:
    """Arguments: ``message``, ``count`` (of approvals, 1), ``roles`` and ``users`` (names) that may decide; by
    default operators and admins.
    """

    def opened(self, tx: Tx, run: Run, gate: Gate, args: Mapping[str, Any]) -> Outcome | None:
        """Set who may decide."""
        gate.message = str(args.get("message", ""))[:MAX_MESSAGE]
        gate.roles, gate.users = _names(args, "roles"), _names(args, "users")
        gate.needed = _count(args.get("count", 1))
        unknown = sorted(set(gate.roles) - {role.value for role in Role})
        if unknown:
            raise GateInvalid(f"there is no role {unknown[0][:64]!r}")
        if gate.users and not gate.roles and gate.needed > len(gate.users):
            raise GateInvalid(f"it needs {gate.needed} approvals and names {len(gate.users)} users")
        if not gate.roles and not gate.users:
            gate.roles = list(_USUAL)
        return None

    def due(self, tx: Tx, run: Run, gate: Gate) -> Outcome:
        """The step's timeout has passed."""
        return Outcome(Status.TIMED_OUT, expired(gate))

    def closed(self, tx: Tx, run: Run, gate: Gate) -> None:
        """Nothing to clean up."""


def may_decide(gate: Gate, caller: Principal) -> bool:
    """Whether the caller is an approver of the gate; admins always are."""
    if caller.kind != "user" or caller.role is None:
        return False
    if not caller.may("gate.decide", gate.project):
        return False
    return caller.role is Role.ADMIN or caller.role.value in gate.roles or caller.name in gate.users


def _names(args: Mapping[str, Any], key: str) -> list[str]:
    given = args.get(key) or []
    names = [given] if isinstance(given, str) else given
    if (
        not isinstance(names, list)
        or len(names) > MAX_APPROVERS
        or not all(isinstance(name, str) and len(name) <= MAX_APPROVER for name in names)
    ):
        raise GateInvalid(f"{key} is a list of at most {MAX_APPROVERS} names")
    return sorted(set(names))


def _count(given: Any) -> int:
    """A whole number; also as a text, since variables are texts."""
    try:
        number = int(given) if isinstance(given, str) and len(given) < 10 else given
        if isinstance(number, bool) or int(number) != number or not 1 <= number <= MAX_APPROVALS:
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError):
        raise GateInvalid(f"count is a whole number from 1 to {MAX_APPROVALS}") from None
