"""SQL that finds runs which would wait for themselves."""

from __future__ import annotations

from sqlalchemy import Connection, select

from pilothouse.engine.gates.store import gates
from pilothouse.engine.member_store import members, waiting_in
from pilothouse.engine.model import Run
from pilothouse.engine.store import attempts, runs, steps

MAX_WALK = 200
"""Runs that are looked at to find a circle of waiting runs."""


def ancestors(conn: Connection, run: Run) -> tuple[set[str], set[str]]:
    """The runs that wait for this one, directly or not, and the jobs in which they do."""
    above: set[str] = set()
    within: set[str] = set()
    gate = run.parent_gate
    while gate:
        query = (
            select(attempts.c.run_id, steps.c.job_id, runs.c.parent_gate)
            .join(steps, steps.c.id == attempts.c.step_id)
            .join(runs, runs.c.id == attempts.c.run_id)
            .where(attempts.c.id == gate)
        )
        row = conn.execute(query).first()
        if row is None or row.run_id in above:
            break
        above.add(row.run_id)
        within.add(row.job_id)
        gate = row.parent_gate
    return above, within


def leads_to(conn: Connection, start: str, targets: set[str]) -> bool:
    """Whether a run waits for one of others, directly or not: in a group, or for a child run."""
    waiting, seen = [start], {start}
    while waiting and len(seen) < MAX_WALK:
        run_id = waiting.pop()
        if run_id in targets:
            return True
        held = select(members.c.run_id).where(members.c.id.in_(waiting_in(conn, run_id).values()))
        children = select(gates.c.child_run).where(
            gates.c.run_id == run_id, gates.c.status == "open", gates.c.child_run != ""
        )
        for found in (*conn.execute(held).scalars(), *conn.execute(children).scalars()):
            if found not in seen:
                seen.add(found)
                waiting.append(found)
    return False
