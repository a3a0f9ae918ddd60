"""Pages of lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MAX_LIMIT = 100
"""The largest page size of the server."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page: ``total`` counts the items of all pages, ``number`` is 1 for the first."""

    items: tuple[T, ...]
    number: int
    total: int
    more: bool

    @classmethod
    def native(cls, body: Any, name: str) -> Page[T]:
        """A page from ``{name: […], "pagination": {…}}``; without pagination the list is complete."""
        items = tuple(body[name])
        paging = body.get("pagination") or {"page": 1, "total": len(items), "total_pages": 1}
        return cls(items, paging["page"], paging["total"], paging["page"] < paging["total_pages"])

    @classmethod
    def arcentra(cls, detail: Any) -> Page[T]:
        """A page from ``{"list": […], "total", "page", "pageSize"}``."""
        items = tuple(detail["list"])
        number, size = detail.get("page", 1), detail.get("pageSize", max(1, len(items)))
        total = detail.get("total", len(items))
        return cls(items, number, total, number * size < total)


async def collect(fetch: Callable[[int, int], Awaitable[Page[T]]], wanted: int) -> tuple[T, ...]:
    """The first ``wanted`` items of a list, page by page; ``fetch`` is called with page and limit."""
    found: list[T] = []
    size, number = min(wanted, MAX_LIMIT), 1
    while len(found) < wanted:
        page = await fetch(number, size)
        found.extend(page.items)
        if not page.more:
            break
        number += 1
    return tuple(found[:wanted])
