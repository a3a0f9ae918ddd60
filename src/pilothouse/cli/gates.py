"""``pilot run approvals``, ``approve``, ``reject``, ``pause`` and ``resume``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pilothouse.cli.errors import CliError
from pilothouse.cli.reference import AllPipelines, RunReference, run_id_of, short
from pilothouse.cli.session import Session, command
from pilothouse.cli.waits import HOLD

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Gate

StepOption = Annotated[
    str,
    typer.Option("--step", metavar="NAME", help="Step (NAME or JOB/NAME), if several wait for approval."),
]
JobOption = Annotated[str, typer.Option("--job", metavar="NAME", help="Job, if several wait for approval.")]
CommentOption = Annotated[
    str, typer.Option("--comment", "-m", metavar="TEXT", help="Reason, recorded with the gate and the run.")
]
RejectOption = Annotated[bool, typer.Option("--reject", help="Reject instead; the step fails.")]


async def approve(
    session: Session,
    run: RunReference = "last",
    job: JobOption = "",
    step: StepOption = "",
    rejected: RejectOption = False,
    comment: CommentOption = "",
    everywhere: AllPipelines = False,
) -> None:
    """Approve an open gate of a run, which continues when it has the approvals that it needs."""
    await _decide(
        session, run, job, step, "reject" if rejected else "approve", comment, everywhere=everywhere
    )


async def reject(
    session: Session,
    run: RunReference = "last",
    job: JobOption = "",
    step: StepOption = "",
    comment: CommentOption = "",
    everywhere: AllPipelines = False,
) -> None:
    """Reject an open gate of a run; its step fails."""
    await _decide(session, run, job, step, "reject", comment, everywhere=everywhere)


async def _decide(
    session: Session,
    run: str,
    job: str,
    step: str,
    decision: Literal["approve", "reject"],
    comment: str,
    *,
    everywhere: bool,
) -> None:
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        gate, name = await _open_gate(client, run_id, job, step)
        decided = await client.gates.decide(gate["id"], decision, comment)
    if session.out.structured:
        session.out.document(decided)
    elif decided["status"] == "open":
        session.out.say(f"You approved step {name} of run {run_id}, which {decided['waits_for']}.")
    else:
        session.out.say(f"Step {name} of run {run_id} is {decided['status']}.")


async def _open_gate(client: PilotClient, run_id: str, job: str, step: str) -> tuple[Gate, str]:
    """The gate selected by ``--job`` and ``--step``, or the only open one, and its step as ``job/step``."""
    found = (await client.gates.page(1, 100, run=run_id, status="open", kind=HOLD)).items
    people = [(gate, f"{gate['job']}/{gate['step']}") for gate in found]
    meant = [
        (gate, name) for gate, name in people if job in ("", gate["job"]) and step in ("", gate["step"], name)
    ]
    if len(meant) == 1:
        return meant[0]
    if not people:
        raise CliError(f"no gate of run {short(run_id)} is waiting for approval")
    listed = ", ".join(name for _, name in people)
    raise CliError(f"open gates of run {short(run_id)}: {listed}", hint="choose one with --step NAME")


async def approvals(
    session: Session,
    mine: Annotated[bool, typer.Option("--mine", help="Only those that you may decide.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of results.")] = 100,
) -> None:
    """List the steps that wait for approval, the newest first."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        found = await collect(
            lambda number, size: client.gates.page(number, size, status="open", kind=HOLD), limit
        )
    waiting = [gate for gate in found if gate["decidable"] or not mine]
    if session.out.structured:
        session.out.document(waiting)
        return
    whole = not session.out.stdout.is_terminal
    rows = [
        (
            gate["run_id"] if whole else short(gate["run_id"]),
            gate["run_name"],
            f"{gate['job']}/{gate['step']}",
            gate["opened_at"],
            gate["deadline"] or "never",
            "yes" if gate["decidable"] else "no",
            gate["waits_for"],
        )
        for gate in waiting
    ]
    columns = ("RUN", "NAME", "STEP", "SINCE", "EXPIRES", "YOURS", "WAITS FOR")
    session.out.table(columns, rows, "Nothing waits for approval.")


async def pause(session: Session, run: RunReference = "last", everywhere: AllPipelines = False) -> None:
    """Pause a run: no more steps start until it is resumed. Running steps continue."""
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        paused = await client.runs.pause(run_id)
    if session.out.structured:
        session.out.document(paused)
    else:
        session.out.say(f"Run {run_id} is paused. Resume it with `pilot run resume {short(run_id)}`.")


async def resume(session: Session, run: RunReference = "last", everywhere: AllPipelines = False) -> None:
    """Resume a paused run."""
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        resumed = await client.runs.resume(run_id)
    if session.out.structured:
        session.out.document(resumed)
    else:
        session.out.say(f"Run {run_id} is resumed.")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to ``pilot run``."""
    command(app, "approvals", examples=("pilot run approvals", "pilot run approvals --mine"))(approvals)
    examples = ("pilot run approve", 'pilot run approve 5f60718a --job deploy -m "checked"')
    command(app, "approve", examples=examples)(approve)
    command(app, "reject", examples=('pilot run reject --step deploy/ask -m "not today"',))(reject)
    command(app, "pause", examples=("pilot run pause", "pilot run pause 5f60718a"))(pause)
    command(app, "resume", examples=("pilot run resume 5f60718a",))(resume)
