"""Settings of the server (decisions.md, Arcentra; docs/operations.md, "Changing settings")."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Seconds
from pilothouse.wire.rest.bodies import Body

MAX_SETTINGS = 50
"""Settings that are changed at once."""
MAX_VALUE = 256

MOST = 2**53

Value = (
    Annotated[str, Field(max_length=MAX_VALUE)]
    | Annotated[int, Field(ge=0, le=MOST)]
    | Annotated[float, Field(ge=0, le=MOST)]
    | None
)


class ChangeSettings(Body):
    """Values by the names of settings; null: as at the server's start."""

    settings: Annotated[
        dict[Annotated[str, Field(max_length=64)], Value], Field(min_length=1, max_length=MAX_SETTINGS)
    ]

    example: ClassVar[Any] = {"settings": {"ratelimit_default": "600/minute", "retention": 30}}


class Setting(Answer):
    """A setting that is in force; secrets are masked. ``source``: where the value comes from, ``database``: it was
    changed over the API, by ``changedBy``."""

    name: str
    value: str | int | float | bool | list[str] | None
    source: Literal["default", "file", "environment", "option", "database"]
    changeable: bool
    description: str
    changedBy: str
    changedAt: Seconds


class SettingList(Answer):
    """All settings of the server, in the order of the documentation."""

    settings: list[Setting]

    example: ClassVar[Any] = {
        "settings": [
            {
                "name": "retention",
                "value": 30.0,
                "source": "database",
                "changeable": True,
                "description": "days that finished runs keep their log; 0: for ever",
                "changedBy": "admin",
                "changedAt": 1769857800,
            }
        ]
    }
