"""The syntax tree of a spec's text; every node has its place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.pipelines.spec.problems import Mark

MAX_DEPTH = 50
MAX_NODES = 100_000  # values after every alias is expanded
MAX_TEXT = 1024 * 1024  # characters
_MAX_BITS = 1024  # of an integer

# YAML 1.2's core schema; in contrast to 1.1, `on`, `no` and `12:30` are texts.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}\Z|0o[0-7]{1,21}\Z|0x[0-9a-fA-F]{1,16}\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")


@dataclass(frozen=True, slots=True)
class Node:
    """``weight``: how many values it holds, itself included."""

    mark: Mark
    weight: int


@dataclass(frozen=True, slots=True)
class Scalar(Node):
    """``plain``: without quotes, so that it may be a number, a boolean or null; ``source``: as written."""

    text: str
    plain: bool
    source: str = ""

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULL

    def value(self) -> str | int | float | bool | None:
        """Typed by YAML 1.2. Numbers that JSON or 64 bits cannot hold stay texts, with all their digits."""
        if not self.plain:
            return self.text
        if self.text in _NULL:
            return None
        if self.text in _BOOLEAN:
            return _BOOLEAN[self.text]
        if _INTEGER.match(self.text):
            number = int(self.text, {"0o": 8, "0x": 16}.get(self.text[:2], 10))
            return number if -(2**63) <= number < 2**63 else self.text
        if _FLOAT.match(self.text) and len(self.text) < 64 and math.isfinite(real := float(self.text)):
            return real
        return self.text

    def places(self, word: str) -> list[Mark]:
        """Where ``word`` stands in this scalar, as it is written in the text."""
        found: list[Mark] = []
        line, line_start, position = self.mark.line, 1 - self.mark.column, -1
        while (following := self.source.find(word, position + 1)) >= 0:
            breaks = self.source.count("\n", position + 1, following)
            if breaks:
                line, line_start = line + breaks, self.source.rfind("\n", 0, following) + 1
            position = following
            found.append(Mark(line, position - line_start + 1))
        return found


@dataclass(frozen=True, slots=True)
class Sequence(Node):
    items: tuple[Node, ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class Dictionary(Node):
    """Keys in the order of the text, without duplicates."""

    entries: tuple[tuple[Scalar, Node], ...]


class NodeError(Exception):
    """The text cannot be parsed further."""

    def __init__(self, mark: Mark, message: str, expected: str = "") -> None:
        super().__init__(message)
        self.mark, self.message, self.expected = mark, message, expected


def kind_of(node: Node) -> str:
    match node:
        case Sequence():
            return "a list"
        case Dictionary():
            return "a map"
        case Scalar() if node.is_null:
            return "nothing"
        case Scalar():
            value = node.value()
            return {str: "a text", bool: "true or false"}.get(type(value), "a number")
    return "something else"


def from_object(value: Any) -> Node:
    """The tree of decoded JSON; its places are all 0:0. Raises NodeError beyond the bounds."""
    budget = [MAX_NODES, MAX_TEXT]
    return _from_object(value, budget, 1)


def _from_object(value: Any, budget: list[int], depth: int) -> Node:
    budget[0] -= 1
    if isinstance(value, str):
        budget[1] -= len(value)
    if min(budget) < 0 or depth > MAX_DEPTH:
        raise NodeError(
            Mark(),
            f"the spec is too big: over {MAX_NODES} values, {MAX_TEXT} characters or {MAX_DEPTH} levels",
        )
    match value:
        case Mapping():
            entries = tuple(
                (Scalar(Mark(), 1, str(key), False), _from_object(item, budget, depth + 1))
                for key, item in value.items()
            )
            return Dictionary(Mark(), 1 + sum(item.weight for _, item in entries), entries)
        case list() | tuple():
            items = tuple(_from_object(item, budget, depth + 1) for item in value)
            return Sequence(Mark(), 1 + sum(item.weight for item in items), items)
        case None | bool():
            return Scalar(Mark(), 1, {None: "null", True: "true", False: "false"}[value], True)
        case float() if value.is_integer() and abs(value) < 2**53:
            return Scalar(Mark(), 1, str(int(value)), True)  # numbers of protobuf's Struct are doubles
        case int() if value.bit_length() > _MAX_BITS:
            raise NodeError(Mark(), "the spec is too big: a number of hundreds of digits")
        case int() | float():
            return Scalar(Mark(), 1, str(value), True)
    return Scalar(Mark(), 1, str(value), False)
