"""The durable log of all changes, and live readers of it.

Services append entries in their transactions; the feed publishes them after the commit. A reader is a cursor
over the journal; replay and live delivery share one code path.
"""

from pilothouse.journal.errors import CursorError, CursorExpired, CursorInvalid
from pilothouse.journal.feed import Feed, Subscription
from pilothouse.journal.model import Cursor, Entry, Frame, Selection, WireFormat, kept_json
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
    "kept_json",
]
