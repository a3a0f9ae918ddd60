"""The durable log of everything, and the readers that follow it live.

A service appends entries in its own transaction; the feed publishes them after the commit; a reader is a
cursor over the journal, for which replay and live are one code path.
"""

from pilothouse.journal.errors import CursorError, CursorExpired, CursorInvalid
from pilothouse.journal.feed import Feed, Subscription
from pilothouse.journal.model import Cursor, Entry, Frame, Selection, WireFormat
from pilothouse.journal.service import Journal

__all__ = [
    "Cursor",
    "CursorError",
    "CursorExpired",
    "CursorInvalid",
    "Entry",
    "Feed",
    "Frame",
    "Journal",
    "Selection",
    "Subscription",
    "WireFormat",
]
