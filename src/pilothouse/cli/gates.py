"""``pilot run approve``, ``reject``, ``pause`` and ``resume``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pilothouse.cli.errors import CliError
from pilothouse.cli.reference import AllPipelines, RunReference, run_id_of, short
from pilothouse.cli.session import Session, command

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Gate

StepOption = Annotated[
    str, typer.Option("--step", metavar="NAME", help="Step of the gate; required if several gates are open.")
]
CommentOption = Annotated[
    str, typer.Option("--comment", "-m", metavar="TEXT", help="Reason, recorded with the gate and the run.")
]


async def approve(
    session: Session,
    run: RunReference = "last",
    step: StepOption = "",
    comment: CommentOption = "",
    everywhere: AllPipelines = False,
) -> None:
    """Approve an open gate of a run; the run continues."""
    await _decide(session, run, step, "approve", comment, everywhere=everywhere)


async def reject(
    session: Session,
    run: RunReference = "last",
    step: StepOption = "",
    comment: CommentOption = "",
    everywhere: AllPipelines = False,
) -> None:
    """Reject an open gate of a run; its step fails."""
    await _decide(session, run, step, "reject", comment, everywhere=everywhere)


async def _decide(
    session: Session,
    run: str,
    step: str,
    decision: Literal["approve", "reject"],
    comment: str,
    *,
    everywhere: bool,
) -> None:
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        gate, name = await _open_gate(client, run_id, step)
        decided = await client.gates.decide(gate["id"], decision, comment)
    if session.out.structured:
        session.out.document(decided)
    else:
        session.out.say(f"Step {name} of run {run_id} is {decided['status']}.")


async def _open_gate(client: PilotClient, run_id: str, step: str) -> tuple[Gate, str]:
    """The gate selected by ``--step``, or the only open one, and its step as ``job/step``."""
    found = (await client.gates.page(1, 100, run=run_id, status="open")).items
    view = await client.runs.get(run_id)
    names = {
        attempt["step_run_id"]: f"{job['name']}/{one['name']}"
        for job in view["jobs"]
        for one in job["steps"]
        for attempt in one["attempts"]
    }
    people = [(gate, names.get(gate["id"], "?")) for gate in found if gate["kind"] == "hold"]
    meant = [(gate, name) for gate, name in people if not step or step in (name, name.partition("/")[2])]
    if len(meant) == 1:
        return meant[0]
    if not people:
        raise CliError(f"no gate of run {short(run_id)} is waiting for approval")
    listed = ", ".join(name for _, name in people)
    raise CliError(f"open gates of run {short(run_id)}: {listed}", hint="choose one with --step NAME")


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
    command(app, "approve", examples=("pilot run approve", 'pilot run approve 5f60718a -m "checked"'))(
        approve
    )
    command(app, "reject", examples=('pilot run reject --step deploy/ask -m "not today"',))(reject)
    command(app, "pause", examples=("pilot run pause", "pilot run pause 5f60718a"))(pause)
    command(app, "resume", examples=("pilot run resume 5f60718a",))(resume)
