"""SQL of queued attempts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, false, func, select, tuple_

from pilothouse.engine.model import Status
from pilothouse.engine.store import attempts, jobs, runs, steps
from pilothouse.storage import Prepared

_WAITING = (
    select(
        attempts.c.id,
        attempts.c.run_id,
        attempts.c.step_id,
        attempts.c.reason,
        attempts.c.selector,
        attempts.c.queued_at,
        steps.c.job_id,
        jobs.c.agent_id.label("bound_to"),
        runs.c.project,
        func.coalesce(runs.c.checkout.contains('"packs":[{'), false()).label("needs_git"),
    )
    .join(steps, steps.c.id == attempts.c.step_id)
    .join(jobs, jobs.c.id == steps.c.job_id)
    .join(runs, runs.c.id == attempts.c.run_id)
    .where(attempts.c.status == Status.QUEUED.value, attempts.c.agent_id == "", runs.c.paused_at == 0)
    .order_by(attempts.c.queued_at, attempts.c.id)
)
_AFTER = tuple_(attempts.c.queued_at, attempts.c.id) > tuple_(bindparam("after_at"), bindparam("after_id"))
_QUEUED_PAGE = Prepared(_WAITING.where(_AFTER, jobs.c.agent_id == "").limit(bindparam("most")))
_BOUND_PAGE = Prepared(_WAITING.where(_AFTER, jobs.c.agent_id != "").limit(bindparam("most")))
_UNEXPLAINED = Prepared(_WAITING.where(attempts.c.reason == "").limit(bindparam("most")))
_BOUND = Prepared(_WAITING.where(jobs.c.agent_id != ""))


def queued_attempts(conn: Connection, after: tuple[int, str], limit: int, *, begun: bool) -> list[Any]:
    """A page of queued attempts, oldest first, with their run, job and the agent that they are bound to.

    ``after``: ``queued_at`` and id of the last attempt of the previous page. ``begun``: whether their jobs already
    have an agent.
    """
    page = _BOUND_PAGE if begun else _QUEUED_PAGE
    return page.all(conn, {"after_at": after[0], "after_id": after[1], "most": limit})


def unexplained_attempts(conn: Connection, limit: int) -> list[Any]:
    """Queued attempts without a recorded reason for waiting."""
    return _UNEXPLAINED.all(conn, {"most": limit})


def bound_attempts(conn: Connection) -> list[Any]:
    """Queued attempts whose job has its workspace on an agent."""
    return _BOUND.all(conn, {})
