"""``pilot init``: generates a ``.pilot.yaml`` for the project in a directory."""

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
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the spec instead of writing it.")] = False,
) -> None:
    """Create a .pilot.yaml for the project in this directory."""
    from pilothouse.cli.starters import starter

    made = starter(Path.cwd())
    parsed(made.text, NAME)  # an invalid generated spec would be a bug
    out = session.out
    if not stdout:
        _write(Path(NAME), made.text, force=force)
    if not made.found:
        out.note(
            "no known kind of project found (Python, Node, Go, Rust, Make): replace the commands with your own"
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
    """Write the file atomically. Raises UsageError if it exists, unless ``force``."""
    target = path.with_name(f"{path.name}.{os.getpid()}.new") if force else path
    try:
        _create(target, text)
        if force:
            target.replace(path)
    except FileExistsError:
        message = f"{target} already exists"
        raise UsageError(message, "overwrite it with --force, or print the spec with --stdout") from None
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
