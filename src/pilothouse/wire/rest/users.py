"""Users and their tokens (StreamSpace page, "Authentication" and "User Management")."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pilothouse.wire.rest.base import Answer, Count, Id, Pagination, Time

RoleName = Literal["admin", "operator", "user", "viewer"]


class User(Answer):
    """A user."""

    id: Id
    username: str
    email: str
    role: RoleName
    active: bool
    created_at: Time
    updated_at: Time
    last_login: Time | None

    example: ClassVar[Any] = {
        "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a",
        "username": "john.doe",
        "email": "john.doe@example.com",
        "role": "user",
        "active": True,
        "created_at": "2026-01-31T11:10:00Z",
        "updated_at": "2026-01-31T11:10:00Z",
        "last_login": None,
    }


class UserList(Answer):
    """A page of users, by name."""

    users: list[User]
    pagination: Pagination

    example: ClassVar[Any] = {"users": [User.example], "pagination": Pagination.example}


class LoggedInUser(Answer):
    """A user in the answer to a login."""

    id: Id
    username: str
    email: str
    role: RoleName
    created_at: Time


class LoginResult(Answer):
    """A session: ``token`` is shown this once."""

    token: str
    user: LoggedInUser
    expires_at: Time

    example: ClassVar[Any] = {
        "token": "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "user": {
            "id": User.example["id"],
            "username": "john.doe",
            "email": "john.doe@example.com",
            "role": "user",
            "created_at": "2026-01-31T11:10:00Z",
        },
        "expires_at": "2026-02-01T11:10:00Z",
    }


class TokenInUse(Answer):
    """The token of this request; ``role``: what it may do, at most what its user may."""

    id: str
    role: RoleName
    expires_at: Time | None


class Me(User):
    """The current user, the ids of their projects, and the token of this request."""

    projects: list[str]
    token: TokenInUse

    example: ClassVar[Any] = {
        **User.example,
        "projects": ["01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c"],
        "token": {"id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718b", "role": "user", "expires_at": None},
    }


class Token(Answer):
    """An API token without its secret; ``role`` null: that of its user."""

    id: Id
    name: str
    user: str
    role: RoleName | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None

    example: ClassVar[Any] = {
        "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718b",
        "name": "ci",
        "user": "john.doe",
        "role": "viewer",
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


class LoginSession(Answer):
    """A login of a user; ``current``: the one of this request."""

    id: Id
    user: str
    current: bool
    created_at: Time
    last_used_at: Time | None
    expires_at: Time | None
    address: str
    user_agent: str

    example: ClassVar[Any] = {
        "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718e",
        "user": "john.doe",
        "current": True,
        "created_at": "2026-01-31T11:10:00Z",
        "last_used_at": "2026-01-31T11:20:00Z",
        "expires_at": "2026-02-01T11:10:00Z",
        "address": "192.0.2.7",
        "user_agent": "pilot/0.1.0",
    }


class LoginSessionList(Answer):
    """A page of logins, newest first."""

    sessions: list[LoginSession]
    pagination: Pagination

    example: ClassVar[Any] = {"sessions": [LoginSession.example], "pagination": Pagination.example}


class EndedLogins(Answer):
    """How many logins were ended."""

    ended: Count

    example: ClassVar[Any] = {"ended": 2}
