"""The problems of a spec, collected while it is read."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine.problems import MAX_PROBLEMS, SpecError, SpecProblem, child_path, did_you_mean, shown

__all__ = [
    "MAX_PROBLEMS",
    "MAX_WARNINGS",
    "Mark",
    "Problems",
    "SpecError",
    "SpecProblem",
    "TooManyProblems",
    "child_path",
    "did_you_mean",
    "shown",
]

MAX_WARNINGS = 50


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text, both 1-based; 0:0 where there is no text (a spec that came as an object)."""

    line: int = 0
    column: int = 0


class TooManyProblems(Exception):
    """Raised to end the check."""


class Problems:
    """Collects problems and warnings while a spec is read."""

    def __init__(self) -> None:
        self._found: list[SpecProblem] = []
        self._warnings: dict[SpecProblem, None] = {}

    def add(self, mark: Mark, path: str, message: str, expected: str = "") -> None:
        """Add an error. Raises TooManyProblems at MAX_PROBLEMS."""
        self._found.append(SpecProblem(message, mark.line, mark.column, expected, path))
        if len(self._found) >= MAX_PROBLEMS:
            raise TooManyProblems

    @property
    def room_for_warnings(self) -> bool:
        """Whether there are fewer than MAX_WARNINGS."""
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
