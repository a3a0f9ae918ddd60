"""What is wrong with a spec, said so that it can be mended."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

MAX_PROBLEMS = 50


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text, both 1-based; 0:0 where there is no text (a spec that came as an object)."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """``path``: as ``jobs[1].steps[0].timeout``; ``expected``: what would be right, or ""."""

    message: str
    line: int
    column: int
    expected: str
    path: str

    def describe(self, file: str) -> str:
        """``file:line:column: message (expected …)``; the path stands in where there is no line."""
        place = f"{file}:{self.line}:{self.column}" if self.line else self.path or file
        return f"{place}: {self.message}" + (f" (expected {self.expected})" if self.expected else "")


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
    """Collects problems while a spec is read."""

    def __init__(self) -> None:
        self._found: list[SpecProblem] = []

    def add(self, mark: Mark, path: str, message: str, expected: str = "") -> None:
        """Raises TooManyProblems once there are enough for one sitting."""
        self._found.append(SpecProblem(message, mark.line, mark.column, expected, path))
        if len(self._found) >= MAX_PROBLEMS:
            raise TooManyProblems

    def ordered(self) -> list[SpecProblem]:
        return sorted(self._found, key=lambda problem: (problem.line, problem.column))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "timeout"?`` for the nearest of the known words, or "" if none is near."""
    by_lower = {name.lower().replace("_", ""): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("_", "")[:64], by_lower, 1)
    return f'; did you mean "{by_lower[near[0]]}"?' if near else ""


def shown(text: str) -> str:
    """A piece of the author's text in quotes, on one line, cut to a bearable length."""
    line = " ".join(text.split())
    return f'"{line[:57]}..."' if len(line) > 60 else f'"{line}"'
