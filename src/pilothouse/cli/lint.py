"""``pilot pipeline lint`` and ``schema``: checks of specs that need no server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.session import Session, command
from pilothouse.cli.spec_file import counted, described, find_spec, read_spec, shown, top_of
from pilothouse.cli.text import safe

if TYPE_CHECKING:
    from pilothouse.pipelines.spec import ParsedSpec

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE", help="Spec files; - for stdin. [default: .pilot.yaml]", show_default=False
    ),
]


@dataclass(slots=True)
class Report:
    """Result of checking one file."""

    file: str
    jobs: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether the spec has no errors."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "file": self.file,
            "valid": self.valid,
            "jobs": self.jobs,
            "problems": self.problems,
            "warnings": self.warnings,
        }


def add_to(pipelines: typer.Typer) -> None:
    """Add the commands to ``pilot pipeline``."""
    command(pipelines, "lint", options=False)(lint)
    command(pipelines, "schema", options=False)(schema)


def lint(session: Session, files: Files = None) -> None:
    """Check specs without running them. No server is required."""
    here = Path.cwd()
    paths = files or [find_spec(None, here, top_of(here)).path]
    reports = [_report(path) for path in paths]
    out = session.out
    if out.structured:
        valid = all(report.valid for report in reports)
        out.document({"valid": valid, "files": [report.document() for report in reports]})
    for report in reports:
        for problem in report.problems:
            out.say(described(problem, report.file), "red")
        for warning in report.warnings:
            out.say(described(warning, report.file), "yellow")
        if report.valid and not out.structured:
            out.line(f"{report.file}: valid ({report.jobs} job{'' if report.jobs == 1 else 's'})")
    _fail(reports)


def schema(session: Session) -> None:
    """Print the JSON Schema of specs."""
    session.out.document(spec_schema())


def parsed(text: str, file: str) -> ParsedSpec:
    """Check a spec as the server does. Raises pilothouse.pipelines.spec.SpecError."""
    from pilothouse.pipelines.spec import parse_spec

    return parse_spec(text, file=file)


def spec_schema() -> dict[str, Any]:
    """The JSON Schema of specs."""
    from pilothouse.pipelines.spec import BUILTIN_ACTIONS, json_schema

    return json_schema(BUILTIN_ACTIONS)


def _report(path: Path) -> Report:
    from pilothouse.pipelines.spec import SpecError

    report = Report(safe(shown(path)))
    try:
        spec = read_spec(path)
        found = parsed(spec.text, spec.shown)
    except CliError as error:
        report.problems.append(_unreadable(str(error)))
    except SpecError as error:
        report.problems += [problem.as_json() for problem in error.problems]
    else:
        report.jobs = len(found.spec.jobs)
        report.warnings += [warning.as_json() for warning in found.warnings]
    return report


def _unreadable(message: str) -> dict[str, Any]:
    """A spec problem without a position, for a file that cannot be read."""
    return {"severity": "error", "message": message, "line": 0, "column": 0, "expected": "", "path": ""}


def _fail(reports: list[Report]) -> None:
    """Raises UsageError if there is any problem."""
    wrong = [report for report in reports if not report.valid]
    if wrong:
        where = wrong[0].file if len(wrong) == 1 else f"{len(wrong)} files"
        raise UsageError(counted(sum(len(report.problems) for report in wrong), where))
