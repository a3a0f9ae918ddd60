"""Pages of lists, in the two forms of the contracts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query

T = TypeVar("T")
_PAGE = Query(ge=1, le=1_000_000, description="From 1 on.")


@dataclass(frozen=True, slots=True)
class Paging:
    """Page number and page size."""

    page: int
    limit: int

    def cut(self, items: Sequence[T]) -> Sequence[T]:
        """This page of a complete list."""
        return items[(self.page - 1) * self.limit : self.page * self.limit]


def _paging(
    page: Annotated[int, _PAGE] = 1,
    limit: Annotated[int, Query(ge=1, le=100, description="Results per page, at most 100.")] = 20,
) -> Paging:
    return Paging(page, limit)


def _arcentra_paging(
    page: Annotated[int, _PAGE] = 1,
    size: Annotated[
        int, Query(alias="pageSize", ge=1, le=100, description="Results per page, at most 100.")
    ] = 20,
) -> Paging:
    return Paging(page, size)


Paged = Annotated[Paging, Depends(_paging)]
"""``?page=&limit=`` of the StreamSpace page."""

ArcentraPaged = Annotated[Paging, Depends(_arcentra_paging)]
"""``?page=&pageSize=`` of the Arcentra families."""


def paginated(name: str, items: list[dict[str, Any]], paging: Paging, total: int) -> dict[str, Any]:
    """``{name: […], "pagination": {"page","limit","total","total_pages"}}``."""
    return {
        name: items,
        "pagination": {
            "page": paging.page,
            "limit": paging.limit,
            "total": total,
            "total_pages": -(-total // paging.limit),
        },
    }


def listed(items: list[dict[str, Any]], paging: Paging, total: int) -> dict[str, Any]:
    """The ``detail`` of a list: ``{"list","total","page","pageSize"}``."""
    return {"list": items, "total": total, "page": paging.page, "pageSize": paging.limit}
