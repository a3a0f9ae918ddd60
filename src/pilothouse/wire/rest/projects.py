"""Projects and roles (decisions.md, Arcentra): camelCase, times in Unix seconds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from pilothouse.wire.rest.base import Answer, Count, Id, Seconds
from pilothouse.wire.rest.bodies import MAX_REFERENCE, NO_NUL, Body, GivenReference, Name, Text
from pilothouse.wire.rest.users import MAX_MEMBERS, RoleName

TenantId = Annotated[str, StringConstraints(pattern=NO_NUL, max_length=MAX_REFERENCE)]


class CreateProject(Body):
    """``members`` are ids or names of users; ``tenantId``: of the tenant that the project belongs to."""

    name: Name
    description: Text = ""
    members: list[GivenReference] = Field(default_factory=list, max_length=MAX_MEMBERS)
    tenantId: TenantId = ""

    example: ClassVar[Any] = {"name": "shop", "description": "The web shop"}


class UpdateProject(Body):
    """The fields to change; ``tenantId`` empty: it belongs to none."""

    name: Name | None = None
    description: Text | None = None
    tenantId: TenantId | None = None

    example: ClassVar[Any] = {"description": "The web shop and its stock"}


class Member(Answer):
    """A member of a project."""

    userId: Id
    username: str


class Project(Answer):
    """A project with its members, of which a list shows the first 100; ``membersCount``: how many it has."""

    projectId: Id
    name: str
    description: str
    isDefault: bool
    tenantId: str
    members: list[Member]
    membersCount: Count
    createdAt: Seconds
    updatedAt: Seconds

    example: ClassVar[Any] = {
        "projectId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c",
        "name": "shop",
        "description": "The web shop",
        "isDefault": False,
        "tenantId": "",
        "members": [{"userId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a", "username": "john.doe"}],
        "membersCount": 1,
        "createdAt": 1769857800,
        "updatedAt": 1769857800,
    }


class ProjectDeleted(Answer):
    """The project that was deleted."""

    projectId: Id
    name: str

    example: ClassVar[Any] = {"projectId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c", "name": "shop"}


class MemberInfo(Answer):
    """A member of a project, with their role."""

    userId: Id
    username: str
    role: RoleName
    active: bool

    example: ClassVar[Any] = {
        "userId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a",
        "username": "john.doe",
        "role": "user",
        "active": True,
    }


class RoleInfo(Answer):
    """A role and the actions that it allows."""

    name: RoleName
    actions: list[str]

    example: ClassVar[Any] = {"name": "viewer", "actions": ["pipeline.read", "run.read"]}


class Caller(Answer):
    """The user who asks: their projects, and the token of this request; ``role``: what the token may do."""

    userId: Id
    username: str
    email: str
    role: RoleName
    projectIds: list[Id]
    tokenId: Id
    expiresAt: Seconds

    example: ClassVar[Any] = {
        "userId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a",
        "username": "john.doe",
        "email": "john.doe@example.com",
        "role": "user",
        "projectIds": ["019a7b1e-0000-7000-8000-000000000001"],
        "tokenId": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "expiresAt": 1769857800,
    }
