"""Problems of the definition of a run, with place and expected value; pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pilothouse.access.errors import Refusal

MAX_PROBLEMS = 50
_COMPARED = (
    500  # maximum number of names that a misspelled one is compared with: each takes some microseconds
)

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """``path``: such as ``jobs[1].steps[0].timeout``; ``expected``: what is valid there, or "".

    A warning is about something valid that is probably a mistake.
    """

    message: str
    line: int
    column: int
    expected: str
    path: str
    severity: Severity = "error"

    def describe(self, file: str) -> str:
        """``file:line:column: error: message (expected …)``, with the path if there is no line."""
        place = f"{file}:{self.line}:{self.column}" if self.line else self.path or file
        expected = f" (expected {self.expected})" if self.expected else ""
        return f"{place}: {self.severity}: {self.message}{expected}"

    def as_json(self) -> dict[str, str | int]:
        """The JSON form of the problem."""
        return {
            "severity": self.severity,
            "message": self.message,
            "line": self.line,
            "column": self.column,
            "expected": self.expected,
            "path": self.path,
        }


class SpecError(Refusal):
    """The spec is invalid. ``problems``: those found, in the order of the text, at most MAX_PROBLEMS."""

    code = "SPEC_INVALID"

    def __init__(self, problems: Iterable[SpecProblem], file: str) -> None:
        self.problems = tuple(problems)
        self.file = file
        super().__init__(
            "\n".join(problem.describe(file) for problem in self.problems),
            details={"problems": [problem.as_json() for problem in self.problems]},
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "timeout"?`` for the most similar known word, or "" if none is similar."""
    by_lower = {name.lower().replace("_", ""): name for name in islice(known, _COMPARED)}
    near = difflib.get_close_matches(word.lower().replace("_", "")[:64], by_lower, 1)
    return f'; did you mean "{by_lower[near[0]]}"?' if near else ""


def shown(text: str) -> str:
    """A quotation of user input for messages: on one line, without control characters, truncated."""
    line = " ".join(text[:1000].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return f'"{line[:57]}..."' if len(line) > 60 else f'"{line}"'


def child_path(path: str, key: str) -> str:
    """``path.key``, or ``path["a key"]`` if the key is not an identifier."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key):
        return f"{path}.{key}" if path else key
    return f'{path}["{key[:64]}"]'
