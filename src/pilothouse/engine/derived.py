"""What a step's expressions make of secrets, and must be masked like these; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pilothouse.expressions.secrecy import MIN_PART, parts_of
from pilothouse.expressions.templates import split_template


def derived_values(filled: Any, secrets: frozenset[str], templates: Any) -> frozenset[str]:
    """The values to be masked in addition to the secrets themselves.

    ``filled``: the environment and arguments of a step, evaluated with marked secrets; ``templates``: the same as
    written in the spec. Text that stands in the spec for everybody to read is left out: an expression may have taken
    it from a text around a secret, such as the host from a URL with a password.
    """
    values = {part.strip() for part in parts_of(filled)}
    values = {value for value in values if len(value) >= MIN_PART} - {secret.strip() for secret in secrets}
    if not values:
        return frozenset()
    public = "\0".join(_literals(templates))
    return frozenset(value for value in values if value not in public)


def _literals(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield from (part for part in split_template(tree) if isinstance(part, str))
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from _literals(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _literals(item)
