"""Entries, cursors and selections; pure.

A cursor is ``<epoch>.<offset>.<k>``: everything before entry ``offset`` has been delivered, and ``k`` parts of
that entry. The parts of a log chunk are its lines (so a cursor of one stream is valid on another);
of any other entry, its messages on that stream.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from pilothouse.journal.errors import CursorExpired, CursorInvalid

COSTLY = 32 << 10
"""Bytes of an entry's data from which on encoding it takes milliseconds."""

_CURSOR = re.compile(r"([0-9a-f]{8})\.([0-9]{1,18})\.([0-9]{1,9})")


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A position: the next entry to read, and how many of its parts were already delivered."""

    offset: int
    k: int = 0

    def text(self, epoch: str) -> str:
        """The text form for clients."""
        return f"{epoch}.{self.offset}.{self.k}"

    @classmethod
    def parse(cls, text: str, epoch: str) -> Cursor:
        """Parse the text form. Raises :class:`CursorInvalid`, or :class:`CursorExpired` for another epoch."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise CursorInvalid("a cursor has the form <epoch>.<offset>.<k>, as given out by a stream")
        if match[1] != epoch:
            raise CursorExpired("this cursor belongs to another epoch of the journal; start again")
        return cls(int(match[2]), int(match[3]))


class Frame(NamedTuple):
    """One encoded message of one wire format, and how many parts of its entry it completes."""

    data: bytes
    k: int


def kept_json(value: Any) -> bytes:
    """JSON that is kept: orjson leaves its results in buffers of up to thirteen times their size."""
    return bytes(memoryview(orjson.dumps(value)))


class Entry:
    """One fact in the journal. ``data`` is JSON; ``scope`` determines who may see it."""

    __slots__ = ("_body", "_frames", "at", "base", "data", "offset", "scope", "stream", "subject", "type")

    def __init__(
        self,
        offset: int,
        stream: str,
        subject: str,
        type: str,
        at: int,
        scope: str,
        data: bytes,
        body: dict[str, Any] | None = None,
        base: int = 0,
    ) -> None:
        self.offset = offset
        self.stream = stream
        self.subject = subject
        self.type = type
        self.at = at
        self.scope = scope
        self.data = data
        self.base = base
        self._body = body
        self._frames: dict[str, tuple[Frame, ...]] = {}

    @property
    def body(self) -> dict[str, Any]:
        """The decoded data; read-only, since all readers share it."""
        if self._body is None:
            self._body = orjson.loads(self.data)
        return self._body

    @property
    def size(self) -> int:
        """Approximate memory in bytes of this entry once it is decoded and framed for one or two formats.

        Short lines have the largest overhead: each log line has several objects and a complete frame. A key is an
        object with a place in a table, and its value may be another.
        """
        data = self.data
        return 6 * len(data) + 400 * data.count(b'","') + 150 * data.count(b'":') + 600

    def frames(self, fmt: WireFormat) -> tuple[Frame, ...]:
        """This entry in one wire format, encoded at most once."""
        frames = self._frames.get(fmt.key)
        if frames is None:
            frames = self._frames[fmt.key] = fmt.encode(self)
        return frames

    def costly(self, fmt: WireFormat) -> bool:
        """Whether :meth:`frames` would take milliseconds: the entry is large and not encoded yet."""
        return len(self.data) >= COSTLY and fmt.key not in self._frames

    def tail(self, k: int) -> Entry:
        """This entry without its first ``k`` lines; unchanged if it has no lines."""
        lines = self.body.get("lines")
        if k <= self.base or lines is None:
            return self
        cut = k - self.base
        body = dict(self.body)
        body["lines"] = lines[cut:]
        body["first"] = body["first"] + cut
        for sparse in ("stderr", "levels"):
            if sparse in body:
                body[sparse] = _shifted(body[sparse], cut)
        return Entry(
            self.offset,
            self.stream,
            self.subject,
            self.type,
            self.at,
            self.scope,
            kept_json(body),
            body,
            k,
        )


def _shifted(sparse: Any, cut: int) -> Any:
    if isinstance(sparse, list):
        return [i - cut for i in sparse if i >= cut]
    return {str(int(i) - cut): value for i, value in sparse.items() if int(i) >= cut}


class WireFormat(Protocol):
    """How a stream encodes entries. Stateless: the same entry always gives the same frames."""

    @property
    def key(self) -> str:
        """Name of the format; the cache key of frames."""

    def encode(self, entry: Entry) -> tuple[Frame, ...]:
        """The messages of ``entry`` in order; empty if the format does not show it."""

    def ends(self, entry: Entry) -> bool:
        """Whether the stream is finished once this entry has been delivered."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries a reader wants: one stream or (``None``) the whole journal, filtered by type and subject."""

    stream: str | None = None
    type: str | None = None
    subject: str | None = None

    def wants(self, entry: Entry) -> bool:
        """Whether the entry is selected; ``type`` can have shell-style wildcards (``step.*``)."""
        if self.subject is not None and entry.subject != self.subject:
            return False
        return self.type is None or fnmatch.fnmatchcase(entry.type, self.type)


Sees = Callable[[str], bool]
"""Whether a reader may currently see entries of this scope."""
