"""The error of expressions, and its stable codes."""

from __future__ import annotations

from typing import Literal

ExpressionCode = Literal[
    "EXPRESSION_SYNTAX",  # not CEL
    "EXPRESSION_UNKNOWN_NAME",  # an unknown name
    "EXPRESSION_TOO_BIG",  # source or nesting over the bound
    "EXPRESSION_TOO_EXPENSIVE",  # evaluation exceeded its budget
    "EXPRESSION_FAILED",  # evaluation met a missing key, a wrong type, ...
    "EXPRESSION_NOT_BOOLEAN",  # a condition that gives no boolean
]


class ExpressionError(Exception):
    """An expression that cannot be compiled or evaluated.

    ``offset``: 0-based character of the source; ``expected``: what is expected there, or "". The message never holds
    a value of the context, which may be a secret.
    """

    def __init__(self, code: ExpressionCode, message: str, offset: int = 0, expected: str = "") -> None:
        super().__init__(message)
        self.code: ExpressionCode = code
        self.message = message
        self.offset = offset
        self.expected = expected
