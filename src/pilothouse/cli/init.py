"""``pilot init``: a first ``.pilot.yaml`` from what a directory holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.lint import parsed
from pilothouse.cli.session import Session, command
from pilothouse.cli.spec_file import NAME


def add_to(app: typer.Typer) -> None:
    """Add the command to ``pilot``."""
    command(app, "init", options=False)(init)


def init(
    session: Session,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the spec, and write no file.")] = False,
) -> None:
    """Write a .pilot.yaml for the project here."""
    from pilothouse.cli.starters import starter

    made = starter(Path.cwd())
    parsed(made.text, NAME)  # a starter that does not pass the check is a defect of ours
    out = session.out
    if not stdout:
        _write(Path(NAME), made.text, force=force)
    if not made.found:
        out.note(
            "nothing here is a project that init knows (Python, Node, Go, Rust, Make): write your own commands"
        )
    if out.structured:
        written = {} if not stdout else {"text": made.text}
        out.document({"file": NAME, "found": list(made.found), "jobs": list(made.jobs), **written})
    elif stdout:
        out.text(made.text)
    else:
        out.line(f"wrote {NAME} (jobs: {', '.join(made.jobs)})")
        out.note("check it with `pilot pipeline lint`, run it with `pilot pipeline run`")


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a whole file or none. Raises UsageError if there is one already, unless ``force``."""
    target = path.with_name(f"{path.name}.{os.getpid()}.new") if force else path
    try:
        _create(target, text)
        if force:
            target.replace(path)
    except FileExistsError:
        message = f"{target} is there already"
        raise UsageError(
            message, "overwrite it with --force, or see what init would write with --stdout"
        ) from None
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from None


def _create(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise
