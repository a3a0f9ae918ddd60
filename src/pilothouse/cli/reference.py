"""``RUN`` on the command line: an id, the beginning or end of one, or ``last``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from pilothouse.cli.session import Session
    from pilothouse.client import PilotClient

RunReference = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Id of the run, its first or last 6 or more characters, or `last`: the newest run of the pipeline "
        "of this repository or directory.",
        show_default=False,
    ),
]
AllPipelines = Annotated[
    bool, typer.Option("--all", help="`last` is the newest run of any pipeline, not only of the one here.")
]

SHORT = 8
"""Characters from the end of an id that we show where there is little room."""

_SHORTEST = 6
_LOOKED_AT = 1000
"""How many of the newest runs a shortened id is looked up in."""


def short(run_id: str) -> str:
    """A run's id as tables show it, good for typing."""
    return run_id[-SHORT:]


async def run_id_of(
    session: Session, client: PilotClient, given: str, *, everywhere: bool = False, destructive: bool = False
) -> str:
    """The id meant. Raises CliError for none, UsageError for several.

    ``last`` is the newest run of the pipeline here, or with ``everywhere`` of all. Where no pipeline is known to
    belong here, it is the newest of all too, which is said; ``destructive`` commands refuse that.
    """
    from pilothouse.cli.here import is_id
    from pilothouse.client.paging import collect

    if given == "last":
        return await (
            _newest(client) if everywhere else _newest_here(session, client, destructive=destructive)
        )
    if is_id(given):
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


async def _newest(client: PilotClient) -> str:
    newest = (await client.runs.page(limit=1)).items
    if not newest:
        raise CliError("there is no run yet")
    return newest[0]["id"]


async def _newest_here(session: Session, client: PilotClient, *, destructive: bool) -> str:
    from pilothouse.cli.here import pipelines_here

    here = await pipelines_here(client)
    if not here.pipelines and destructive:
        raise UsageError(
            f"no pipeline belongs to {here.repository.root}, so `last` could be anybody's run",
            "give the run's id, or --all for the newest run of any pipeline",
        )
    if not here.pipelines:
        newest = await _newest(client)
        session.out.note(
            f"no pipeline belongs to {here.repository.root}; this is the newest run of all: {newest}"
        )
        return newest
    runs = [
        run
        for pipeline in here.pipelines
        for run in (await client.runs.page(limit=1, pipeline=pipeline["pipelineId"])).items
    ]
    if not runs:
        raise CliError(f"pipeline {here.names} has no run yet", hint="--all: the newest run of any pipeline")
    return max(runs, key=lambda run: run["id"])["id"]
