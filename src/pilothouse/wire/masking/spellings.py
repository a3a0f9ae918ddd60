"""The forms in which programs print a secret value: encodings, escapes, shell quoting. Pure."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote

MIN_LENGTH = 4
"""Characters; shorter values and lines are not masked on their own, since they would hide ordinary text."""

# Input bytes per line of output: base64 and similar tools with 76 columns, PEM and openssl with 64.
_BASE64_ROWS = (57, 48)
_HEX_ROW = 30  # xxd -p

_URL_SAFE = ("", "/", "!'()*")  # strict, Python's default, JavaScript's encodeURIComponent
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_QUOTES = re.compile("'+")
_BACKSLASHED = re.compile(r"([ !\"$&'()*,;<>?\[\\\]^`{|}]|(?<=[:=])~)")  # by printf %q of bash
_ANY = re.compile(r"[^\x01\x7f]")
_DOUBLE_QUOTED = re.compile(r'(["$`\\])')
_ANSI_C = str.maketrans(
    {"\x1b": "\\E", "\a": "\\a", "\b": "\\b", "\v": "\\v", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    | {"\\": "\\\\", "'": "\\'"}
)
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


def spellings(value: str) -> set[str]:
    """All forms of the value to mask; none if it is too short."""
    whole = value.strip()
    if len(whole) < MIN_LENGTH:
        return set()
    found: set[str] = set()
    # Carriage returns before newlines are removed from output, so the value is also searched without them.
    for text in {whole, whole.replace("\r\n", "\n")}:
        lines = [line.strip() for line in text.split("\n")]
        for line in lines:
            if len(line) >= MIN_LENGTH:
                found.update(_escaped(line))
        if len(lines) > 1:
            # If a line is too short to be masked alone, the value is masked as a whole.
            short = any(0 < len(line) < MIN_LENGTH for line in lines)
            found.update(_escaped(text) if short else (*_json(text), *_ansi_c(text)))
        found.update(_encoded(text.encode("utf-8", "surrogatepass")))
    return {form for form in found if len(form) >= MIN_LENGTH}


def _escaped(text: str) -> Iterator[str]:
    """The text, and its quoted forms without the quotes, since other text can be inside the same quotes."""
    yield text
    yield from _json(text)
    yield from _ansi_c(text)
    yield text.replace("'", "'\\''")  # set -x of bash and busybox
    dash = _QUOTES.sub(lambda run: f"'\"{run[0]}\"'", text)  # set and export -p
    yield dash[:-1] if text.endswith("'") else dash  # a quote at the end is not followed by an empty string
    yield _BACKSLASHED.sub(r"\\\1", text)
    # The right side of [[ … == … ]] by set -x of bash; if only ASCII is printable, byte by byte.
    bytewise = text.encode("utf-8", "surrogatepass").decode("ascii", "replace")
    for characters in {text, bytewise}:
        yield _ANY.sub(r"\\\g<0>", characters)
    yield _DOUBLE_QUOTED.sub(r"\\\1", text)  # declare -p of bash


def _json(text: str) -> Iterator[str]:
    ascii_only = json.dumps(text)[1:-1]
    yield ascii_only
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield ascii_only.replace("/", "\\/")


def _ansi_c(text: str) -> Iterator[str]:
    """The content of `$'…'` in bash, in a UTF-8 locale and in one where only ASCII is printable."""
    if text.isascii() and text.isprintable() and "'" not in text and "\\" not in text:
        return
    known = text.translate(_ANSI_C)
    yield known if known.isprintable() else _NOT_ASCII.sub(_octal_unless_printable, known)
    yield _NOT_ASCII.sub(_octal, known)


def _octal_unless_printable(character: re.Match[str]) -> str:
    return character[0] if character[0].isprintable() else _octal(character)


def _octal(character: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in character[0].encode("utf-8", "surrogatepass"))


def _encoded(data: bytes) -> Iterator[str]:
    for safe in _URL_SAFE:
        quoted = quote(data, safe=safe)
        for url in {quoted, quoted.replace("%20", "+")}:
            yield url
            yield _PERCENT.sub(lambda code: code[0].lower(), url)
    for row in _rows(data, (_HEX_ROW, len(data))):
        yield row.hex()
        yield row.hex().upper()
    yield from _base64_cores(data)
    for row in _rows(data, (*_BASE64_ROWS, len(data))):
        yield b64encode(row).decode("ascii")
        yield urlsafe_b64encode(row).decode("ascii")
        # The last row if more data follows the value: without the characters that depend on it.
        yield b64encode(row).decode("ascii")[: len(row) * 8 // 6]


def _rows(data: bytes, widths: Iterable[int]) -> Iterator[bytes]:
    """The value in the rows in which tools print it if it is at the start of their input."""
    for width in widths:
        if width <= len(data):
            yield from (data[start : start + width] for start in range(0, len(data), width))


def _base64_cores(data: bytes) -> Iterator[str]:
    """For each alignment, the characters that share no bits with adjacent data."""
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(before) + data)[first:last].decode("ascii")
