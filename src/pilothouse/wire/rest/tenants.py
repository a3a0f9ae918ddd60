"""Tenants (decisions.md, Arcentra): camelCase, times in Unix seconds."""

from __future__ import annotations

from typing import Any, ClassVar

from pilothouse.wire.rest.base import Answer, Count, Id, Seconds
from pilothouse.wire.rest.bodies import Body, Name, Text


class CreateTenant(Body):
    """A group of projects."""

    name: Name
    description: Text = ""

    example: ClassVar[Any] = {"name": "retail", "description": "All shops"}


class UpdateTenant(Body):
    """The fields to change."""

    name: Name | None = None
    description: Text | None = None

    example: ClassVar[Any] = {"description": "All shops, and their suppliers"}


class Tenant(Answer):
    """A group of projects; ``projectsCount``: how many of them the caller sees."""

    tenantId: Id
    name: str
    description: str
    projectsCount: Count
    createdAt: Seconds
    updatedAt: Seconds

    example: ClassVar[Any] = {
        "tenantId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718d",
        "name": "retail",
        "description": "All shops",
        "projectsCount": 2,
        "createdAt": 1769857800,
        "updatedAt": 1769857800,
    }


class TenantDeleted(Answer):
    """The tenant that was deleted."""

    tenantId: Id
    name: str

    example: ClassVar[Any] = {"tenantId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718d", "name": "retail"}
