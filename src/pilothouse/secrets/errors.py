"""Errors of secrets, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal


class SecretInvalid(Refusal):
    """A secret's name or value is invalid."""

    code = "VALIDATION_FAILED"


class TooManySecrets(Refusal):
    """The project has as many secrets as a project may have."""

    code = "QUOTA_EXCEEDED"


class SecretNotFound(Refusal):
    """The project has no secret with this name."""

    code = "SECRET_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no secret named '{name}' in this project")


class SecretExists(Refusal):
    """There is one of this name already."""

    code = "SECRET_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is a secret named '{name}' already; PUT replaces its value")
