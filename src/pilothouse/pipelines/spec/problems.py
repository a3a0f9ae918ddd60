"""What is wrong with a spec, said so that it can be mended."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

MAX_PROBLEMS = 50
MAX_WARNINGS = 50
_COMPARED = 500  # names that a misspelt one is compared with: each costs some microseconds

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text, both 1-based; 0:0 where there is no text (a spec that came as an object)."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """``path``: as ``jobs[1].steps[0].timeout``; ``expected``: what would be right, or "".

    A warning is of something that is allowed but looks like a mistake.
    """

    message: str
    line: int
    column: int
    expected: str
    path: str
    severity: Severity = "error"

    def describe(self, file: str) -> str:
        """``file:line:column: error: message (expected …)``; the path stands in where there is no line."""
        place = f"{file}:{self.line}:{self.column}" if self.line else self.path or file
        expected = f" (expected {self.expected})" if self.expected else ""
        return f"{place}: {self.severity}: {self.message}{expected}"

    def as_json(self) -> dict[str, str | int]:
        """The problem as clients get it."""
        return {
            "severity": self.severity,
            "message": self.message,
            "line": self.line,
            "column": self.column,
            "expected": self.expected,
            "path": self.path,
        }


class SpecError(Exception):
    """The spec cannot be used. ``problems``: all that were found, as the text has them, to MAX_PROBLEMS."""

    code = "SPEC_INVALID"

    def __init__(self, problems: Iterable[SpecProblem], file: str) -> None:
        self.problems = tuple(problems)
        self.file = file
        super().__init__("\n".join(problem.describe(file) for problem in self.problems))


class TooManyProblems(Exception):
    """Raised to stop looking for more."""


class Problems:
    """Collects problems and warnings while a spec is read."""

    def __init__(self) -> None:
        self._found: list[SpecProblem] = []
        self._warnings: dict[SpecProblem, None] = {}

    def add(self, mark: Mark, path: str, message: str, expected: str = "") -> None:
        """Raises TooManyProblems once there are enough for one sitting."""
        self._found.append(SpecProblem(message, mark.line, mark.column, expected, path))
        if len(self._found) >= MAX_PROBLEMS:
            raise TooManyProblems

    @property
    def room_for_warnings(self) -> bool:
        """Whether one more would be kept."""
        return len(self._warnings) < MAX_WARNINGS

    def warn(self, mark: Mark, path: str, message: str, expected: str = "") -> None:
        """The same warning at the same place counts once; those beyond MAX_WARNINGS are dropped."""
        if self.room_for_warnings:
            warning = SpecProblem(message, mark.line, mark.column, expected, path, "warning")
            self._warnings[warning] = None

    def ordered(self) -> list[SpecProblem]:
        """The errors, by their place in the text."""
        return sorted(self._found, key=_place)

    def warnings(self) -> tuple[SpecProblem, ...]:
        """The warnings, by their place in the text."""
        return tuple(sorted(self._warnings, key=_place))


def _place(problem: SpecProblem) -> tuple[int, int]:
    return problem.line, problem.column


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "timeout"?`` for the nearest of the known words, or "" if none is near."""
    by_lower = {name.lower().replace("_", ""): name for name in islice(known, _COMPARED)}
    near = difflib.get_close_matches(word.lower().replace("_", "")[:64], by_lower, 1)
    return f'; did you mean "{by_lower[near[0]]}"?' if near else ""


def shown(text: str) -> str:
    """A piece of the author's text in quotes, on one line, without control characters, cut to a bearable length."""
    line = " ".join(text[:1000].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return f'"{line[:57]}..."' if len(line) > 60 else f'"{line}"'
