"""Secrets, without their values (decisions.md, Arcentra)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Id, Seconds
from pilothouse.wire.rest.bodies import Body, GivenReference, Ignored, Reference

Scope = Literal["project", "pipeline", "environment"]


class PutSecret(Body):
    """A secret's value; it is never shown again. ``scopeId``: the id of the pipeline whose steps alone get it."""

    value: str = Field(min_length=1, max_length=65536)
    projectId: Reference = ""
    name: Ignored = ""
    scope: Scope = "project"
    scopeId: Reference = ""

    example: ClassVar[Any] = {"value": "s3cr3t"}


class CreateSecret(Body):
    """A new secret; the value is never shown again. ``scopeId``: the id of the pipeline whose steps alone get it."""

    name: GivenReference
    value: str = Field(min_length=1, max_length=65536)
    projectId: Reference = ""
    scope: Scope = "project"
    scopeId: Reference = ""

    example: ClassVar[Any] = {"name": "DEPLOY_KEY", "value": "s3cr3t"}


class SecretInfo(Answer):
    """A secret without its value, and who set it when. ``scopeId``: of its project, or its pipeline."""

    secretId: Id
    name: str
    projectId: Id
    scope: Literal["project", "pipeline"]
    scopeId: Id
    createdBy: str
    createdAt: Seconds
    updatedAt: Seconds

    example: ClassVar[Any] = {
        "secretId": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "name": "DEPLOY_KEY",
        "projectId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c",
        "scope": "project",
        "scopeId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c",
        "createdBy": "admin",
        "createdAt": 1768055025,
        "updatedAt": 1768055025,
    }


class SecretSet(Answer):
    """The result of setting a secret; ``created``: there was none of this name."""

    name: str
    created: bool

    example: ClassVar[Any] = {"name": "DEPLOY_KEY", "created": False}


class SecretDeleted(Answer):
    """The name of the secret that was deleted."""

    name: str

    example: ClassVar[Any] = {"name": "DEPLOY_KEY"}
