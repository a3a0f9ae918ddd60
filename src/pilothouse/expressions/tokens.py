"""The tokenizer of CEL expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pilothouse.expressions.errors import ExpressionError

MAX_SOURCE = 4096  # characters

TokenKind = Literal["name", "number", "text", "operator", "end"]

_TOKEN = re.compile(
    r"""(?P<space>(?:\s|//[^\n]*)+)
      | (?P<quote>[rR]?(?:\"\"\"|'''|"|'))
      | (?P<bytes>[rR]?[bB][rR]?["'])
      | (?P<float>(?:[0-9]+\.[0-9]+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)
      | (?P<integer>0[xX][0-9a-fA-F]+[uU]?|[0-9]+[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<operator>&&|\|\||==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\?"'`])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))"""
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HINTS = {"=": "== to compare", "&": "&& for and", "|": "|| for or"}


@dataclass(frozen=True, slots=True)
class Token:
    """``value``: the number or unescaped text of a literal; ``offset``, ``end``: its place in the source."""

    kind: TokenKind
    source: str
    value: str | int | float
    offset: int
    end: int


def tokenize(source: str) -> list[Token]:
    """Split ``source``; the last token is of kind "end". Raises ExpressionError, also over MAX_SOURCE."""
    if len(source) > MAX_SOURCE:
        message = f"the expression has {len(source)} characters, the bound is {MAX_SOURCE}"
        raise ExpressionError("EXPRESSION_TOO_BIG", message)
    tokens: list[Token] = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise _unknown_character(source, position)
        if match.lastgroup != "space":
            tokens.append(_token(source, match))
            position = tokens[-1].end
        else:
            position = match.end()
    tokens.append(Token("end", "", "", len(source), len(source)))
    return tokens


def _token(source: str, match: re.Match[str]) -> Token:
    start, end, word = match.start(), match.end(), match[0]
    match match.lastgroup:
        case "quote":
            text, end = _text_literal(source, start, word)
            return Token("text", source[start:end], text, start, end)
        case "bytes":
            raise ExpressionError("EXPRESSION_SYNTAX", "byte strings are not supported", start)
        case "float":
            return Token("number", word, float(word), start, end)
        case "integer":
            # CEL's unsigned integers are not distinguished: numbers come from YAML or JSON.
            return Token(
                "number", word, int(word.rstrip("uU"), 16 if word[:2] in ("0x", "0X") else 10), start, end
            )
        case "name":
            return Token("name", word, word, start, end)
    return Token("operator", word, word, start, end)


def _unknown_character(source: str, position: int) -> ExpressionError:
    character = source[position]
    message = f"unexpected character {character!r}"
    return ExpressionError("EXPRESSION_SYNTAX", message, position, _HINTS.get(character, ""))


def _text_literal(source: str, start: int, opening: str) -> tuple[str, int]:
    """The value and the end of the literal whose ``opening`` (a quote, three, or ``r"``) is at ``start``."""
    raw = opening[0] in "rR"
    quote = opening.lstrip("rR")
    end = start + len(opening)
    while not source.startswith(quote, end):
        if end >= len(source) or (len(quote) == 1 and source[end] in "\r\n"):
            raise ExpressionError(
                "EXPRESSION_SYNTAX", f"the text that opens with {opening} is never closed", start
            )
        end += 2 if source[end] == "\\" and not raw else 1
    body = source[start + len(opening) : end]
    return body if raw else _unescape(body, start + len(opening)), end + len(quote)


def _unescape(body: str, offset: int) -> str:
    parts: list[str] = []
    position = 0
    while (slash := body.find("\\", position)) >= 0:
        match = _ESCAPE.match(body, slash)
        if match is None:
            shown = body[slash : slash + 2]
            hint = "a backslash itself is written \\\\, or the text as r'...'"
            raise ExpressionError("EXPRESSION_SYNTAX", f"unknown escape {shown}", offset + slash, hint)
        parts += (body[position:slash], _escaped(match, offset + slash))
        position = match.end()
    return "".join(parts) + body[position:]


def _escaped(match: re.Match[str], offset: int) -> str:
    simple, octal = match[1], match[5]
    if simple:
        return _SIMPLE.get(simple, simple)
    point = int(octal, 8) if octal else int(match[2] or match[3] or match[4], 16)
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise ExpressionError("EXPRESSION_SYNTAX", f"{match[0]} is no Unicode character", offset)
    return chr(point)
