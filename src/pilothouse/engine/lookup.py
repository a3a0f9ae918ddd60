"""Finds jobs and step runs by id, including those without a row because they have not changed yet; read only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from sqlalchemy import Connection

from pilothouse.engine import ids, status_store, store
from pilothouse.engine.graph import Graph
from pilothouse.engine.model import Attempt, Job, Run, Step
from pilothouse.engine.partial import Places, load_part
from pilothouse.engine.runs import Place, read_place, require_run
from pilothouse.engine.status_store import Part
from pilothouse.engine.unstarted import find_unstarted, unstarted


def find_step_run(conn: Connection, step_run_id: str) -> Place | None:
    """A step run and its stored run."""
    at = read_place(conn, step_run_id)
    if at is not None:
        return at
    for run_id in sorted(_candidates(conn, [step_run_id])):
        run = require_run(conn, run_id)
        found = find_unstarted(run, step_run_id)
        if found is not None:
            return Place(run, *found)
    return None


def find_step_runs(conn: Connection, wanted: Collection[str]) -> list[Part]:
    """The existing ones of these step runs."""
    parts = status_store.find_attempts(conn, wanted)
    missing = set(wanted) - {part.id for part in parts}
    for run in _parts_of(conn, missing):
        for job in run.jobs:
            for step in job.steps:
                one = unstarted(run, job, step)
                if one is not None and one.id in missing:
                    parts.append(_step_run_part(run, job, step, one))
    return parts


def find_jobs(conn: Connection, wanted: Collection[str]) -> list[Part]:
    """The existing ones of these jobs."""
    parts = status_store.find_jobs(conn, wanted)
    missing = set(wanted) - {part.id for part in parts}
    for run in _parts_of(conn, missing):
        parts += [_job_part(run, job) for job in run.jobs if job.id in missing]
    return parts


def jobs_named(conn: Connection, run_ids: Collection[str], name: str) -> list[str]:
    """The ids of jobs with this name in these runs."""

    def named(graph: Graph) -> Places:
        return {index: () for index, job in enumerate(graph.jobs) if job.name == name}

    runs = (load_part(conn, run_id, named) for run_id in sorted(run_ids))
    return [job.id for run in runs if run is not None for job in run.jobs]


def _parts_of(conn: Connection, parts: Collection[str]) -> Iterator[Run]:
    """The runs from whose ids these ids may have been derived, with the jobs and steps at their places only."""
    for run_id, places in sorted(_candidates(conn, parts).items()):
        run = load_part(conn, run_id, _at(places))
        if run is not None:
            yield run


def _at(places: Places) -> Callable[[Graph], Places]:
    return lambda _graph: places


def _candidates(conn: Connection, parts: Collection[str]) -> dict[str, dict[int, set[int]]]:
    """Runs that these may be parts of, and their places in them."""
    # An id may have been made up around that of any run: only a run that it is of is worth loading.
    found: dict[str, dict[int, set[int]]] = {}
    for id in parts:
        place = ids.place_of(id)
        if place is None:
            continue
        for run_id in store.runs_between(conn, *ids.run_ids_around(id)):
            if ids.is_of(id, run_id):
                found.setdefault(run_id, {}).setdefault(place[0], set()).add(place[1])
    return found


def _step_run_part(run: Run, job: Job, step: Step, attempt: Attempt) -> Part:
    return Part(attempt.id, run.id, attempt.status, job.id, job.name, job.index, step.index)


def _job_part(run: Run, job: Job) -> Part:
    return Part(job.id, run.id, job.status, job.id, job.name, job.index)
