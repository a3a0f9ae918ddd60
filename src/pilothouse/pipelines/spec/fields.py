"""The description of a message of a spec: its fields, their types, and their documentation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "text",  # a scalar, whatever type YAML sees in it
    "texts",  # a list of those
    "text_map",  # name: text
    "env",  # name: text, the names fit for environment variables
    "struct",  # a map of any JSON values
    "boolean",
    "integer",
    "duration",
    "condition",
    "choice",
    "message",
    "messages",
]


@dataclass(frozen=True, slots=True)
class Field:
    """One field; ``name`` is camelCase, the snake_case form is read as well.

    ``about``: what docs/pipelines.md says of it, in Markdown. ``of``: the message of a message or list of messages.
    ``default``: of a choice or an integer that is left out. ``pattern``: what a text, or each of a list, must match
    as a whole; ``expected``: the same in words. ``least``, ``most``: bounds of an integer, or of the length of a
    list. ``offered``: the values that this release accepts, None for all. ``zero``: a duration may be 0s.
    ``rendered``: expressions in a text are evaluated. ``private``: the text may be a password: no message
    shows it.
    """

    name: str
    kind: Kind
    about: str
    of: str = ""
    required: bool = False
    expected: str = ""
    pattern: str = ""
    options: tuple[str, ...] = ()
    default: Any = ""
    least: int = 0
    most: int = 0
    offered: tuple[Any, ...] | None = None
    zero: bool = False
    rendered: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """``what``: how problems name one (``the job``); ``model``: the type of model.py that it becomes."""

    name: str
    what: str
    model: type[Any]
    fields: tuple[Field, ...]
    known: tuple[str, ...] = field(init=False)
    spellings: Mapping[str, str] = field(init=False)
    """Every spelling of a field, to its camelCase name."""

    def __post_init__(self) -> None:
        names = tuple(each.name for each in self.fields)
        object.__setattr__(self, "known", names)
        spellings = {spelling: name for name in names for spelling in (name, snake_case(name))}
        object.__setattr__(self, "spellings", spellings)


@functools.cache
def snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
