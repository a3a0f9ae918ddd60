"""Finds jobs and step runs by id, including those without a row because they have not changed yet; read only."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy import Connection

from pilothouse.engine import ids, status_store, store
from pilothouse.engine.model import Attempt, Job, Run
from pilothouse.engine.runs import Place, read_place
from pilothouse.engine.status_store import Part
from pilothouse.engine.unstarted import find_unstarted


def find_step_run(conn: Connection, step_run_id: str) -> Place | None:
    """A step run and its stored run."""
    at = read_place(conn, step_run_id)
    if at is not None:
        return at
    for run in _runs_of(conn, [step_run_id]):
        found = find_unstarted(run, step_run_id)
        if found is not None:
            return Place(run, *found)
    return None


def find_step_runs(conn: Connection, wanted: Collection[str]) -> list[Part]:
    """The existing ones of these step runs."""
    parts = status_store.find_attempts(conn, wanted)
    missing = set(wanted) - {part.id for part in parts}
    for run in _runs_of(conn, missing):
        for id in sorted(missing):
            found = find_unstarted(run, id)
            if found is not None:
                parts.append(_step_run_part(run, found[0], found[2]))
                missing.discard(id)
    return parts


def find_jobs(conn: Connection, wanted: Collection[str]) -> list[Part]:
    """The existing ones of these jobs."""
    parts = status_store.find_jobs(conn, wanted)
    missing = set(wanted) - {part.id for part in parts}
    for run in _runs_of(conn, missing):
        parts += [_job_part(run, job) for job in run.jobs if job.id in missing]
    return parts


def jobs_named(conn: Connection, run_ids: Collection[str], name: str) -> list[str]:
    """The ids of jobs with this name in these runs."""
    runs = (store.load_run(conn, run_id) for run_id in sorted(run_ids))
    return [job.id for run in runs if run is not None for job in run.jobs if job.name == name]


def _runs_of(conn: Connection, parts: Collection[str]) -> Iterator[Run]:
    """The runs from whose ids these ids may have been derived."""
    # An id may have been made up around that of any run: only a run that it is of is worth loading.
    candidates = {
        run_id
        for id in parts
        for run_id in store.runs_between(conn, *ids.run_ids_around(id))
        if ids.is_of(id, run_id)
    }
    for run_id in sorted(candidates):
        run = store.load_run(conn, run_id)
        if run is not None:
            yield run


def _step_run_part(run: Run, job: Job, attempt: Attempt) -> Part:
    return Part(attempt.id, run.id, attempt.status, job.id, job.name)


def _job_part(run: Run, job: Job) -> Part:
    return Part(job.id, run.id, job.status, job.id, job.name)
