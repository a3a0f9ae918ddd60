"""``pilot run``: look at runs, follow them, run them again, stop them."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.cli.live import PlainView
from pilothouse.cli.output import Output
from pilothouse.cli.progress import from_view
from pilothouse.cli.reference import RunReference, run_id_of
from pilothouse.cli.session import Session, command
from pilothouse.cli.text import ago, coloured, safe, span
from pilothouse.cli.watching import detachable, follow, is_over, watch
from pilothouse.wire import entries

if TYPE_CHECKING:
    from rich.text import Text

    from pilothouse.client.shapes import RunSummary, RunView

app = typer.Typer(help="Runs of every kind.", no_args_is_help=True)


async def list_runs(
    session: Session,
    status: Annotated[str, typer.Option(help="Only of this status.")] = "",
    kind: Annotated[
        str, typer.Option(help="Only of this kind: pipeline, workflow, deployment, cluster.")
    ] = "",
    pipeline: Annotated[str, typer.Option(metavar="ID", help="Only of this pipeline.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List runs, newest first."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        runs = await collect(
            lambda number, size: client.runs.page(number, size, status=status, kind=kind, pipeline=pipeline),
            limit,
        )
    if session.out.structured:
        session.out.document(list(runs))
        return
    from pilothouse.cli.tree import status_text

    whole = not session.out.stdout.is_terminal
    rows = [
        (
            run["id"] if whole else run["id"][-8:],
            run["name"],
            status_text(run["status"]),
            *_when(run),
            run["triggered_by"],
        )
        for run in runs
    ]
    session.out.table(("ID", "NAME", "STATUS", "CREATED", "TOOK", "BY"), rows, "No runs.")


def _when(run: RunSummary) -> tuple[str, str]:
    return ago(run["created_at"], time.time()), span(run["duration"]) if run["duration"] is not None else ""


async def view(session: Session, run: RunReference) -> None:
    """Show a run: its jobs and steps, every attempt, reasons and outputs."""
    async with session.client() as client:
        found = await client.runs.get(await run_id_of(client, run))
    if session.out.structured:
        session.out.document(found)
        return
    for line in _described(found):
        session.out.show(line)


def _described(run: RunView) -> Iterator[Text]:
    from pilothouse.cli.tree import headline, rows

    state, now = from_view(run), time.time()
    yield headline(state, now, live=False)
    yield from _facts(run)
    steps = {step["id"]: step for job in run["jobs"] for step in job["steps"]}
    for row in rows(state, now, live=False):
        yield row.text
        if row.step is not None:
            yield from _attempts(steps[row.step.id])


def _facts(run: RunView) -> Iterator[Text]:
    from rich.text import Text

    facts = [f"{run['kind']}, {run['trigger']} by {run['triggered_by']}, created {run['created_at']}"]
    if run["branch"] or run["commit_sha"]:
        facts.append(f"{run['branch']} {run['commit_sha'][:12]}".strip())
    if run["rerun_of"]:
        facts.append(f"repeats run {run['rerun_of']}")
    facts += [f"{name}={value}" for name, value in run["variables"].items()]
    yield from (Text(f"  {safe(fact)}", "dim") for fact in facts)


def _attempts(step: Any) -> Iterator[Text]:
    from rich.text import Text

    for name, value in step["outputs"].items():
        yield Text.assemble(("      output ", "dim"), safe(f"{name}={value}"))
    for attempt in step["attempts"]:
        words = [f"attempt {attempt['number']}: {attempt['status'].replace('_', ' ')}"]
        if attempt["agent_id"]:
            words.append(f"on {attempt['agent_id']}")
        words += _why(attempt)
        words.append("1 line" if attempt["lines"] == 1 else f"{attempt['lines']} lines")
        yield Text(f"      {safe(', '.join(words))}", "dim")


def _why(attempt: Any) -> list[str]:
    """What is known of an attempt's end, each thing once."""
    said = dict.fromkeys(attempt[key] for key in ("error", "reason") if attempt[key])
    telling = [each for each in said if each not in (attempt["status"], attempt["status"].replace("_", " "))]
    code = f"exit code {attempt['exit_code']}"
    told = not attempt["exit_code"] or any(re.match(rf"{code}\b", each) for each in telling)
    return telling if told else [code, *telling]


def watch_run(session: Session, run: RunReference) -> None:
    """Follow a run to its end, and exit with its outcome. Ctrl-C lets go of it; it goes on."""
    run_id = asyncio.run(_resolved(session, run))
    detachable(session, run_id, watch(session, run_id))


async def _resolved(session: Session, run: str) -> str:
    async with session.client() as client:
        return await run_id_of(client, run)


def logs(
    session: Session,
    run: RunReference,
    job: Annotated[str, typer.Option(help="Only of this job.")] = "",
    step: Annotated[str, typer.Option(help="Only of this step.")] = "",
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
) -> None:
    """Print a run's log."""
    if session.out.structured:
        raise UsageError("a log is written as it is, line by line: leave out --output")
    run_id = asyncio.run(_logged(session, run, job, step))
    if following:
        detachable(session, run_id, _follow_logs(session, run_id, job, step))
    asyncio.run(_print_logs(session, run_id, job, step))


async def _logged(session: Session, run: str, job: str, step: str) -> str:
    """The run's id. Raises UsageError for a job or step that it does not have."""
    async with session.client() as client:
        run_id = await run_id_of(client, run)
        if not job and not step:
            return run_id
        jobs = (await client.runs.get(run_id))["jobs"]
    there = [(each["name"], one["name"]) for each in jobs for one in each["steps"]]
    if not any(job in ("", has[0]) and step in ("", has[1]) for has in there):
        wanted = " of ".join(f"{kind} {name!r}" for kind, name in (("step", step), ("job", job)) if name)
        known = ", ".join("/".join(names) for names in there) or "none yet"
        raise UsageError(f"run {run_id} has no {wanted} (there are: {known})")
    return run_id


async def _print_logs(session: Session, run_id: str, job: str, step: str) -> None:
    async with session.client() as client, aclosing(client.runs.logs(run_id, job=job, step=step)) as lines:
        async for line in lines:
            sys.stdout.write(_fit(line, session.out) + "\n")
    sys.stdout.flush()


async def _follow_logs(session: Session, run_id: str, job: str, step: str) -> str:
    async with session.client() as client:
        status = (await client.runs.get(run_id))["status"]
        told = PlainView(sys.stdout, session.out)
        async with aclosing(follow(session, client, run_id, over=is_over(status), connection=told)) as events:
            async for event in events:
                body = event.data
                if event.type == entries.RUN_COMPLETED:
                    status = body["status"]
                elif job in ("", body.get("job")) and step in ("", body.get("step")):
                    _print_chunk(event.type, body, session.out)
    return status


def _print_chunk(type: str, body: dict[str, Any], out: Output) -> None:
    if type == entries.STEP_LOGGED:
        sys.stdout.writelines(_fit(line, out) + "\n" for line in body["lines"])
    elif type == entries.STEP_LOG_MISSED:
        sys.stdout.write(f"[{safe(body['message'])}]\n")
    sys.stdout.flush()


def _fit(line: str, out: Output) -> str:
    """Colours for terminals that want them; nothing but text for all others."""
    return f"{coloured(line)}\x1b[0m" if out.colour and sys.stdout.isatty() and "\x1b" in line else safe(line)


def rerun(
    session: Session,
    run: RunReference,
    failed: Annotated[
        bool, typer.Option("--failed", help="Keep what succeeded; begin with what failed.")
    ] = False,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Follow the new run to its end.")] = False,
) -> None:
    """Run it again. The new run's id is printed on stdout."""
    again = asyncio.run(_rerun(session, run, failed=failed))
    if watching:
        detachable(session, again["id"], watch(session, again["id"]))
    elif session.out.structured:
        session.out.document(again)
    else:
        session.out.line(again["id"])


async def _rerun(session: Session, run: str, *, failed: bool) -> RunSummary:
    async with session.client() as client:
        return await client.runs.rerun(await run_id_of(client, run), "failed" if failed else "start")


async def cancel(
    session: Session,
    run: RunReference,
    reason: Annotated[str, typer.Option(help="Why; kept with the run.")] = "",
) -> None:
    """Stop a run."""
    async with session.client() as client:
        stopped = await client.runs.cancel(await run_id_of(client, run), reason)
    if session.out.structured:
        session.out.document(stopped)
    session.out.say(
        f"Run {stopped['id']} is {'cancelled' if is_over(stopped['status']) else 'being cancelled'}."
    )


command(app, "list")(list_runs)
command(app, "view")(view)
command(app, "watch")(watch_run)
command(app, "logs")(logs)
command(app, "rerun")(rerun)
command(app, "cancel")(cancel)
