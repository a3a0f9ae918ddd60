"""Resolves a ``RUN`` argument: an id, a prefix or suffix of one, or ``last``."""

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
        help="Id of the run, 6 or more characters of its start or end, or `last`: newest run of the pipeline "
        "of this repository or directory.",
        show_default=False,
    ),
]
AllPipelines = Annotated[bool, typer.Option("--all", help="Resolve `last` among runs of all pipelines.")]

SHORT = 8
"""Length of a shortened id: the last characters of the id."""

_SHORTEST = 6
_LOOKED_AT = 1000
"""Number of newest runs searched for a shortened id."""


def short(run_id: str) -> str:
    """The shortened id of a run, as shown in tables."""
    return run_id[-SHORT:]


async def run_id_of(
    session: Session, client: PilotClient, given: str, *, everywhere: bool = False, destructive: bool = False
) -> str:
    """Resolve to an id. Raises CliError if none matches, UsageError if several do.

    ``last`` is the newest run of the current pipeline, or with ``everywhere`` of all pipelines. Without a current
    pipeline it is the newest of all, with a message; ``destructive`` commands refuse that.
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
            f"no pipeline belongs to {here.repository.root}, so `last` is ambiguous",
            "give the run's id, or use --all for the newest run of any pipeline",
        )
    if not here.pipelines:
        newest = await _newest(client)
        session.out.note(
            f"no pipeline belongs to {here.repository.root}; using the newest run of all pipelines: {newest}"
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
