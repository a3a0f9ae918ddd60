"""Finds and reads the local spec file and prints its problems."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pilothouse.cli.errors import UsageError
from pilothouse.cli.output import Output
from pilothouse.cli.text import safe

if TYPE_CHECKING:
    from pilothouse.client import ApiProblem, PilotClient
    from pilothouse.client.types import Validation

NAME = ".pilot.yaml"
STDIN = Path("-")
_MAX_BYTES = 4 << 20
"""Above the UTF-8 size of a spec with the maximum of 1 Mi characters."""


@dataclass(frozen=True, slots=True)
class SpecFile:
    """A spec file. ``shown``: its path relative to the current directory."""

    path: Path
    shown: str
    text: str


def find_spec(given: Path | None, directory: Path, top: Path) -> SpecFile:
    """The given file, ``-`` for stdin; else ``.pilot.yaml`` in ``directory`` or its parents up to ``top``.

    Raises UsageError.
    """
    if given is not None:
        return read_spec(given)
    here = directory
    while True:
        if (here / NAME).is_file():
            return read_spec(here / NAME)
        if here == top or here.parent == here:
            raise UsageError(f"there is no {NAME} here", "give a file, or create one with `pilot init`")
        here = here.parent


def top_of(directory: Path) -> Path:
    """The root of the work tree that contains ``directory``, found by ``.git``; else the directory itself."""
    trees = (here for here in (directory, *directory.parents) if os.path.lexists(here / ".git"))
    return next(trees, directory)


def read_spec(path: Path) -> SpecFile:
    """Read one file, or stdin for ``-``. Raises UsageError."""
    name = shown(path)
    try:
        data = _bounded(_stdin()) if path == STDIN else _file(path)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from None
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{name} is over {_MAX_BYTES >> 20} MiB, the limit for specs")
    try:
        return SpecFile(path, name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name} is not valid UTF-8: invalid bytes in line {line}") from None


def _file(path: Path) -> bytes:
    with path.open("rb") as file:
        return _bounded(file)


def _bounded(file: IO[bytes]) -> bytes:
    """Read at most one byte more than the limit: a device or pipe may never end."""
    return file.read(_MAX_BYTES + 1)


def _stdin() -> IO[bytes]:
    return sys.stdin.buffer


def shown(path: Path) -> str:
    """The path relative to the current directory."""
    if path == STDIN:
        return "<stdin>"
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve())) if path.is_absolute() else str(path)
    except (OSError, ValueError):
        return str(path)


async def check(
    client: PilotClient, spec: SpecFile, out: Output, variables: Mapping[str, str], project: str
) -> Validation:
    """Validate the spec on the server for a run with these variables, and print warnings.

    Raises UsageError after printing the problems, including missing secrets and variables.
    """
    from pilothouse.client import ApiProblem

    try:
        valid = await client.pipelines.validate(spec.text, spec.shown, variables=variables, project=project)
    except ApiProblem as refusal:
        raise refused(refusal, spec, out) from None
    for warning in valid["warnings"]:
        out.say(safe(str(warning)), "yellow")
    return valid


def refused(refusal: ApiProblem, spec: SpecFile, out: Output) -> Exception:
    """Print a spec's problems and return the error to raise; other errors are returned unchanged."""
    details = refusal.details if isinstance(refusal.details, dict) else {}
    problems = details.get("problems")
    if refusal.code != "SPEC_INVALID" or not problems:
        return refusal
    if out.structured:
        out.document({"valid": False, "problems": problems})
    for problem in problems:
        out.say(described(problem, spec.shown))
    return UsageError(counted(len(problems), spec.shown))


def counted(problems: int, where: str) -> str:
    """``2 problems in .pilot.yaml``."""
    return f"{problems} problem{'' if problems == 1 else 's'} in {where}"


def described(problem: Mapping[str, Any], file: str) -> str:
    """``file:line:column: error: message (expected …)``; the path in the spec if the line is unknown."""
    place = f"{file}:{problem['line']}:{problem.get('column') or 1}" if problem.get("line") else file
    if place == file and problem.get("path"):
        place = f"{file}: {problem['path']}"
    expected = f" (expected {problem['expected']})" if problem.get("expected") else ""
    severity = problem.get("severity", "error")
    return safe(f"{place}: {severity}: {problem.get('message', 'wrong')}{expected}")
