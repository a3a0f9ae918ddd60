"""Follows a run until it ends or the user detaches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

import typer

from pilothouse.cli.errors import RUN_OUTCOMES, ExitCode
from pilothouse.cli.live import Progress, view_of
from pilothouse.cli.progress import OVER, from_view
from pilothouse.cli.reference import short
from pilothouse.cli.session import Session
from pilothouse.wire import entries

if TYPE_CHECKING:
    from pilothouse.client import ApiProblem, Event, PilotClient

_QUIET = 2.0
"""Seconds without an entry after which the journal of an ended run is considered complete."""


async def watch(
    session: Session,
    run_id: str,
    progress: Progress = Progress.AUTO,
    on_gate: Callable[[Event], None] | None = None,
) -> str:
    """Show a run until it ends; returns its status.

    ``on_gate``: called for each gate that opens, by a command whose server ends with the run.
    """
    out = session.out
    async with session.client() as client:
        run = from_view(await client.runs.get(run_id))
        run.transient = on_gate is not None
        view = view_of(out, run, progress)
        following = follow(session, client, run_id, over=run.over, connection=view)
        async with view, aclosing(following) as events:
            async for event in events:
                shown = event
                if _opens_gate(event) and progress is not Progress.JSON:
                    shown = await _with_message(client, event, transient=run.transient)
                run.apply(shown.type, shown.data, shown.time.timestamp())
                view.take(shown)
                if on_gate is not None and _opens_gate(event):
                    on_gate(shown)
        view.conclude()
        if out.structured and progress is not Progress.JSON:
            out.document(await client.runs.get(run_id))
    return run.status


def _opens_gate(event: Event) -> bool:
    return event.type == entries.STEP_STARTED and bool(event.data.get("gate"))


async def _with_message(client: PilotClient, event: Event, *, transient: bool) -> Event:
    """A gate that opens with what it waits for (``waits_for``), which the gate alone says.

    ``transient``: the user who watches decides, whoever else may.
    """
    from dataclasses import replace

    from pilothouse.client import ApiProblem

    try:
        gate = await client.gates.get(event.data["step_run_id"])
    except ApiProblem:
        return event
    waits = gate["message"] if transient else gate.get("waits_for") or gate["message"]
    return replace(event, data={**event.data, "waits_for": waits, "transient": transient})


class Connection(Protocol):
    """Receives changes of the connection's state."""

    def lost(self, reason: str) -> None:
        """The connection was lost; the reader reconnects."""

    def back(self) -> None:
        """The connection was restored."""


async def follow(
    session: Session,
    client: PilotClient,
    run_id: str,
    *,
    over: bool,
    connection: Connection,
    cursor: str | None = None,
) -> AsyncGenerator[Event, None]:
    """A run's entries from its start, or ``cursor``, to its end. ``connection`` is notified of losses and reconnects.

    ``over``: the run has already ended; then only the rest of its journal is read.
    """

    import asyncio

    lost = False

    def reconnecting(reason: str) -> None:
        nonlocal lost
        if not lost:  # once, not for each attempt
            connection.lost(reason)
        lost = True

    def connected() -> None:
        nonlocal lost
        if lost:
            connection.back()
        lost = False

    def gap(problem: ApiProblem) -> None:
        session.out.note(
            f"some entries were deleted ({problem.message}); continuing from the oldest available"
        )

    events = client.watch_run(
        run_id, cursor=cursor or None, on_reconnect=reconnecting, on_connect=connected, on_gap=gap
    )
    async with aclosing(events):
        while True:
            try:
                event = await asyncio.wait_for(anext(events), _QUIET if over else None)
            except (StopAsyncIteration, TimeoutError):
                return
            yield event


def detachable(session: Session, run_id: str, watching: Coroutine[Any, Any, str]) -> None:
    """Exit with the run's result. Ctrl-C detaches; the run continues."""
    import asyncio

    try:
        status = asyncio.run(watching)
    except KeyboardInterrupt:
        session.out.note(f"detached; the run continues. Reattach with: pilot run watch {short(run_id)}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    raise typer.Exit(RUN_OUTCOMES.get(status, ExitCode.ERROR))


def is_over(status: str) -> bool:
    """Whether a run of that status has ended."""
    return status in OVER
