"""Workflow commands: lines on a step's standard output that the agent executes (decisions.md, built-in actions).

    ::output name=value          an output, as text
    ::output-json name=value     an output, as JSON
    ::progress 40 message        0 to 100, clamped
    ::mask value                 mask this value in the log from now on

A command fills its whole line, which is not part of the log. Other lines that begin with `::` are ordinary lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pilothouse.wire import outputs

LONG_COMMAND_CHARS = 16 << 10  # reading a longer one takes more than a millisecond
MAX_COMMAND_CHARS = 2 << 20  # an unfinished command line longer than this is an ordinary line

_KEYWORDS = ("::output", "::output-json", "::progress", "::mask")
_COMMAND = re.compile(r"::(output|output-json|progress|mask)(?: (.*))?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_PROGRESS = re.compile(r"\s*([+-]?[0-9]{1,9})%?(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SetOutput:
    name: str
    value: Any
    size: int  # bytes of name and value as written


@dataclass(frozen=True, slots=True)
class SetProgress:
    percent: int
    message: str


@dataclass(frozen=True, slots=True)
class AddMask:
    value: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """An invalid command. The reason does not contain the value, which may be a secret."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A command too long for `parse` to be called on the event loop."""

    line: str


Command = SetOutput | SetProgress | AddMask | Malformed | Unread


def parse(line: str) -> Command | None:
    """The command in this line (without its newline); None for an ordinary line."""
    match = _COMMAND.fullmatch(line)
    if match is None:
        return None
    keyword, rest = match[1], match[2] or ""
    if keyword == "mask":
        return AddMask(rest)
    if keyword == "progress":
        return _progress(rest)
    return _output(keyword, rest)


def _progress(rest: str) -> Command:
    match = _PROGRESS.fullmatch(rest)
    if match is None:
        return Malformed("::progress needs a whole number from 0 to 100")
    return SetProgress(max(0, min(100, int(match[1]))), match[2] or "")


def _output(keyword: str, rest: str) -> Command:
    name, equals, text = rest.partition("=")
    if not equals or _NAME.fullmatch(name) is None:
        return Malformed(f"::{keyword} needs name=value, the name of letters, digits, '_', '-' and '.'")
    value: Any = text
    if keyword == "output-json":
        try:
            value = outputs.read_json(text)
        except outputs.OutputRefused as refused:
            return Malformed(f"::output-json {name}: {refused}")
    return SetOutput(name, value, len(name) + len(text.encode("utf-8", "replace")))


class CommandScanner:
    """Extracts commands from text that arrives in pieces; other text passes immediately and unchanged."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = ""  # an unfinished line that may be a command

    def feed(self, text: str) -> list[str | Command]:
        """The text and commands of this piece, in order; command lines are removed from the text."""
        text = self._held + text
        self._held = ""
        first = self._at_line_start and text.startswith(":")
        if not first and "\n:" not in text:
            self._at_line_start = text.endswith("\n") if text else self._at_line_start
            return [text]
        return self._scan(text, 0 if first else text.find("\n:") + 1)

    def flush(self) -> list[str | Command]:
        """End of the stream: the incomplete line that was held back, as text or command."""
        held, self._held, self._at_line_start = self._held, "", True
        return [_read(held) or held] if held else []

    def _scan(self, text: str, start: int) -> list[str | Command]:
        """`start`: the offset of the first line that begins with a colon."""
        found: list[str | Command] = []
        plain = 0  # from here on nothing is in `found` yet
        while True:
            end = text.find("\n", start)
            if end < 0:
                break
            command = _read(text[start:end])
            if command is not None:
                found += [text[plain:start], command]
                plain = end + 1
            start = end + 1 if text.startswith(":", end + 1) else text.find("\n:", end + 1) + 1
            if start == 0:
                start = len(text)
                break
        if len(text) - start > MAX_COMMAND_CHARS or not _may_be_command(text[start:]):
            start = len(text)
        found.append(text[plain:start])
        self._held = text[start:]
        self._at_line_start = bool(self._held) or text.endswith("\n")
        return [part for part in found if part != ""]


def _read(line: str) -> Command | None:
    if len(line) > LONG_COMMAND_CHARS and _COMMAND.fullmatch(line):
        return Unread(line)
    return parse(line)


def _may_be_command(unfinished: str) -> bool:
    return any(keyword.startswith(unfinished) or unfinished.startswith(keyword) for keyword in _KEYWORDS)
