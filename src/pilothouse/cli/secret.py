"""``pilot secret``: secrets of a project; values are write-only."""

from __future__ import annotations

from typing import Annotated

import typer

from pilothouse.cli import native
from pilothouse.cli.errors import UsageError
from pilothouse.cli.login import read_secret
from pilothouse.cli.project import ProjectName, project_id
from pilothouse.cli.session import Group, Session, command
from pilothouse.cli.text import local_time

app = typer.Typer(cls=Group, help="Secrets of a project.", no_args_is_help=True)

SecretName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the secret.")]


async def set_secret(session: Session, name: SecretName, project: ProjectName = "") -> None:
    """Set a secret. Its value is read from a prompt or stdin (without a trailing newline)."""
    async with session.client() as client:
        home = await project_id(client, project)
        value = read_secret(f"Value of {name}", from_stdin=False)
        if not value:
            raise UsageError("a secret must not be empty")
        await client.secrets.set(name, value, home)
    session.out.say(f"Secret {name} is set.")


async def list_secrets(session: Session, project: ProjectName = "") -> None:
    """List a project's secrets by name."""
    async with session.client() as client:
        secrets = await client.secrets.all(await project_id(client, project))
    if session.out.structured:
        session.out.document([native.secret(each) for each in secrets])
        return
    rows = [(s["name"], s["createdBy"], local_time(s["updatedAt"])) for s in secrets]
    session.out.table(("NAME", "BY", "UPDATED"), rows, "No secrets.")


async def delete(session: Session, name: SecretName, project: ProjectName = "") -> None:
    """Delete a secret. Steps that use it will fail."""
    async with session.client() as client:
        await client.secrets.delete(name, await project_id(client, project))
    session.out.say(f"Secret {name} is deleted.")


command(app, "set")(set_secret)
command(app, "list")(list_secrets)
command(app, "delete")(delete)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="secret")
