"""Texts and numbers that were made from secrets, so that they can be masked; pure.

A value that an expression takes from ``secrets`` is marked, and so is what functions and operators make of it, except
tests, lengths, positions and times. ``parts``: the texts that must be masked so that the value is not shown. A value
that was only joined with other text keeps its parts: to mask these is enough, and does not make one more masked value
of each text around a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pilothouse.expressions.values import Budget, to_text

MIN_PART = 4
"""Characters; shorter texts are not masked, so a text with such a part is masked as a whole."""
PUBLIC_FUNCTIONS = frozenset({"size", "indexOf", "type"})
"""What these say of a secret is not masked."""


class SecretText(str):
    """A text that was made from secrets. Equal to the text, with the same hash."""

    parts: frozenset[str]


class SecretInt(int):
    """An integer that was made from secrets."""

    parts: frozenset[str]


class SecretFloat(float):
    """A double that was made from secrets."""

    parts: frozenset[str]


_KINDS: tuple[tuple[type, Any], ...] = ((str, SecretText), (int, SecretInt), (float, SecretFloat))


def marked(value: Any, parts: Iterable[str] | None = None) -> Any:
    """The value, and all texts and numbers in it, as made from secrets. ``parts``: see above; by default each as a
    whole."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {marked(key): marked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [marked(item) for item in value]
    for kind, secret in _KINDS:
        if isinstance(value, kind):
            found = secret(value)
            found.parts = frozenset((to_text(value),) if parts is None else parts)
            return found
    return value


def joined(text: str, values: Iterable[Any]) -> str:
    """``text``, of which these values are parts."""
    parts = parts_of(list(values))
    if not parts:
        return text
    long = {part for part in parts if len(part.strip()) >= MIN_PART}
    found: str = marked(text, long | {text} if len(long) < len(parts) else long)
    return found


def parts_of(value: Any) -> set[str]:
    """What must be masked so that none of the value is shown."""
    found: set[str] = set()
    _collect(value, found)
    return found


def _collect(value: Any, found: set[str]) -> None:
    if isinstance(value, SecretText | SecretInt | SecretFloat):
        found |= value.parts
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(key, found)
            _collect(item, found)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, found)


def is_secret(value: Any, budget: Budget) -> bool:
    """Whether any of it was made from secrets."""
    if isinstance(value, Mapping):
        budget.spend(len(value) >> 1)
        return any(is_secret(key, budget) or is_secret(item, budget) for key, item in value.items())
    if isinstance(value, list | tuple):
        budget.spend(len(value) >> 2)
        return any(is_secret(item, budget) for item in value)
    return isinstance(value, SecretText | SecretInt | SecretFloat)


def bare(value: Any) -> Any:
    """The value without marks."""
    if isinstance(value, Mapping):
        return {bare(key): bare(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bare(item) for item in value]
    for kind, secret in _KINDS:
        if isinstance(value, secret):
            return kind(value)
    return value
