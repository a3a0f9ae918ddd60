"""Static checks of expressions: names, and common mistakes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pilothouse.expressions import nodes as nodes
from pilothouse.expressions.errors import ExpressionError
from pilothouse.expressions.functions import FUNCTIONS
from pilothouse.expressions.tokens import Token
from pilothouse.expressions.values import TYPE_NAMES

ROOTS = ("variables", "env", "run", "job", "step", "jobs", "secrets")
CONDITION_FUNCTIONS = frozenset({"always", "success", "failure", "cancelled"})
CLEANUP_FUNCTIONS = frozenset({"always", "cancelled"})
"""Functions with which a condition may hold after a cancel."""
_ROOTS_TEXT = "one of " + ", ".join(ROOTS)


@dataclass(frozen=True, slots=True)
class Reference:
    """``root.key`` or ``root["key"]``; ``key`` is None if it is computed.

    ``tested``: only asked whether it is there, as ``has(root.key)`` or ``"key" in root``.
    """

    root: str
    key: str | None
    offset: int
    tested: bool = False


def check_hyphens(tokens: list[Token]) -> None:
    """Detects ``jobs.unit-test.outputs``, which is a subtraction in CEL."""
    for start, token in enumerate(tokens):
        if token.source not in ROOTS or token.kind != "name" or (start and tokens[start - 1].source == "."):
            continue
        path, position = token.source, start
        while tokens[position + 1].source == "." and tokens[position + 2].kind == "name":
            position += 2
            name, last = _hyphenated(tokens, position)
            if last > position:
                wrong, right = f"{path}.{name}"[:80], f'{path}["{name[:80]}"]'
                message = f"{wrong} is read as a subtraction, because of the hyphen"
                raise ExpressionError("EXPRESSION_SYNTAX", message, token.offset, right)
            path = f"{path}.{name}"


def _hyphenated(tokens: list[Token], position: int) -> tuple[str, int]:
    """The name at ``position`` with all parts joined by hyphens, and the position of its last token."""
    name, last = tokens[position].source, position
    while tokens[last + 1].source == "-" and tokens[last].end == tokens[last + 1].offset:
        part = tokens[last + 2]
        glued = part.offset == tokens[last + 1].end and part.kind in ("name", "number")
        # `variables.a-variables.b` and `job.count-1` are subtractions.
        if (
            not glued
            or part.source in ROOTS
            or (part.kind == "number" and tokens[last + 3].source not in (".", "-"))
        ):
            break
        name, last = f"{name}-{part.source}", last + 2
    return name, last


def check_names(root: nodes.Node, *, condition: bool) -> None:
    """Every name and function is known. Raises ExpressionError for the first in the text that is not."""
    problems: list[ExpressionError] = []
    for visit in nodes.walk(root):
        problem: ExpressionError | None = None
        match visit.node:
            case nodes.Name(offset, name) if name not in visit.bound and name not in (*ROOTS, *TYPE_NAMES):
                problem = _unknown_name(name, offset)
            case nodes.Call(offset, function, arguments):
                problem = _check_call(function, len(arguments), offset, condition)
        if problem is not None:
            problems.append(problem)
    if problems:
        raise min(problems, key=lambda problem: problem.offset)


def _unknown_name(name: str, offset: int) -> ExpressionError:
    message = f'unknown name "{name}"; if it is meant as text, write "{name}" in quotes'
    near = difflib.get_close_matches(name, ROOTS, 1)
    if near:
        message = f'unknown name "{name}"; did you mean {near[0]}?'
    return ExpressionError("EXPRESSION_UNKNOWN_NAME", message, offset, _ROOTS_TEXT)


def _check_call(name: str, given: int, offset: int, condition: bool) -> ExpressionError | None:
    if name in CONDITION_FUNCTIONS:
        if not condition:
            message = f"{name}() is only available in when"
        elif given:
            message = f"{name}() takes no arguments"
        else:
            return None
        return ExpressionError("EXPRESSION_UNKNOWN_NAME", message, offset)
    function = FUNCTIONS.get(name)
    if function is None:
        near = difflib.get_close_matches(name, [*FUNCTIONS, *CONDITION_FUNCTIONS], 1)
        hint = f"; did you mean {near[0]}()?" if near else ""
        return ExpressionError("EXPRESSION_UNKNOWN_NAME", f"unknown function {name}(){hint}", offset)
    if not function.least <= given <= function.most:
        message = f"{name}() is given {given} arguments, its receiver included"
        return ExpressionError("EXPRESSION_SYNTAX", message, offset, function.arity)
    return None


def references(root: nodes.Node) -> tuple[Reference, ...]:
    """Every use of a root, in the order of the text; ``jobs.a.outputs`` counts once, as jobs and a."""
    found: list[Reference] = []
    keyed: set[int] = set()
    for visit in nodes.walk(root):
        key: str | None
        tested = False
        match visit.node:
            case nodes.Select(_, nodes.Name(offset, name), key, tested):
                keyed.add(offset)
            case nodes.Index(_, nodes.Name(offset, name), nodes.Literal(_, str() as key)):
                keyed.add(offset)
            case nodes.Binary(_, "in", nodes.Literal(_, str() as key), nodes.Name(offset, name)):
                keyed.add(offset)
                tested = True
            case nodes.Name(offset, name) if offset not in keyed:
                key = None
            case _:
                continue
        if name in ROOTS and name not in visit.bound:
            found.append(Reference(name, key, offset, tested))
    return tuple(sorted(found, key=lambda reference: reference.offset))


def gives_no_boolean(root: nodes.Node) -> bool:
    """Whether the form of the expression shows that its result is not a boolean."""
    match root:
        case nodes.Literal(_, value):
            return not isinstance(value, bool)
        case nodes.ListLiteral() | nodes.MapLiteral():
            return True
        case nodes.Binary(_, operator):
            return operator in ("+", "-", "*", "/", "%")
        case nodes.Unary(_, operator):
            return operator == "-"
        case nodes.Comprehension(_, macro):
            return macro in ("map", "filter")
        case nodes.Call(_, function):
            return function in ("size", "string", "int", "double", "uint", "join", "split", "replace")
    return False
