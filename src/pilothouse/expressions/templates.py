"""Texts with expressions in them: ``image:${{ variables.tag }}``; ``$${{`` stands for a literal ``${{``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pilothouse.expressions.errors import ExpressionError

OPENING = "${{"
CLOSING = "}}"
# What may contain a closing }} inside of an expression: quoted texts, and the braces of maps.
_LANDMARK = re.compile(
    r"""[rR](?:\"\"\"|'''|"|')|\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''
      | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [{}]""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class TemplateExpression:
    """``offset``: of its ``${{`` in the text, the ``ordinal``-th there; ``source``: what the braces hold."""

    offset: int
    ordinal: int
    source: str


def split_template(text: str) -> list[str | TemplateExpression]:
    """Literal texts (unescaped) and expressions in order. Raises ExpressionError where ``}}`` is missing."""
    parts: list[str | TemplateExpression] = []
    literal, position, ordinal = "", 0, -1
    while (opening := text.find(OPENING, position)) >= 0:
        ordinal += 1
        if opening > position and text[opening - 1] == "$":
            literal += text[position : opening - 1] + OPENING
            position = opening + len(OPENING)
            continue
        literal += text[position:opening]
        if literal:
            parts.append(literal)
        closing = _closing(text, opening)
        source = text[opening + len(OPENING) : closing]
        ordinal += source.count(OPENING)
        parts.append(TemplateExpression(opening, ordinal - source.count(OPENING), source.strip()))
        literal, position = "", closing + len(CLOSING)
    literal += text[position:]
    if literal or not parts:
        parts.append(literal)
    return parts


def _closing(text: str, opening: int) -> int:
    """The position of the ``}}`` that closes the expression at ``opening``."""
    position, depth = opening + len(OPENING), 0
    while (landmark := _LANDMARK.search(text, position)) is not None:
        position = landmark.end()
        mark = landmark[0]
        if mark == "{":
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
        elif mark == "}" and text.startswith(CLOSING, landmark.start()):
            return landmark.start()
        elif mark[0] in "rR":
            end = text.find(mark[1:], position)  # raw strings have no escapes
            position = end + len(mark) - 1 if end >= 0 else position
    hidden = text.find(CLOSING, opening) >= 0
    expected = "}} at its end, outside of quotes and braces" if hidden else "}} at its end"
    raise ExpressionError("EXPRESSION_SYNTAX", "${{ is never closed", opening, expected)
