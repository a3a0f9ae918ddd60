"""Secrets, without their values (decisions.md, Arcentra)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Seconds
from pilothouse.wire.rest.bodies import Body, Ignored, Reference


class PutSecret(Body):
    """A secret's value; it is never shown again."""

    value: str = Field(min_length=1, max_length=65536)
    projectId: Reference = ""
    name: Ignored = ""
    scope: Literal["project"] = "project"
    scopeId: Ignored = ""

    example: ClassVar[Any] = {"value": "s3cr3t"}


class SecretInfo(Answer):
    """A secret's name, and who set it when."""

    name: str
    createdBy: str
    createdAt: Seconds
    updatedAt: Seconds

    example: ClassVar[Any] = {
        "name": "DEPLOY_KEY",
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
