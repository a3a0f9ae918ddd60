"""SQL for status streams."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from pilothouse.engine.model import Status
from pilothouse.engine.store import attempts, jobs, runs, steps

_ALIVE = [Status.PENDING.value, Status.QUEUED.value, Status.RUNNING.value]


class Part(NamedTuple):
    """A run, or a job or attempt of one; fields that do not apply are empty. ``at_job``, ``at_step``: its indices."""

    id: str
    run_id: str
    status: Status
    job_id: str = ""
    job: str = ""
    at_job: int = -1
    at_step: int = -1


class RunRow(NamedTuple):
    """The columns of a run that determine who may see it and what it belongs to."""

    id: str
    project: str
    pipeline_id: str
    status: Status


def find_attempts(conn: Connection, ids: Collection[str]) -> list[Part]:
    """The existing ones of these attempts."""
    places = (jobs.c.index, steps.c.index)
    query = (
        select(attempts.c.id, attempts.c.run_id, attempts.c.status, jobs.c.id, jobs.c.name, *places)
        .join(steps, steps.c.id == attempts.c.step_id)
        .join(jobs, jobs.c.id == steps.c.job_id)
        .where(attempts.c.id.in_(ids))
    )
    return [
        Part(id, run, Status(status), job_id, job, at_job, at_step)
        for id, run, status, job_id, job, at_job, at_step in conn.execute(query)
    ]


def find_jobs(conn: Connection, ids: Collection[str]) -> list[Part]:
    """The existing ones of these jobs."""
    query = select(jobs.c.id, jobs.c.run_id, jobs.c.status, jobs.c.name, jobs.c.index).where(
        jobs.c.id.in_(ids)
    )
    return [
        Part(id, run, Status(status), id, name, at_job)
        for id, run, status, name, at_job in conn.execute(query)
    ]


def find_runs(conn: Connection, ids: Collection[str]) -> dict[str, RunRow]:
    """The existing ones of these runs, by id."""
    query = select(runs.c.id, runs.c.project, runs.c.pipeline_id, runs.c.status).where(runs.c.id.in_(ids))
    return {id: RunRow(id, project, of, Status(status)) for id, project, of, status in conn.execute(query)}


def alive_runs(conn: Connection) -> list[RunRow]:
    """Runs that are not over, oldest first."""
    columns = (runs.c.id, runs.c.project, runs.c.pipeline_id, runs.c.status)
    query = select(*columns).where(runs.c.status.in_(_ALIVE)).order_by(runs.c.id)
    return [RunRow(id, project, of, Status(status)) for id, project, of, status in conn.execute(query)]


def newest_runs(conn: Connection, pipeline_ids: Collection[str]) -> list[str]:
    """The newest run of each of these definitions."""
    query = (
        select(func.max(runs.c.id)).where(runs.c.pipeline_id.in_(pipeline_ids)).group_by(runs.c.pipeline_id)
    )
    return list(conn.execute(query).scalars())
