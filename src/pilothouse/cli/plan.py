"""``pilot pipeline plan``: what a run would do. No server is required."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.lint import parsed
from pilothouse.cli.output import Output
from pilothouse.cli.session import Session, command
from pilothouse.cli.spec_file import SpecFile, counted, described, find_spec
from pilothouse.cli.variables import Variables, variables_of

if TYPE_CHECKING:
    from pilothouse.cli.checkout.repository import Repository
    from pilothouse.pipelines.preview import Preview

OneFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="Spec file; - for stdin. [default: .pilot.yaml]", show_default=False),
]


def plan(
    session: Session,
    file: OneFile = None,
    var: Variables = None,
    branch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Branch of the run. [default: current one]", show_default=False),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tag of the run. [default: that of HEAD]", show_default=False),
    ] = None,
    commit: Annotated[
        str | None, typer.Option(metavar="SHA", help="Commit of the run. [default: HEAD]", show_default=False)
    ] = None,
    event: Annotated[
        str, typer.Option(metavar="NAME", help="What starts the run: run.trigger of expressions.")
    ] = "manual",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the pipeline. [default: name of this repository]")
    ] = "",
) -> None:
    """Show what a run would do, and what it would skip and why. No server is required."""
    from dataclasses import replace

    repository = _place()
    repository = replace(
        repository,
        name=name or repository.name,
        branch=repository.branch if branch is None else branch,
        tag=repository.tag if tag is None else tag,
        commit=repository.commit if commit is None else commit,
    )
    spec = find_spec(file, Path.cwd(), repository.root)
    found = planned(session.out, spec, repository, variables_of(var or []), event)
    if session.out.structured:
        session.out.document(_document(found, spec, repository, event))
        return
    from pilothouse.cli.planview import lines

    for line in lines(_document(found, spec, repository, event)):
        session.out.show(line)


def planned(
    out: Output,
    spec: SpecFile,
    repository: Repository,
    variables: dict[str, str],
    event: str = "manual",
    *,
    warn: bool = True,
) -> Preview:
    """Check and plan a spec as the server does. Raises UsageError after printing the problems.

    ``warn``: also print warnings; not where a server will be asked, too.
    """
    from pilothouse.pipelines.preview import Circumstances, SpecError, preview

    given = Circumstances(
        name=repository.name,
        variables=variables,
        branch=repository.branch,
        commit=repository.commit,
        tag=repository.tag,
        event=event,
    )
    try:
        checked = parsed(spec.text, spec.shown)
        for warning in checked.warnings if warn else ():
            out.say(described(warning.as_json(), spec.shown), "yellow")
        return preview(checked.spec, given)
    except SpecError as error:
        problems = [problem.as_json() for problem in error.problems]
    if out.structured:
        out.document({"valid": False, "problems": problems})
    for problem in problems:
        out.say(described(problem, spec.shown), "red")
    raise UsageError(counted(len(problems), spec.shown))


def _place() -> Repository:
    """The repository of this directory; the directory itself where git fails, since nothing of it is read."""
    from pilothouse.cli.checkout.repository import Repository
    from pilothouse.cli.here import place

    try:
        return place()
    except CliError:
        return Repository(Path.cwd(), False, "", Path.cwd().name)


def _document(found: Preview, spec: SpecFile, repository: Repository, event: str) -> dict[str, Any]:
    from pilothouse.pipelines.preview import document

    run = {"pipeline": repository.name, "file": spec.shown, "trigger": event}
    run |= {"branch": repository.branch, "tag": repository.tag, "commit": repository.commit}
    return run | document(found)


def add_to(pipelines: typer.Typer) -> None:
    """Add the command to ``pilot pipeline``."""
    examples = ("pilot pipeline plan --branch main --var deploy=yes", "pilot pipeline plan -o json")
    command(pipelines, "plan", options=False, examples=examples)(plan)
