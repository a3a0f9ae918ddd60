"""Gates of a run on a private server: asked on the terminal, or decided by ``--yes``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

from pilothouse.cli.session import Session


async def decide(session: Session, gate: Mapping[str, Any], asking: asyncio.Lock, *, yes: bool) -> None:
    """Approve or reject an open gate; ``gate``: the body of its ``step.started`` entry.

    ``asking``: held while a question is on the terminal.
    """
    from pilothouse.client import ApiProblem

    path = f"{gate['job']}/{gate['step']}"
    if yes:
        approved, comment = True, "--yes"
    elif sys.stdin.isatty() and sys.stderr.isatty():
        message = gate.get("waits_for") or "Approve?"
        async with asking:
            session.out.say(f"{path}: {message} [y/N] and Enter", "yellow")
            approved, comment = (await _line()).strip().lower() in ("y", "yes"), ""
    else:
        session.out.say(f"{path} needs an approval, and there is no terminal to ask on: use --yes", "red")
        approved, comment = False, "no terminal to ask on; --yes approves"
    async with session.client() as client:
        try:
            decided = await client.gates.decide(
                gate["step_run_id"], "approve" if approved else "reject", comment
            )
            if decided["status"] == "open":
                session.out.say(f"{path} needs more approvals than one user can give; it is rejected", "red")
                await client.gates.decide(gate["step_run_id"], "reject", "more approvals are needed")
        except ApiProblem as refusal:  # it has ended meanwhile
            session.out.note(f"{path}: {refusal.message}")


async def _line() -> str:
    """A line of the terminal; empty at its end."""
    loop = asyncio.get_running_loop()
    read: asyncio.Future[str] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not read.done():
            read.set_result(os.read(descriptor, 4096).decode("utf-8", "replace"))

    loop.add_reader(descriptor, readable)
    try:
        return await read
    finally:
        loop.remove_reader(descriptor)
