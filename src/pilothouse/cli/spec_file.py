"""The spec in the user's hands: finding it, and saying what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilothouse.cli.errors import UsageError
from pilothouse.cli.output import Output
from pilothouse.cli.text import safe

if TYPE_CHECKING:
    from pilothouse.client import ApiProblem, PilotClient
    from pilothouse.client.shapes import Validation

NAME = ".pilot.yaml"
_MAX_SPEC = 4 << 20


@dataclass(frozen=True, slots=True)
class SpecFile:
    """``shown``: the path as the user would write it."""

    path: Path
    shown: str
    text: str


def find_spec(given: Path | None, directory: Path, top: Path) -> SpecFile:
    """The given file; else ``.pilot.yaml`` in ``directory`` or above it, up to ``top``. Raises UsageError."""
    if given is not None:
        return _read(given)
    here = directory
    while True:
        if (here / NAME).is_file():
            return _read(here / NAME)
        if here == top or here.parent == here:
            raise UsageError(f"there is no {NAME} here", "name one with --file")
        here = here.parent


def _read(path: Path) -> SpecFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _MAX_SPEC:
        raise UsageError(f"{path} is over {_MAX_SPEC >> 20} MiB: that is no spec")
    try:
        return SpecFile(path, _shown(path), data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve())) if path.is_absolute() else str(path)
    except ValueError:
        return str(path)


async def check(client: PilotClient, spec: SpecFile, out: Output) -> Validation:
    """Have the server check it, and print its warnings. Raises UsageError, with the problems printed."""
    from pilothouse.client import ApiProblem

    try:
        valid = await client.pipelines.validate(spec.text, spec.shown)
    except ApiProblem as refusal:
        raise refused(refusal, spec, out) from None
    for warning in valid["warnings"]:
        out.say(f"{_described(warning, spec.shown)} [warning]", "yellow")
    return valid


def refused(refusal: ApiProblem, spec: SpecFile, out: Output) -> Exception:
    """Print a spec's problems, and give back what to raise; other refusals come back as they are."""
    details = refusal.details if isinstance(refusal.details, dict) else {}
    problems = details.get("problems")
    if refusal.code != "SPEC_INVALID" or not problems:
        return refusal
    if out.structured:
        out.document({"valid": False, "problems": problems})
    for problem in problems:
        out.say(_described(problem, spec.shown))
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return UsageError(f"{count} in {spec.shown}")


def _described(problem: Any, file: str) -> str:
    """``file:line:column: message (expected …)``."""
    if not isinstance(problem, dict):
        return f"{file}: {safe(str(problem))}"
    place = f"{file}:{problem['line']}:{problem.get('column') or 1}" if problem.get("line") else file
    if place == file and problem.get("path"):
        place = f"{file}: {safe(problem['path'])}"
    expected = f" (expected {safe(problem['expected'])})" if problem.get("expected") else ""
    return f"{place}: {safe(problem.get('message', 'wrong'))}{expected}"
