"""``RUN`` on the command line: an id, the beginning or end of one, or ``last``."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from pilothouse.client import PilotClient

RunReference = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Id of the run, its first or last 6 or more characters, or `last`."),
]

_SHORTEST = 6
_LOOKED_AT = 1000
"""How many of the newest runs a shortened id is looked up in."""


async def run_id_of(client: PilotClient, given: str) -> str:
    """The id meant. Raises CliError for none, UsageError for several."""
    from pilothouse.client.paging import collect

    if given == "last":
        newest = (await client.runs.page(limit=1)).items
        if not newest:
            raise CliError("there is no run yet")
        return newest[0]["id"]
    if _whole(given):
        return given
    if len(given) < _SHORTEST:
        raise UsageError(
            f"{given!r} is too short for a run: give at least {_SHORTEST} characters of its id, or `last`"
        )
    part = given.lower()
    runs = await collect(client.runs.page, _LOOKED_AT)
    found = [run["id"] for run in runs if run["id"].startswith(part) or run["id"].endswith(part)]
    if not found:
        raise CliError(f"no run among the newest {_LOOKED_AT} has an id that begins or ends with {given!r}")
    if len(found) > 1:
        some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise UsageError(f"{given!r} could be {len(found)} runs: {some}")
    return found[0]


def _whole(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
