"""``pilot run``: list, view, watch, rerun and cancel runs."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli import gates, logs
from pilothouse.cli.errors import UsageError
from pilothouse.cli.live import Progress, ProgressOption, require_terminal
from pilothouse.cli.reference import AllPipelines, RunReference, run_id_of, short
from pilothouse.cli.session import Group, Session, command
from pilothouse.cli.text import ago, span
from pilothouse.cli.watching import detachable, is_over, watch

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Pipeline, RunSummary

app = typer.Typer(cls=Group, help="Runs of pipelines and other work.", no_args_is_help=True)


class RunStatus(StrEnum):
    """Status of a run."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


class RunKind(StrEnum):
    """Kind of a run."""

    PIPELINE = "pipeline"
    WORKFLOW = "workflow"
    DEPLOYMENT = "deployment"
    CLUSTER = "cluster"


async def list_runs(
    session: Session,
    status: Annotated[RunStatus | None, typer.Option(help="Filter by status.")] = None,
    kind: Annotated[RunKind | None, typer.Option(help="Filter by kind.")] = None,
    pipeline: Annotated[str, typer.Option(metavar="NAME", help="Filter by pipeline (name or id).")] = "",
    everywhere: Annotated[bool, typer.Option("--all", help="List runs of all pipelines.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of results.")] = 20,
) -> None:
    """List runs, newest first: those of the pipeline of this repository or directory, else all."""
    if pipeline and everywhere:
        raise UsageError("--pipeline and --all cannot be used together")
    async with session.client() as client:
        whose = await _whose(
            session, client, pipeline, everywhere=everywhere or kind not in (None, "pipeline")
        )
        runs = await _newest_of(client, whose, limit, status=status or "", kind=kind or "")
    if session.out.structured:
        session.out.document(runs)
        return
    from pilothouse.cli.tree import status_text

    whole = not session.out.stdout.is_terminal
    rows = [
        (
            run["id"] if whole else short(run["id"]),
            run["name"],
            status_text(run["status"]),
            *_when(run),
            run["triggered_by"],
        )
        for run in runs
    ]
    session.out.table(("ID", "NAME", "STATUS", "CREATED", "TOOK", "BY"), rows, "No runs.")


async def _whose(session: Session, client: PilotClient, name: str, *, everywhere: bool) -> list[str]:
    """Ids of the pipelines to list; ``""`` for all. Raises CliError for an unknown name."""
    from pilothouse.cli.here import is_id, pipeline_named, pipelines_here

    if is_id(name):  # runs outlive their pipeline
        return [name]
    if name:
        return [(await pipeline_named(client, name))["pipelineId"]]
    found: tuple[Pipeline, ...] = () if everywhere else (await pipelines_here(client)).pipelines
    if not found:
        return [""]
    names = ", ".join(sorted({pipeline["name"] for pipeline in found}))
    session.out.note(f"runs of pipeline {names}; use --all for all pipelines")
    return [pipeline["pipelineId"] for pipeline in found]


async def _newest_of(
    client: PilotClient, pipelines: list[str], limit: int, **filters: str
) -> list[RunSummary]:
    from pilothouse.client import Page
    from pilothouse.client.paging import collect

    found: list[RunSummary] = []
    for pipeline in pipelines:

        async def page(number: int, size: int, pipeline: str = pipeline) -> Page[RunSummary]:
            return await client.runs.page(number, size, pipeline=pipeline, **filters)

        found += await collect(page, limit)
    return sorted(found, key=lambda run: run["id"], reverse=True)[:limit] if len(pipelines) > 1 else found


def _when(run: RunSummary) -> tuple[str, str]:
    return ago(run["created_at"], time.time()), span(run["duration"]) if run["duration"] is not None else ""


async def view(session: Session, run: RunReference = "last", everywhere: AllPipelines = False) -> None:
    """Show a run with its jobs, steps, attempts, outputs and tests."""
    async with session.client() as client:
        found = await client.runs.get(await run_id_of(session, client, run, everywhere=everywhere))
        tests = None
        if found.get("tests") and not session.out.structured:  # older servers know no tests
            tests = await client.artifacts.tests_of_run(found["id"])
    if session.out.structured:
        session.out.document(found)
        return
    from pilothouse.cli.runview import described, tested

    for line in described(found):
        session.out.show(line)
    for line in tested(tests) if tests else ():
        session.out.show(line)


def watch_run(
    session: Session,
    run: RunReference = "last",
    progress: ProgressOption = Progress.AUTO,
    everywhere: AllPipelines = False,
) -> None:
    """Watch a run until it ends; the exit code reflects its result. Ctrl-C detaches."""
    import asyncio

    require_terminal(progress)
    run_id = asyncio.run(_resolved(session, run, everywhere=everywhere))
    detachable(session, run_id, watch(session, run_id, progress))


async def _resolved(session: Session, run: str, *, everywhere: bool) -> str:
    async with session.client() as client:
        return await run_id_of(session, client, run, everywhere=everywhere)


def rerun(
    session: Session,
    run: RunReference = "last",
    failed: Annotated[bool, typer.Option("--failed", help="Rerun only what did not succeed.")] = False,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Watch the new run.")] = False,
    progress: ProgressOption = Progress.AUTO,
    everywhere: AllPipelines = False,
) -> None:
    """Rerun a run. Prints the new run's id on stdout."""
    import asyncio

    if watching:
        require_terminal(progress)
    again = asyncio.run(_rerun(session, run, failed=failed, everywhere=everywhere))
    if watching:
        detachable(session, again["id"], watch(session, again["id"], progress))
    elif session.out.structured:
        session.out.document(again)
    else:
        session.out.line(again["id"])


async def _rerun(session: Session, run: str, *, failed: bool, everywhere: bool) -> RunSummary:
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        return await client.runs.rerun(run_id, "failed" if failed else "start")


async def cancel(
    session: Session,
    run: RunReference = "last",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason, recorded with the run.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Cancel without running cleanup steps.")] = False,
    everywhere: AllPipelines = False,
) -> None:
    """Cancel a run. Cleanup steps still run, unless --force is given."""
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        stopped = await client.runs.cancel(run_id, reason, force=force)
    if session.out.structured:
        session.out.document(stopped)
    if is_over(stopped["status"]):
        session.out.say(f"Run {stopped['id']} is cancelled.")
    else:
        at_once = f"; `pilot run cancel {short(stopped['id'])} --force` skips its cleanup steps" * (not force)
        session.out.say(f"Run {stopped['id']} is being cancelled{at_once}.")


def _examples(*lines: str) -> dict[str, Any]:
    return {"examples": lines}


command(
    app,
    "list",
    **_examples("pilot run list --status failed --limit 5", "pilot run list --all -o json | jq -r '.[].id'"),
)(list_runs)
command(app, "view", **_examples("pilot run view", "pilot run view 5f60718a -o yaml"))(view)
command(app, "watch", **_examples("pilot run watch", "pilot run watch 5f60718a --progress json"))(watch_run)
logs.add_to(app)
command(app, "rerun", **_examples("pilot run rerun last --failed --watch"))(rerun)
command(
    app, "cancel", **_examples('pilot run cancel last --reason "wrong branch"', "pilot run cancel --force")
)(cancel)
gates.add_to(app)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="run")
