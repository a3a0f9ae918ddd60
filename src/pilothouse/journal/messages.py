"""What streams of protobuf messages are made of: which entries, as which bytes, until when; pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from pilothouse.journal.model import Cursor, Entry, Frame, Selection, WireFormat


class Message(Protocol):
    """A protobuf message that says its place in the journal."""

    cursor: str

    def SerializeToString(self) -> bytes:
        """Its bytes on the wire."""


class Messages:
    """A wire format of serialized messages: one for each entry that is shown, with the cursor behind it."""

    def __init__(self, key: str, epoch: str, build: Callable[[Entry], Message | None]) -> None:
        self.key = key
        self._epoch = epoch
        self._build = build

    def ends(self, entry: Entry) -> bool:
        """No entry ends it; see :class:`Until`."""
        return False

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The entry's message, if it has one."""
        message = self._build(entry)
        if message is None:
            return ()
        message.cursor = Cursor(entry.offset + 1).text(self._epoch)
        return (Frame(message.SerializeToString(), 1),)


class Until:
    """A format for one reader: over once all that he watches is over. The frames are those of everybody."""

    def __init__(self, fmt: WireFormat, type: str, key: str, going_on: Collection[str]) -> None:
        """``type`` is the entry that ends one of ``going_on``, ``key`` where its id stands in the body."""
        self.key = fmt.key
        self._fmt = fmt
        self._type = type
        self._id = key
        self._left = set(going_on)

    def ends(self, entry: Entry) -> bool:
        """Whether this was the last end that was waited for."""
        if entry.type == self._type:
            self._left.discard(entry.body[self._id])
        return not self._left

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """As the format says."""
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
    # A run without a definition stands in for it (decisions.md).
    return body.get(key) or (body.get("run_id") if key == "pipeline_id" else None)
