"""Which artifacts belong to a run: its own, and those of steps that it kept from the runs that it repeats."""

from __future__ import annotations

from sqlalchemy import Connection, select

from pilothouse.engine.artifacts import store
from pilothouse.engine.artifacts.model import Artifact, State
from pilothouse.engine.store import jobs, runs, steps

MAX_RERUNS = 20
"""So many runs back artifacts are looked for."""


def artifacts_of(conn: Connection, run_id: str) -> list[Artifact]:
    """The finished artifacts of a run, by name; one of the run itself hides one of an earlier run."""
    found: dict[str, Artifact] = {}
    for each, kept in lineage(conn, run_id):
        for artifact in _finished(conn, each):
            if kept is None or (artifact.job, artifact.step) in kept:
                found.setdefault(artifact.name, artifact)
    return [found[name] for name in sorted(found)]


def lineage(conn: Connection, run_id: str) -> list[tuple[str, set[tuple[str, str]] | None]]:
    """A run, then the runs that it repeats, each with the job and name of the steps that were kept of it; ``None``
    for the run itself."""
    found: list[tuple[str, set[tuple[str, str]] | None]] = [(run_id, None)]
    kept = _kept(conn, run_id)
    while kept and len(found) <= MAX_RERUNS:
        earlier = conn.execute(select(runs.c.rerun_of).where(runs.c.id == run_id)).scalar()
        if not earlier:
            break
        run_id = str(earlier)
        found.append((run_id, kept))
        kept = kept & _kept(conn, run_id)
    return found


def _finished(conn: Connection, run_id: str) -> list[Artifact]:
    return [each for each in store.of_run(conn, run_id) if each.state is State.READY]


def _kept(conn: Connection, run_id: str) -> set[tuple[str, str]]:
    """Job and name of the steps that succeeded in an earlier run and were not run again."""
    query = (
        select(jobs.c.name, steps.c.name.label("step"))
        .join(steps, steps.c.job_id == jobs.c.id)
        .where(steps.c.run_id == run_id, steps.c.kept)
    )
    return {(row.name, row.step) for row in conn.execute(query)}
