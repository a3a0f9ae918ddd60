"""Streams of protobuf messages: selection, wire format and end; pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from pilothouse.journal.model import Cursor, Entry, Frame, Selection, WireFormat


class ProtoMessage(Protocol):
    """A protobuf message with a ``cursor`` field."""

    cursor: str

    def SerializeToString(self) -> bytes:
        """Encode the message."""


class ProtoFormat:
    """A wire format of serialized messages: one per shown entry, with the cursor after it."""

    def __init__(self, key: str, epoch: str, build: Callable[[Entry], ProtoMessage | None]) -> None:
        self.key = key
        self._epoch = epoch
        self._build = build

    def ends(self, entry: Entry) -> bool:
        """Never; see :class:`UntilEnded`."""
        return False

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The message of the entry, if the format shows it."""
        message = self._build(entry)
        if message is None:
            return ()
        message.cursor = Cursor(entry.offset + 1).text(self._epoch)
        return (Frame(message.SerializeToString(), 1),)


class UntilEnded:
    """A format for one reader that ends once all watched objects have ended.

    Frames are shared with other readers.
    """

    def __init__(self, fmt: WireFormat, type: str, key: str, active: Collection[str]) -> None:
        """``type`` is the entry type that ends an object of ``active``, ``key`` the body key of its id."""
        self.key = fmt.key
        self._fmt = fmt
        self._type = type
        self._id = key
        self._left = set(active)

    def ends(self, entry: Entry) -> bool:
        """Whether this entry ends the last watched object."""
        if entry.type == self._type:
            self._left.discard(entry.body[self._id])
        return not self._left

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The shared frames of the underlying format."""
        return self._fmt.encode(entry)


@dataclass(frozen=True, slots=True)
class Matching(Selection):
    """Entries of some types whose bodies have one of the wanted values under each key."""

    types: frozenset[str] = frozenset()
    values: tuple[tuple[str, frozenset[str]], ...] = ()

    def wants(self, entry: Entry) -> bool:
        """Whether the entry is selected."""
        return entry.type in self.types and all(
            _value(entry.body, key) in wanted for key, wanted in self.values
        )


def _value(body: dict[str, Any], key: str) -> Any:
    # For a run without a definition, pipeline_id is the id of the run (decisions.md).
    return body.get(key) or (body.get("run_id") if key == "pipeline_id" else None)
