"""``pilot trigger``: what starts runs of saved specs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.live import Progress, ProgressOption, require_terminal
from pilothouse.cli.project import ProjectName, project_id
from pilothouse.cli.session import Group, Session, command

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Trigger, TriggerDetail

app = typer.Typer(cls=Group, help="Cron and event triggers of saved specs.", no_args_is_help=True)

TriggerName = Annotated[
    str, typer.Argument(metavar="TRIGGER", help="Id, NAME, PIPELINE/NAME, or PIPELINE if it has only one.")
]
PipelineOption = Annotated[
    str, typer.Option("--pipeline", metavar="NAME", help="Only triggers of this pipeline.")
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and exit without waiting.")]

_MANY = 10_000


async def list_triggers(
    session: Session,
    pipeline: PipelineOption = "",
    project: ProjectName = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of results.")] = 100,
) -> None:
    """List triggers: when they fire next, and why one started no run the last time."""
    from pilothouse.cli.here import pipeline_named
    from pilothouse.client.paging import collect

    async with session.client() as client:
        home = await project_id(client, project) if project else ""
        of = (await pipeline_named(client, pipeline, home))["pipelineId"] if pipeline else ""
        found = await collect(
            lambda number, size: client.triggers.page(number, size, project=home, pipeline=of), limit
        )
    if session.out.structured:
        session.out.document(found)
        return
    rows = [
        (t["id"], t["pipeline"], t["name"], _when(t), t["next_at"] or "", t["last_at"] or "never", _state(t))
        for t in found
    ]
    session.out.table(("ID", "PIPELINE", "NAME", "WHEN", "NEXT", "LAST", "STATE"), rows, "No triggers.")


async def view(session: Session, trigger: TriggerName, project: ProjectName = "") -> None:
    """Show a trigger and its last fires."""
    async with session.client() as client:
        found = await client.triggers.get(await _find(client, trigger, project))
    if session.out.structured:
        session.out.document(found)
        return
    _show(session, found)


def _show(session: Session, found: TriggerDetail) -> None:
    pairs = [("pipeline", found["pipeline"]), ("name", found["name"]), ("when", _when(found))]
    pairs += [("id", found["id"]), ("state", _state(found)), ("rights of", found["by"])]
    pairs += [("variables", _variables(found["options"])), ("next", found["next_at"] or "")]
    pairs += [("last", found["last_at"] or "never"), ("last run", found["last_run_id"] or "")]
    pairs += [("why no run", found["reason"])]
    session.out.fields(pairs)
    rows = [
        (fire["at"], fire["due_at"] or "", fire["run_id"] or "", fire["reason"] or _cause(fire["cause"]))
        for fire in found["fires"]
    ]
    session.out.table(("FIRED", "DUE", "RUN", "WHY"), rows, "It has not fired yet.")


async def enable(session: Session, trigger: TriggerName, project: ProjectName = "") -> None:
    """Enable a trigger. From now on its runs have your rights."""
    await _switch(session, trigger, project, "enable")


async def disable(session: Session, trigger: TriggerName, project: ProjectName = "") -> None:
    """Disable a trigger. It stays so when the spec is saved again."""
    await _switch(session, trigger, project, "disable")


async def _switch(session: Session, trigger: str, project: str, to: Literal["enable", "disable"]) -> None:
    async with session.client() as client:
        found = await client.triggers.switch(await _find(client, trigger, project), to)
    if session.out.structured:
        session.out.document(found)
    elif found["next_at"]:
        session.out.say(f"Trigger {found['id']} is enabled; next run {found['next_at']}.")
    else:
        session.out.say(f"Trigger {found['id']} is {to}d.")


def run(
    session: Session,
    trigger: TriggerName,
    project: ProjectName = "",
    detach: Detach = False,
    progress: ProgressOption = Progress.AUTO,
) -> None:
    """Start a run as the trigger would, with its variables and your rights."""
    import asyncio

    from pilothouse.cli.pipeline import show_run

    require_terminal(progress)
    show_run(session, asyncio.run(_run(session, trigger, project)), progress, detach=detach)


async def _run(session: Session, trigger: str, project: str) -> str:
    async with session.client() as client:
        return await client.triggers.run(await _find(client, trigger, project))


async def _find(client: PilotClient, given: str, project: str) -> str:
    """The id of a trigger. Raises CliError, UsageError if several are meant."""
    from pilothouse.cli.here import is_id
    from pilothouse.client.paging import collect

    if is_id(given):
        return given
    home = await project_id(client, project) if project else ""
    every = await collect(lambda number, size: client.triggers.page(number, size, project=home), _MANY)
    found = [t for t in every if given in (f"{t['pipeline']}/{t['name']}", t["name"], t["pipeline"])]
    exact = [t for t in found if given == f"{t['pipeline']}/{t['name']}"]
    found = exact or found
    if not found:
        raise CliError(f"there is no trigger {given!r}", hint="pilot trigger list")
    if len(found) > 1:
        ids = ", ".join(t["id"] for t in found[:5])
        raise UsageError(f"{len(found)} triggers are meant by {given!r}; give an id: {ids}")
    return found[0]["id"]


def _when(trigger: Trigger) -> str:
    options: dict[str, Any] = trigger["options"]
    if trigger["type"] == "cron":
        return f"{options.get('schedule', '')} {options.get('timezone') or 'UTC'}"
    statuses = ", ".join(options.get("statuses", ()))
    of = f" of {options['pipeline']}" if options.get("pipeline") else ""
    return ", ".join(options.get("events", ())) + of + (f" ({statuses})" if statuses else "")


def _state(trigger: Trigger) -> str:
    if not trigger["enabled"]:
        return "disabled"
    if not trigger["pipeline_enabled"]:
        return "pipeline disabled"
    return trigger["reason"] or "enabled"


def _variables(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.get("variables", {}).items())


def _cause(run_id: str | None) -> str:
    return f"run {run_id}" if run_id else ""


command(app, "list", examples=("pilot trigger list --pipeline shop",))(list_triggers)
command(app, "view", examples=("pilot trigger view shop/nightly",))(view)
command(app, "enable", examples=("pilot trigger enable shop/nightly",))(enable)
command(app, "disable")(disable)
command(app, "run", examples=("pilot trigger run shop/nightly --detach",))(run)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="trigger")
