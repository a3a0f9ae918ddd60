"""The reference of a child run to the run that waits for it; pure."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine.gates.model import GateInvalid


@dataclass(frozen=True, slots=True)
class Parent:
    """The gate that waits for a child run, and the definitions of its ancestors, which the child may not use."""

    gate: str
    depth: int
    project: str
    definitions: frozenset[str]

    def check(self, definition: str) -> None:
        """Refuse a definition of an ancestor, which would wait for itself. Raises :class:`GateInvalid`."""
        if definition in self.definitions:
            raise GateInvalid("the run would wait for another run of a definition that waits for it")
