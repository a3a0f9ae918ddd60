"""The base class of request bodies, and types of their fields that have a bound in size."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pilothouse.wire.json_bounds import check_values

MAX_KEYS = 100
"""Keys of a body itself, and of a map of texts in it."""
MAX_REFERENCE = 256
"""Characters of what names an object: an id or a name."""
MAX_TEXTS = 16 << 10
"""Bytes of the keys and values of a map of texts."""

Reference = Annotated[str, Field(max_length=MAX_REFERENCE)]
"""The id or name of an object."""

NO_NUL = r"^[^\x00]*$"
"""A text that PostgreSQL can store."""

GivenReference = Annotated[str, StringConstraints(pattern=NO_NUL, min_length=1, max_length=MAX_REFERENCE)]
"""The id or name of an object, not empty."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$", max_length=63)]
"""The name of a project or an API token."""

Text = Annotated[str, StringConstraints(pattern=NO_NUL, max_length=2000)]
"""A description for people."""

UNUSUAL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and unpaired surrogates."""


def _plain(word: str) -> str:
    if UNUSUAL.search(word):
        raise ValueError("it has control characters")
    return word


Word = Annotated[str, AfterValidator(_plain)]
"""A text without control characters: it becomes an environment variable of steps."""

Ignored = Annotated[str, Field(max_length=MAX_REFERENCE, description="accepted, without effect")]
"""A field of the contract pages that the server determines itself, such as the caller's name."""


def utf8_size(text: str) -> int:
    """Bytes of a text, which may have unpaired surrogates, in UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))


def _few_keys(given: Any) -> Any:
    # Before the entries are checked, so that a map of many wrong entries is not described one by one.
    if isinstance(given, dict) and len(given) > MAX_KEYS:
        raise ValueError(f"it has {len(given)} entries, at most {MAX_KEYS} are allowed")
    return given


def _small(texts: dict[str, str]) -> dict[str, str]:
    size = sum(utf8_size(key) + utf8_size(value) for key, value in texts.items())
    if size > MAX_TEXTS:
        raise ValueError(f"its keys and values have {size} bytes, at most {MAX_TEXTS} are allowed")
    return texts


Texts = Annotated[
    dict[Annotated[str, Field(max_length=MAX_REFERENCE)], Annotated[str, Field(max_length=MAX_TEXTS)]],
    Field(max_length=MAX_KEYS),
    BeforeValidator(_few_keys),
    AfterValidator(_small),
]
"""A map of short texts, such as the metadata of a pipeline."""


def _show_example(schema: dict[str, Any], model: type[Body]) -> None:
    if model.example is not None:
        schema["example"] = model.example


class Body(BaseModel):
    """A JSON object with strictly typed values: ``"60"`` is not a number, ``"true"`` is not a boolean.

    Unknown keys are refused, as are NaN and infinite numbers, which Python accepts in JSON, and deep nesting. Every
    field has a bound in size (a test walks them).

    ``example``: a body that the server accepts.
    """

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=_show_example)

    example: ClassVar[Any] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_excess(cls, body: Any) -> Any:
        if isinstance(body, dict):
            _check_keys(body, {field.alias or name for name, field in cls.model_fields.items()})
        check_values(body)
        return body


def _check_keys(body: dict[str, Any], known: set[str]) -> None:
    # The first one alone: a body may have very many.
    unknown = next((key for key in body if key not in known), None)
    if unknown is not None:
        shown = unknown if len(unknown) <= 64 else unknown[:64] + "…"
        raise PydanticCustomError("unknown_key", "'{key}' is not a known key", {"key": shown})
