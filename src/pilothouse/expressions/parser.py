"""Parses CEL source to a tree.

The CEL library's parser gives neither the places of names, which the linter needs, nor helpful messages, nor a
tree that can be evaluated within a budget (see eval).
"""

from __future__ import annotations

from pilothouse.expressions.errors import ExpressionError
from pilothouse.expressions.nodes import (
    Binary,
    Call,
    Comprehension,
    Conditional,
    Index,
    ListLiteral,
    Literal,
    MapLiteral,
    Name,
    Node,
    Select,
    Unary,
    walk,
)
from pilothouse.expressions.tokens import Token

MAX_DEPTH = 64  # depth of the tree; keeps the evaluator's recursion far from Python's limit

MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})
_PRECEDENCE = {"||": 1, "&&": 2} | dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 3)
_PRECEDENCE |= {"+": 4, "-": 4, "*": 5, "/": 5, "%": 5}
_CONSTANTS = {"true": True, "false": False, "null": None}
_WORDS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!"}
_INTEGERS = range(-(2**63), 2**63)


def parse(tokens: list[Token]) -> Node:
    """Raises ExpressionError: EXPRESSION_SYNTAX, or EXPRESSION_TOO_BIG over MAX_DEPTH."""
    parser = _Parser(tokens)
    root = parser.expression()
    parser.expect_end()
    for visit in walk(root):
        if visit.depth > MAX_DEPTH:
            raise _too_deep(visit.node.offset)
    return root


def _too_deep(offset: int) -> ExpressionError:
    return ExpressionError(
        "EXPRESSION_TOO_BIG", f"the expression is nested more than {MAX_DEPTH} deep", offset
    )


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._position]

    def _advance(self) -> Token:
        token = self._next
        self._position += 1
        return token

    def _at(self, operator: str) -> bool:
        return self._next.kind == "operator" and self._next.source == operator

    def _accept(self, operator: str) -> bool:
        if self._at(operator):
            self._position += 1
            return True
        return False

    def _expect(self, operator: str) -> None:
        if not self._accept(operator):
            raise self._unexpected(f'"{operator}"')

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end of the expression")

    def _unexpected(self, expected: str) -> ExpressionError:
        token = self._next
        previous = self._tokens[self._position - 1] if self._position else token
        for word in (token.source, previous.source):
            if word in _WORDS:
                expected = f'"{_WORDS[word]}" instead of "{word}"'
        message = (
            "the expression ends too early" if token.kind == "end" else f'unexpected "{token.source[:40]}"'
        )
        return ExpressionError("EXPRESSION_SYNTAX", message, token.offset, expected)

    def expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep(self._next.offset)
        node = self._binary(1)
        if self._at("?"):
            self._advance()
            then = self._binary(1)
            self._expect(":")
            node = Conditional(node.offset, node, then, self.expression())
        self._depth -= 1
        return node

    def _binary(self, lowest: int) -> Node:
        left = self._unary()
        while (token := self._next).kind in ("operator", "name"):
            precedence = _PRECEDENCE.get(token.source, 0)
            if precedence < lowest:
                break
            self._advance()
            left = Binary(token.offset, token.source, left, self._binary(precedence + 1))
        return left

    def _unary(self) -> Node:
        signs: list[Token] = []
        while self._at("!") or self._at("-"):
            signs.append(self._advance())
        operand = self._signed_number(signs) or self._member()
        for sign in reversed(signs):
            operand = Unary(sign.offset, sign.source, operand)
        return operand

    def _signed_number(self, signs: list[Token]) -> Node | None:
        """``-5`` as one literal, since the smallest integer has no positive counterpart. Consumes the sign."""
        token = self._next
        if not signs or signs[-1].source != "-" or not isinstance(token.value, int | float):
            return None
        self._advance()
        return self._number(signs.pop().offset, -token.value)

    def _number(self, offset: int, value: int | float) -> Literal:
        if isinstance(value, int) and value not in _INTEGERS:
            raise ExpressionError("EXPRESSION_SYNTAX", "the integer does not fit into 64 bits", offset)
        return Literal(offset, value)

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._accept("."):
                node = self._field(node)
            elif self._accept("["):
                node = Index(node.offset, node, self.expression())
                self._expect("]")
            else:
                return node

    def _field(self, operand: Node) -> Node:
        if self._next.kind != "name":
            raise self._unexpected('a name after "."')
        field = self._advance()
        if not self._accept("("):
            return Select(operand.offset, operand, field.source)
        arguments = self._arguments(")")
        if field.source in MACROS:
            return self._comprehension(operand, field, arguments)
        return Call(field.offset, field.source, (operand, *arguments))

    def _comprehension(self, source: Node, macro: Token, arguments: tuple[Node, ...]) -> Node:
        allowed = (2, 3) if macro.source == "map" else (2,)
        if len(arguments) not in allowed or not isinstance(arguments[0], Name):
            expected = f"{macro.source}(name, expression)"
            message = f"{macro.source}() takes a name and an expression"
            raise ExpressionError("EXPRESSION_SYNTAX", message, macro.offset, expected)
        condition = arguments[1] if len(arguments) == 3 else None
        return Comprehension(macro.offset, macro.source, source, arguments[0].name, condition, arguments[-1])

    def _arguments(self, closing: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while not self._accept(closing):
            found.append(self.expression())
            if not self._at(closing):
                self._expect(",")
                if closing == ")" and self._at(closing):  # CEL allows a trailing comma in lists and maps only
                    raise self._unexpected("an argument")
        return tuple(found)

    def _primary(self) -> Node:
        token = self._next
        if token.kind == "end" or (token.kind == "operator" and token.source not in ("(", "[", "{")):
            raise self._unexpected("a value")
        self._advance()
        if token.kind == "name":
            return self._named(token)
        if token.kind == "text":
            return Literal(token.offset, token.value)
        if isinstance(token.value, int | float):
            return self._number(token.offset, token.value)
        if token.source == "[":
            return ListLiteral(token.offset, self._arguments("]"))
        if token.source == "{":
            return MapLiteral(token.offset, self._entries())
        inner = self.expression()
        self._expect(")")
        return inner

    def _named(self, token: Token) -> Node:
        if token.source in _CONSTANTS:
            return Literal(token.offset, _CONSTANTS[token.source])
        if token.source == "in":
            self._position -= 1
            raise self._unexpected("a value")
        if not self._accept("("):
            return Name(token.offset, token.source)
        arguments = self._arguments(")")
        if token.source != "has":
            return Call(token.offset, token.source, arguments)
        if len(arguments) != 1 or not isinstance(arguments[0], Select):
            raise ExpressionError(
                "EXPRESSION_SYNTAX", "has() takes one field", token.offset, "has(variables.name)"
            )
        return Select(token.offset, arguments[0].operand, arguments[0].field, test=True)

    def _entries(self) -> tuple[tuple[Node, Node], ...]:
        entries: list[tuple[Node, Node]] = []
        while not self._accept("}"):
            key = self.expression()
            self._expect(":")
            entries.append((key, self.expression()))
            if not self._at("}"):
                self._expect(",")
        return tuple(entries)
