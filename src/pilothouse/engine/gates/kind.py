"""The protocol of kinds of gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pilothouse.engine.gates.model import Gate, Outcome
from pilothouse.engine.model import Run
from pilothouse.storage import Tx


class GateKind(Protocol):
    """One kind of gate. All methods run in the transaction in which the gate changes."""

    def opened(self, tx: Tx, run: Run, gate: Gate, args: Mapping[str, Any]) -> Outcome | None:
        """Initialize the gate, or return its outcome to settle it immediately. Raises :class:`GateInvalid`."""

    def due(self, tx: Tx, run: Run, gate: Gate) -> Outcome:
        """The gate's deadline has passed."""

    def closed(self, tx: Tx, run: Run, gate: Gate) -> None:
        """The gate has ended, for any reason."""
