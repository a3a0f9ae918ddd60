"""Counts of rows for lists, which do not read a whole history."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, func, select

AHEAD = 10_000
"""So many rows beyond the beginning of a page are counted."""


def count_ahead(conn: Connection, chosen: Select[Any], offset: int) -> int:
    """The number of rows; if there are more than ``AHEAD`` after ``offset``, those counted so far.

    A client that reads page after page therefore sees all, and each page costs the same.
    """
    some = chosen.order_by(None).limit(offset + AHEAD).subquery()
    return int(conn.execute(select(func.count()).select_from(some)).scalar_one())
