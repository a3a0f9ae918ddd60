"""Users and their logins (StreamSpace page, "Authentication" and "User Management")."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from pilothouse.wire.bounds import MAX_PASSWORD
from pilothouse.wire.rest.base import Answer, Count, Id, Pagination, Time
from pilothouse.wire.rest.bodies import Body, GivenReference

RoleName = Literal["admin", "operator", "user", "viewer"]

Username = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$", max_length=63)]
Email = Annotated[str, StringConstraints(pattern=r"^([^@\s\x00]+@[^@\s\x00]+)?$", max_length=254)]
Password = Annotated[str, StringConstraints(max_length=MAX_PASSWORD)]

MAX_MEMBERS = 500
"""So many members a request may name, or projects of a new user."""


class Login(Body):
    """Name and password."""

    username: GivenReference
    password: Password

    example: ClassVar[Any] = {"username": "john.doe", "password": "correct horse battery"}


class ChangePassword(Body):
    """The current and the new password (8 to 1024 characters)."""

    current_password: Password
    new_password: Annotated[Password, StringConstraints(min_length=8)]

    example: ClassVar[Any] = {"current_password": "correct horse battery", "new_password": "a better one"}


class CreateUser(Body):
    """A new user; ``projects`` are ids, default: the default project."""

    username: Username
    password: Password
    email: Email = ""
    role: RoleName = "user"
    projects: Annotated[list[GivenReference], Field(max_length=MAX_MEMBERS)] | None = None

    example: ClassVar[Any] = {
        "username": "jane.doe",
        "password": "correct horse battery",
        "email": "jane.doe@example.com",
        "role": "user",
    }


class UpdateUser(Body):
    """The fields to change."""

    email: Email | None = None
    role: RoleName | None = None
    active: bool | None = None

    example: ClassVar[Any] = {"role": "operator"}


class ResetPassword(Body):
    """8 to 1024 characters."""

    password: Password

    example: ClassVar[Any] = {"password": "correct horse battery"}


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
    """The token of this request; ``role``: what it may do, at most what its user may; ``projects``: the ids of the
    only ones it is for, null: all of its user."""

    id: str
    role: RoleName
    projects: list[str] | None
    expires_at: Time | None


class Me(User):
    """The current user, the ids of their projects, and the token of this request."""

    projects: list[str]
    token: TokenInUse

    example: ClassVar[Any] = {
        **User.example,
        "projects": ["01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c"],
        "token": {
            "id": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718b",
            "role": "user",
            "projects": None,
            "expires_at": None,
        },
    }


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
