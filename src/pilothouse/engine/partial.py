"""A part of a run, for those who name one job or step run: the cost is that of the part, whatever the run has beside
it; read only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, true

from pilothouse.engine import graph_store, store
from pilothouse.engine.graph import Graph
from pilothouse.engine.model import Counts, Job, Run, Status, Step
from pilothouse.engine.reruns import new_job
from pilothouse.engine.store import jobs, runs, steps

Places: TypeAlias = Mapping[int, Collection[int] | None]
"""Indices of jobs, and of their steps; ``None``: all steps."""

Choose: TypeAlias = Callable[[Graph], Places]


def load_part(conn: Connection, run_id: str, choose: Choose) -> Run | None:
    """A run with only the chosen jobs and steps, in order; places that it does not have are left out.

    ``counts`` are those of the whole run, and those of a job if all its steps were chosen. What needs the other jobs
    (``job``, ``find_step``, ``move``, the agenda) is not set.
    """
    row = conn.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        return None
    run = store.run_without_jobs(row, graph_store.load_graph(conn, run_id, row.spec))
    run.counts = _counts(conn, run)
    places = choose(run.graph)
    run.jobs = _jobs(conn, run, places)
    _set_steps(conn, run, places)
    return run


def _counts(conn: Connection, run: Run) -> Counts:
    query = select(jobs.c.status, func.count()).where(jobs.c.run_id == run.id).group_by(jobs.c.status)
    counts = Counts()
    for status, number in conn.execute(query):
        counts.add(Status(status), number)
    counts.add(Status.PENDING, len(run.graph.jobs) - counts.total)  # those that have no row yet
    return counts


def _jobs(conn: Connection, run: Run, places: Places) -> list[Job]:
    """The jobs at these places, with their steps before they had rows."""
    found: dict[int, Job] = {}
    for index in sorted(set(places) & set(range(len(run.graph.jobs)))):
        spec, chosen = run.graph.jobs[index], places[index]
        at = None if chosen is None else sorted(step for step in chosen if step < len(spec.steps))
        found[index] = new_job(run.id, index, spec, at)
    if found:
        for row in conn.execute(select(jobs).where(jobs.c.run_id == run.id, jobs.c.index.in_(list(found)))):
            index = row._mapping["index"]
            found[index] = store.job_of(row, found[index])
    return list(found.values())


def _set_steps(conn: Connection, run: Run, places: Places) -> None:
    """Replace the steps that have rows, and count those of whole jobs."""
    whole = {job.id for job in run.jobs if places[job.index] is None}
    parts = {
        job.id: [step.index for step in job.steps] for job in run.jobs if job.steps and job.id not in whole
    }
    wanted: list[ColumnElement[bool]] = []
    if whole:  # of all jobs without naming each
        everything = len(whole) == len(run.graph.jobs)
        wanted.append(true() if everything else steps.c.job_id.in_(whole))
    if parts:
        indices = {index for some in parts.values() for index in some}
        wanted.append(and_(steps.c.job_id.in_(list(parts)), steps.c.index.in_(indices)))
    stored: dict[tuple[str, int], Step] = {}
    if wanted:
        for row in conn.execute(select(steps).where(steps.c.run_id == run.id, or_(*wanted))):
            stored[row.job_id, row._mapping["index"]] = store.step_of(row)
    for job in run.jobs:
        job.steps = [stored.get((job.id, step.index), step) for step in job.steps]
        if job.id in whole:
            job.recount()
