"""What a child run knows of the run that waits for it; pure."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine.gates.model import GateInvalid


@dataclass(frozen=True, slots=True)
class Parent:
    """What starts a child run: the gate that waits for it, and the definitions that it may not be of."""

    gate: str
    depth: int
    project: str
    definitions: frozenset[str]

    def check(self, definition: str) -> None:
        """Refuse a definition of which a run waits for the child. Raises :class:`GateInvalid`."""
        if definition in self.definitions:
            raise GateInvalid("the run would wait for another run of a definition that waits for it")
