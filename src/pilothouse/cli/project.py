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
    """The id of the named project; without a name of the default one, or of the only one. Raises CliError."""
    from pilothouse.client.paging import collect

    projects = await collect(client.projects.page, _MANY)
    if given:
        found = [p for p in projects if given in (p["projectId"], p["name"])]
    else:
        found = [p for p in projects if p["isDefault"]] or (list(projects) if len(projects) == 1 else [])
    if found:
        return found[0]["projectId"]
    known = ", ".join(sorted(p["name"] for p in projects)) or "none that you may see"
    if given:
        raise CliError(f"there is no project {given!r} (known: {known})")
    raise CliError(f"say which project you mean (known: {known})", hint="--project NAME")
