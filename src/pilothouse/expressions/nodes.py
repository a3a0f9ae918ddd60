"""The syntax tree of a CEL expression. ``offset``: 0-based character in the source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    offset: int


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Name(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    """``operand.field``; as ``has(operand.field)`` with ``test``."""

    operand: Node
    field: str
    test: bool = False


@dataclass(frozen=True, slots=True)
class Index(Node):
    operand: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function call; a method's receiver is its first argument, as in CEL."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    test: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class ListLiteral(Node):
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapLiteral(Node):
    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Comprehension(Node):
    """``source.macro(variable, body)``; ``map`` may have a ``condition`` before its body."""

    macro: str
    source: Node
    variable: str
    condition: Node | None
    body: Node


@dataclass(frozen=True, slots=True)
class Visit:
    """One node of ``walk``: its depth, and the names that comprehensions around it bind."""

    node: Node
    depth: int
    bound: frozenset[str]


def walk(root: Node) -> Iterator[Visit]:
    """Every node of the tree, without recursion: the tree may be deeper than Python's stack."""
    waiting = [Visit(root, 1, frozenset())]
    while waiting:
        visit = waiting.pop()
        yield visit
        node, depth, bound = visit.node, visit.depth + 1, visit.bound
        if isinstance(node, Comprehension):
            inner = bound | {node.variable}
            waiting.append(Visit(node.source, depth, bound))
            waiting += (Visit(part, depth, inner) for part in (node.condition, node.body) if part is not None)
        else:
            waiting += (Visit(child, depth, bound) for child in _children(node))


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case Select():
            return (node.operand,)
        case Index():
            return (node.operand, node.key)
        case Call():
            return node.arguments
        case Unary():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Conditional():
            return (node.test, node.then, node.otherwise)
        case ListLiteral():
            return node.items
        case MapLiteral():
            return tuple(part for entry in node.entries for part in entry)
    return ()
