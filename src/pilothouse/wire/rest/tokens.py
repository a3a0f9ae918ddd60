"""API tokens (StreamSpace page, "Authentication"; decisions.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Id, Pagination, Time
from pilothouse.wire.rest.bodies import Body, GivenReference, Name
from pilothouse.wire.rest.users import RoleName

_TEN_YEARS = 10 * 366 * 24 * 3600
MAX_PROJECTS = 100
"""So many projects a token may be limited to."""


class CreateToken(Body):
    """``role`` limits the token below its user, ``projects`` (names or ids) to the things of these projects;
    ``expires_in`` is in seconds, default: never."""

    name: Name
    role: RoleName | None = None
    projects: Annotated[list[GivenReference], Field(min_length=1, max_length=MAX_PROJECTS)] | None = None
    expires_in: Annotated[int, Field(ge=1, le=_TEN_YEARS)] | None = None

    example: ClassVar[Any] = {"name": "ci", "role": "viewer", "expires_in": 2592000}


class Token(Answer):
    """An API token without its secret; ``role`` null: that of its user; ``projects``: the ids of the only ones it is
    for, null: all of its user."""

    id: Id
    name: str
    user: str
    role: RoleName | None
    projects: list[str] | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None

    example: ClassVar[Any] = {
        "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718b",
        "name": "ci",
        "user": "john.doe",
        "role": "viewer",
        "projects": None,
        "created_at": "2026-01-31T11:10:00Z",
        "expires_at": "2026-03-02T11:10:00Z",
        "last_used_at": None,
    }


class TokenList(Answer):
    """A page of API tokens, newest first."""

    tokens: list[Token]
    pagination: Pagination

    example: ClassVar[Any] = {"tokens": [Token.example], "pagination": Pagination.example}


class CreatedToken(Token):
    """A new API token: ``token`` is its secret, shown this once; a repeated answer has ``secret_omitted`` instead."""

    token: str = ""
    secret_omitted: bool = False

    example: ClassVar[Any] = {**Token.example, "token": "pilot_4f1c…"}
