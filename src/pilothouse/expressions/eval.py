"""Evaluates a parsed expression within a budget.

The CEL library limits neither steps nor time and cannot be interrupted: a nested ``map`` over two lists of 1000 took
52 s, holding the interpreter's lock. Here every visited node counts as a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pilothouse.expressions import nodes as nodes
from pilothouse.expressions.errors import ExpressionError
from pilothouse.expressions.functions import FUNCTIONS
from pilothouse.expressions.secrecy import PUBLIC_FUNCTIONS, is_secret, joined, marked
from pilothouse.expressions.values import (
    INTEGERS,
    TYPE_NAMES,
    Budget,
    BudgetSpent,
    Fault,
    TypeName,
    a_type,
    compare,
    equal,
    is_number,
    plain,
    type_name,
)

_MISSING = object()
_ARITHMETIC = frozenset("+-*/%")


class Evaluator:
    """One evaluation. ``context``: the roots; ``conditions``: what always(), success(), failure() give."""

    def __init__(self, context: Mapping[str, Any], budget: Budget, conditions: Mapping[str, bool]) -> None:
        self._context = context
        self._budget = budget
        self._conditions = conditions
        self._bound: dict[str, Any] = {}
        self._has_secrets = bool(context.get("secrets"))

    def run(self, root: nodes.Node) -> Any:
        """A plain value. Raises ExpressionError: EXPRESSION_FAILED or EXPRESSION_TOO_EXPENSIVE."""
        try:
            try:
                return plain(self._value(root), self._budget)
            except Fault as fault:
                raise ExpressionError("EXPRESSION_FAILED", str(fault), root.offset) from None
        except BudgetSpent as spent:
            raise ExpressionError("EXPRESSION_TOO_EXPENSIVE", str(spent), root.offset) from None

    def _value(self, node: nodes.Node) -> Any:
        self._budget.spend(1)
        try:
            return _EVALUATE[type(node)](self, node)
        except Fault as fault:
            raise ExpressionError("EXPRESSION_FAILED", str(fault), node.offset) from None

    def _literal(self, node: nodes.Literal) -> Any:
        return node.value

    def _name(self, node: nodes.Name) -> Any:
        for names in (self._bound, self._context):
            if node.name in names:
                return names[node.name]
        if node.name in TYPE_NAMES:
            return TypeName(node.name)
        raise Fault(f"{node.name} has no value here")

    def _select(self, node: nodes.Select) -> Any:
        operand = self._value(node.operand)
        if not isinstance(operand, Mapping):
            raise Fault(f"{a_type(operand)} has no field {node.field}")
        if node.test:
            return node.field in operand
        return self._item(operand, node.field)

    def _item(self, operand: Mapping[Any, Any], key: str | int) -> Any:
        value = operand.get(key, _MISSING)
        if value is _MISSING:
            shown = f'"{key[:64]}"' if isinstance(key, str) else str(key)
            raise Fault(f"there is no key {shown}; test with has(...) if it may be missing")
        return value

    def _index(self, node: nodes.Index) -> Any:
        operand, key = self._value(node.operand), self._value(node.key)
        match operand, key:
            case (_, bool()):
                pass  # in Python, True equals 1
            case (Mapping(), str() | int()):
                # A computed key is not shown: it may be a secret's value.
                return (
                    self._item(operand, key)
                    if isinstance(node.key, nodes.Literal)
                    else self._computed(operand, key)
                )
            case (list() | tuple(), int()):
                if 0 <= key < len(operand):
                    return operand[key]
                shown = f"[{key}]" if isinstance(node.key, nodes.Literal) else "this index"
                raise Fault(f"the list has {len(operand)} elements, there is none at {shown}")
        raise Fault(f"{a_type(operand)} cannot be indexed by {a_type(key)}")

    def _computed(self, operand: Mapping[Any, Any], key: str | int) -> Any:
        value = operand.get(key, _MISSING)
        if value is _MISSING:
            raise Fault("there is no such key")
        return value

    def _call(self, node: nodes.Call) -> Any:
        if node.function in self._conditions:
            return self._conditions[node.function]
        function = FUNCTIONS[node.function]
        arguments = [self._value(argument) for argument in node.arguments]
        value = function.call(self._budget, *arguments)
        return value if node.function in PUBLIC_FUNCTIONS else self._derived(node, value, arguments)

    def _derived(self, node: nodes.Call, value: Any, arguments: list[Any]) -> Any:
        """The result of a function, marked if it was made from secrets."""
        if not self._has_secrets or any(value is argument for argument in arguments):
            return value
        if isinstance(value, bool) or not is_secret(arguments, self._budget):
            return value
        first = arguments[0]
        if isinstance(first, str) and value == first:
            return first  # with its parts
        return joined(value, arguments) if node.function == "join" else marked(value)

    def _unary(self, node: nodes.Unary) -> Any:
        value = self._value(node.operand)
        if node.operator == "!":
            return not _boolean("!", value)
        if isinstance(value, timedelta):
            return -value
        if not is_number(value):
            raise Fault(f"cannot negate {a_type(value)}")
        negative = _bounded(-value)
        return marked(negative) if is_secret(value, self._budget) else negative

    def _binary(self, node: nodes.Binary) -> Any:
        if node.operator in ("&&", "||"):
            return self._logical(node)
        left, right = self._value(node.left), self._value(node.right)
        value = self._combined(node, left, right)
        if self._has_secrets and node.operator in _ARITHMETIC and not isinstance(value, list):
            if isinstance(value, str):
                return joined(value, (left, right))
            return marked(value) if is_secret((left, right), self._budget) else value
        return value

    def _combined(self, node: nodes.Binary, left: Any, right: Any) -> Any:
        match node.operator:
            case "==":
                return equal(left, right, self._budget)
            case "!=":
                return not equal(left, right, self._budget)
            case "in":
                return self._contains(right, left)
            case "+":
                return self._add(left, right)
            case "-" | "*" | "/" | "%":
                return _arithmetic(node.operator, left, right)
        self._budget.spend(len(left) >> 10 if isinstance(left, str) else 0)
        return compare(node.operator, left, right)

    def _logical(self, node: nodes.Binary) -> bool:
        """As in CEL, an error on one side is ignored if the other side decides."""
        deciding = node.operator == "||"
        failure: ExpressionError | None = None
        for side in (node.left, node.right):
            try:
                if self._truth(side, node.operator) is deciding:
                    return deciding
            except ExpressionError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return not deciding

    def _truth(self, node: nodes.Node, what: str) -> bool:
        value = self._value(node)
        try:
            return _boolean(what, value)
        except Fault as fault:
            raise ExpressionError("EXPRESSION_FAILED", str(fault), node.offset) from None

    def _contains(self, container: Any, value: Any) -> bool:
        if isinstance(container, Mapping):
            if not isinstance(value, str | int):
                raise Fault(f"the key of a map is a string or an integer, not {a_type(value)}")
            return not isinstance(value, bool) and value in container
        if isinstance(container, list | tuple):
            return any(equal(item, value, self._budget) for item in container)
        raise Fault(f'"in" needs a list or a map on its right, this is {a_type(container)}')

    def _add(self, left: Any, right: Any) -> Any:
        match left, right:
            case (str(), str()) | (list(), list()):
                self._budget.make(len(left) + len(right))
                return left + right
            case (datetime(), timedelta()) | (timedelta(), datetime()) | (timedelta(), timedelta()):
                return _moved(lambda: left + right)
        return _arithmetic("+", left, right)

    def _conditional(self, node: nodes.Conditional) -> Any:
        return self._value(node.then if self._truth(node.test, "?") else node.otherwise)

    def _list(self, node: nodes.ListLiteral) -> list[Any]:
        return [self._value(item) for item in node.items]

    def _map(self, node: nodes.MapLiteral) -> dict[str | int, Any]:
        made: dict[str | int, Any] = {}
        for key_node, value_node in node.entries:
            key = self._value(key_node)
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise Fault(f"the key of a map must be a string or an integer, not {a_type(key)}")
            made[key] = self._value(value_node)
        return made

    def _comprehension(self, node: nodes.Comprehension) -> Any:
        source = self._value(node.source)
        if not isinstance(source, list | tuple | Mapping):
            raise Fault(f"{node.macro}() needs a list or a map, this is {a_type(source)}")
        outer = self._bound
        try:
            self._bound = dict(outer)
            return self._loop(node, source)
        finally:
            self._bound = outer

    def _loop(self, node: nodes.Comprehension, source: Any) -> Any:
        def each(part: nodes.Node) -> bool:
            return self._truth(part, node.macro)

        if node.macro in ("all", "exists"):
            return self._decide(node, source)
        kept: list[Any] = []
        for item in source:
            self._bound[node.variable] = item
            if node.macro == "map":
                if node.condition is None or each(node.condition):
                    kept.append(self._value(node.body))
            elif each(node.body):
                kept.append(item)
        return len(kept) == 1 if node.macro == "exists_one" else kept

    def _decide(self, node: nodes.Comprehension, source: Any) -> bool:
        """``all`` and ``exists`` are repeated ``&&`` and ``||``: an element that decides overrides errors."""
        deciding = node.macro == "exists"
        failure: ExpressionError | None = None
        for item in source:
            self._bound[node.variable] = item
            try:
                if self._truth(node.body, node.macro) is deciding:
                    return deciding
            except ExpressionError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return not deciding


def _boolean(what: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Fault(f'"{what}" needs true or false, this is {a_type(value)}')


def _bounded(value: int | float) -> int | float:
    if isinstance(value, int) and value not in INTEGERS:
        raise Fault("the integer does not fit into 64 bits")
    return value


def _moved(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except OverflowError:
        raise Fault("the time lies outside of the years 1 to 9999") from None


def _arithmetic(operator: str, left: Any, right: Any) -> Any:
    if operator == "-":
        match left, right:
            case (datetime(), datetime() | timedelta()) | (timedelta(), timedelta()):
                return _moved(lambda: left - right)
    kinds = type_name(left), type_name(right)
    if kinds[0] != kinds[1] or not is_number(left):
        hint = "; convert with string(...)" if operator == "+" and "string" in kinds else ""
        if is_number(left) and is_number(right):
            hint = "; convert with int(...) or double(...)"
        raise Fault(f"cannot compute {kinds[0]} {operator} {kinds[1]}{hint}")
    match operator:
        case "+":
            return _bounded(left + right)
        case "-":
            return _bounded(left - right)
        case "*":
            return _bounded(left * right)
    return _divide(operator, left, right)


def _divide(operator: str, left: Any, right: Any) -> int | float:
    """``/`` and ``%``: integers round towards zero, and the rest has the sign of ``left``."""
    if operator == "%" and isinstance(left, float):
        raise Fault("% needs integers")
    if right == 0:
        # For doubles CEL gives an infinity, which JSON cannot hold.
        raise Fault("division by zero")
    if isinstance(left, float):
        return float(left / right)
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return _bounded(quotient if operator == "/" else left - quotient * right)


_EVALUATE: Mapping[type[nodes.Node], Callable[[Evaluator, Any], Any]] = {
    nodes.Literal: Evaluator._literal,
    nodes.Name: Evaluator._name,
    nodes.Select: Evaluator._select,
    nodes.Index: Evaluator._index,
    nodes.Call: Evaluator._call,
    nodes.Unary: Evaluator._unary,
    nodes.Binary: Evaluator._binary,
    nodes.Conditional: Evaluator._conditional,
    nodes.ListLiteral: Evaluator._list,
    nodes.MapLiteral: Evaluator._map,
    nodes.Comprehension: Evaluator._comprehension,
}
