"""``--project``: a project by its name or id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.errors import CliError

if TYPE_CHECKING:
    from pilothouse.client import PilotClient

ProjectName = Annotated[
    str, typer.Option("--project", metavar="NAME", help="Name or id of the project; else the default one.")
]

_MANY = 10_000


async def project_id(client: PilotClient, given: str) -> str:
    """The id; empty, which is the default project, for nothing. Raises CliError for an unknown one."""
    if not given:
        return ""
    from pilothouse.client.paging import collect

    projects = await collect(client.projects.page, _MANY)
    for project in projects:
        if given in (project["projectId"], project["name"]):
            return project["projectId"]
    known = ", ".join(sorted(project["name"] for project in projects)) or "none that you may see"
    raise CliError(f"there is no project {given!r} (known: {known})")
