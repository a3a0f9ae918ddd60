"""Users, projects, API tokens and audit records; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Role

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def has_form_of_id(text: str) -> bool:
    """Whether it is written like the id of a user or project."""
    return _ID.fullmatch(text) is not None


def check_no_id(name: str, field: str) -> None:
    """Refuse a name that has the form of an id: what is found by name or id must be clear."""
    if has_form_of_id(name):
        raise Refusal.of("VALIDATION_FAILED", f"{field}: a name may not have the form of an id", field=field)


@dataclass(frozen=True, slots=True)
class User:
    """A user account. Times in ms."""

    id: str
    username: str
    email: str
    role: Role
    active: bool
    created_at: int
    updated_at: int
    last_login: int | None


@dataclass(frozen=True, slots=True)
class Project:
    """A group of pipelines, runs and secrets with the members who may see them.

    ``members``: user id → username; ``tenant``: the id of its tenant, may be empty.
    """

    id: str
    name: str
    description: str
    is_default: bool
    members: Mapping[str, str]
    created_at: int
    updated_at: int
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A group of projects. Times in ms."""

    id: str
    name: str
    description: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """An API token, without its secret. ``role`` limits it below its user's role, ``projects`` (ids) to those.
    Times in ms; ``last_used_at`` is exact to some minutes."""

    id: str
    user_id: str
    username: str
    name: str
    role: Role | None
    created_at: int
    expires_at: int | None
    last_used_at: int | None = None
    projects: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class LoginInfo:
    """A login (a session), without its token. ``address``: of its last use. Times in ms."""

    id: str
    user_id: str
    username: str
    created_at: int
    last_used_at: int | None
    expires_at: int
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who did what, to what, with which token, when and from where. ``at`` in ms."""

    id: str
    at: int
    actor_kind: str
    actor_id: str
    actor: str
    action: str
    target: str
    address: str
    request_id: str
    detail: dict[str, Any]
    token_id: str = ""


@dataclass(frozen=True, slots=True)
class LoginResult:
    """A new login: token, user, and expiry (ms)."""

    token: str
    user: User
    expires_at: int


@dataclass(frozen=True, slots=True)
class LoginOrigin:
    """Where a login comes from; ``known``: the user has logged in from this address before."""

    address: str = ""
    request_id: str = ""
    user_agent: str = ""
    known: bool = False


NOWHERE = LoginOrigin()
