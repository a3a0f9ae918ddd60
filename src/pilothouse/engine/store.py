"""The tables of the engine, and their SQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    Row,
    Table,
    Text,
    bindparam,
    case,
    false,
    func,
    insert,
    select,
    text,
    update,
)

from pilothouse.engine import graph_store
from pilothouse.engine.graph import Graph
from pilothouse.engine.member_store import waiting_in
from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from pilothouse.engine.reruns import new_jobs
from pilothouse.storage import Prepared, metadata

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("pipeline_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("variables", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("triggered_by", Text, nullable=False),
    Column("checkout", Text, nullable=True),
    Column("branch", Text, nullable=False),
    Column("commit_sha", Text, nullable=False),
    Column("definition", Text, nullable=False, server_default=""),
    Column("rerun_of", Text, nullable=False),
    Column("cancel_reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Column("tag", Text, nullable=False, server_default=""),
    Column("cleanup_until", BigInteger, nullable=False, server_default="0"),
    Column("forced", Boolean, nullable=False, server_default=false()),
    Column("triggered_by_id", Text, nullable=False, server_default=""),
    Column("parent_gate", Text, nullable=False, server_default=""),
    Column("depth", Integer, nullable=False, server_default="0"),
    Column("paused_at", BigInteger, nullable=False, server_default="0"),
    Column("paused_by", Text, nullable=False, server_default=""),
    Column("unsettled", Boolean, nullable=False, server_default=false()),
    Column("pruned", Boolean, nullable=False, server_default=false()),
    Column("version", BigInteger, nullable=False, server_default="0"),
    Index("runs_by_project", "project", "id"),
    Column("job_count", Integer, nullable=False, server_default="0"),
    Index("runs_by_pipeline", "pipeline_id", "id"),
    Index("runs_by_pipeline_status", "pipeline_id", "status"),
    Index("runs_by_status", "status", "id"),
    Index("runs_unfinished", "project", sqlite_where=text("finished_at = 0")),
    Index("runs_unsettled", "id", sqlite_where=text("unsettled")),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("index", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("fresh", Boolean, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False),
    Column("queue_deadline", BigInteger, nullable=False, server_default="0"),
    Column("held_at", BigInteger, nullable=False, server_default="0"),
    Column("cleanup_until", BigInteger, nullable=False, server_default="0"),
    Column("stopping", Text, nullable=False, server_default=""),
    Column("kept_from", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Index("jobs_by_run", "run_id", "index"),
    Index("jobs_by_status", "status", "deadline", "not_before"),
)

steps = Table(
    "steps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("index", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("outputs", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("unstarted", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("current", Text, nullable=False),
    Column("stopping", Text, nullable=False),
    Column("kept_from", Text, nullable=False),
    Column("kept", Boolean, nullable=False, server_default=false()),
    Column("not_before", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False, server_default="0"),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Index("steps_by_run", "run_id", "index"),
    Index("steps_by_status", "status", "not_before"),
    Index("steps_by_deadline", "deadline", sqlite_where=text("deadline > 0")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("step_id", Text, nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("selector", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("percent", Integer, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Index("attempts_by_run", "run_id"),
    Index("attempts_by_status", "status", "queued_at", "id"),
)

repository_commits = Table(
    "repository_commits",
    metadata,
    Column("project", Text, primary_key=True),
    Column("repository", Text, primary_key=True),
    Column("commit_sha", Text, primary_key=True),
    Column("depth", Integer, primary_key=True, autoincrement=False),
    Column("packs", Text, nullable=False),
    Column("used_at", BigInteger, nullable=False),
)

_JSON = {"outputs", "variables", "checkout"}
_RUN = [c.name for c in runs.c if c.name not in ("spec", "pruned")]
_RUN_FIELDS = [name for name in _RUN if name != "job_count"]
_JOB = [c.name for c in jobs.c if c.name != "run_id"]
_STEP = [c.name for c in steps.c if c.name != "run_id"]
_ATTEMPT = [c.name for c in attempts.c if c.name != "run_id"]
_ATTEMPT_STATE = [name for name in _ATTEMPT if name != "lines"]  # updated when lines are stored


def _values(thing: Any, names: Iterable[str], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in names:
        value = getattr(thing, name)
        if name in _JSON:
            value = None if value is None else orjson.dumps(value).decode()
        values[prefix + name] = value.value if isinstance(value, Status) else value
    return values


def _fields(row: Row[Any], names: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in names:
        value = getattr(row, name) if name != "index" else row._mapping["index"]
        if name in _JSON and value is not None:
            value = orjson.loads(value)
        elif name == "status":
            value = Status(value)
        values[name] = value
    return values


# Statements that run for each step.
_ADD_ATTEMPT = Prepared(insert(attempts))
_FIND_ATTEMPT = Prepared(select(attempts).where(attempts.c.id == bindparam("attempt_id")))
_COUNT_LINES = Prepared(
    update(attempts)
    .where(attempts.c.id == bindparam("attempt_id"))
    .values(lines=attempts.c.lines + bindparam("more"))
    .returning(attempts.c.lines)
)

# -- writing: a row follows its object ------------------------------------------------------------------


def insert_run(conn: Connection, run: Run, graph: str) -> None:
    """Store a new run, its graph (``graph_json.encoded``), and those of its jobs and steps that were changed."""
    conn.execute(insert(runs).values(spec="", **_values(run, _RUN)))
    graph_store.insert_graph(conn, run.id, 0, graph)
    for table, names, things in (
        (jobs, _JOB, [job for job in run.jobs if job.kept_from]),
        (steps, _STEP, [step for job in run.jobs for step in job.steps if step.kept_from]),
    ):
        if things:
            conn.execute(insert(table), [{"run_id": run.id, **_values(thing, names)} for thing in things])
        for thing in things:
            thing.stored = True


def insert_attempt(conn: Connection, run_id: str, attempt: Attempt) -> None:
    """Store a new attempt."""
    _ADD_ATTEMPT.run(conn, {"run_id": run_id, **_values(attempt, _ATTEMPT)})


def insert_attempts(conn: Connection, run_id: str, attempts: list[Attempt]) -> None:
    """Store several new attempts."""
    _ADD_ATTEMPT.run_many(conn, [{"run_id": run_id, **_values(one, _ATTEMPT)} for one in attempts])


def _updater(table: Table, names: list[str]) -> Prepared:
    changes: dict[str, Any] = {name: bindparam(f"to_{name}") for name in names if name != "id"}
    return Prepared(update(table).where(table.c.id == bindparam("to_id")).values(changes))


_INSERTS = {Job: (Prepared(insert(jobs)), _JOB), Step: (Prepared(insert(steps)), _STEP)}
_UPDATES: dict[type, tuple[Prepared, list[str]]] = {
    Run: (_updater(runs, _RUN), _RUN),
    Job: (_updater(jobs, _JOB), _JOB),
    Step: (_updater(steps, _STEP), _STEP),
    Attempt: (_updater(attempts, _ATTEMPT_STATE), _ATTEMPT_STATE),
}


def count_lines(conn: Connection, attempt_id: str, more: int) -> int:
    """Add to an attempt's number of lines; returns the new number."""
    return int(_COUNT_LINES.run(conn, {"attempt_id": attempt_id, "more": more}).fetchone()[0])


def save(conn: Connection, thing: Run | Attempt) -> None:
    """Write an object's current state to its row."""
    statement, names = _UPDATES[type(thing)]
    statement.run(conn, _values(thing, names, "to_"))


def save_part(conn: Connection, run_id: str, part: Job | Step) -> None:
    """Write the current state of a job or step to its row, which is inserted at its first change."""
    kind = type(part)
    if part.stored:
        statement, names = _UPDATES[kind]
        statement.run(conn, _values(part, names, "to_"))
    else:
        statement, names = _INSERTS[kind]
        statement.run(conn, {"run_id": run_id, **_values(part, names)})
        part.stored = True


def restart_steps(conn: Connection, job_id: str, indices: list[int] | None = None) -> None:
    """Reset the steps of a job, or those with these indices, to before their first attempt of a round.

    A step that ended without an attempt has one from now on; ``transitions`` inserts it.
    """
    over = [status.value for status in Status if status.over]
    ended = steps.c.status.in_(over) & (steps.c.attempts == 0) & steps.c.kept.is_(False)
    which = [steps.c.job_id == job_id, *([] if indices is None else [steps.c.index.in_(indices)])]
    conn.execute(
        update(steps)
        .where(*which)
        .values(
            status=Status.PENDING.value,
            reason="",
            outputs="{}",
            failures=0,
            attempts=case((ended, 1), else_=steps.c.attempts),
            current="",
            stopping="",
            kept=False,
            not_before=0,
            deadline=0,
            started_at=0,
            finished_at=0,
        )
    )


# -- reading --------------------------------------------------------------------------------------------


def load_run(conn: Connection, run_id: str) -> Run | None:
    """A run with its jobs and steps."""
    row = conn.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        return None
    run = run_without_jobs(row, graph_store.load_graph(conn, run_id, row.spec))
    run.jobs = new_jobs(run_id, run.graph)
    for job_row in conn.execute(select(jobs).where(jobs.c.run_id == run_id)):
        job = job_of(job_row, run.jobs[job_row._mapping["index"]])
        run.jobs[job.index] = job
    by_id = {job.id: job for job in run.jobs}
    for step_row in conn.execute(select(steps).where(steps.c.run_id == run_id)):
        job = by_id[step_row.job_id]
        job.steps[step_row._mapping["index"]] = step_of(step_row)
    if run.graph.grouped:
        waiting = waiting_in(conn, run_id)
        run.waits_for = waiting.get(run_id, "")
        for job in run.jobs:
            job.waits_for = waiting.get(job.id, "")
    run.recount()
    return run


def run_without_jobs(row: Row[Any], graph: Graph) -> Run:
    """The run of a row."""
    return Run(graph=graph, **_fields(row, _RUN_FIELDS))


def job_of(row: Row[Any], new: Job) -> Job:
    """The job of a row; ``new``: as it was before it had one, with its steps."""
    job = Job(**_fields(row, _JOB), spec=new.spec, steps=new.steps, stored=True)
    for step in job.steps:  # jobs of the first release have other ids
        step.job_id = job.id
    return job


def step_of(row: Row[Any]) -> Step:
    """The step of a row."""
    return Step(**_fields(row, _STEP), stored=True)


def runs_between(conn: Connection, first: str, last: str) -> list[str]:
    """The ids of runs in an inclusive range, at most 100."""
    query = select(runs.c.id).where(runs.c.id.between(first, last)).limit(100)
    return list(conn.execute(query).scalars())


def run_row(conn: Connection, run_id: str) -> Row[Any] | None:
    """The row of a run, without its jobs."""
    return conn.execute(select(runs).where(runs.c.id == run_id)).first()


def attempt(conn: Connection, attempt_id: str) -> tuple[str, Attempt] | None:
    """An attempt and the id of its run."""
    row = _FIND_ATTEMPT.first(conn, {"attempt_id": attempt_id})
    return (row.run_id, Attempt(**_fields(row, _ATTEMPT))) if row else None


def attempts_of_steps(conn: Connection, step_ids: list[str]) -> dict[str, list[Attempt]]:
    """All attempts of some steps, in order, by step."""
    found: dict[str, list[Attempt]] = {}
    query = (
        select(attempts).where(attempts.c.step_id.in_(step_ids)).order_by(attempts.c.number, attempts.c.id)
    )
    for row in conn.execute(query):
        found.setdefault(row.step_id, []).append(Attempt(**_fields(row, _ATTEMPT)))
    return found


def ancestors(conn: Connection, step_ids: list[str]) -> dict[str, str]:
    """For steps of a rerun: the corresponding step of the earlier run."""
    query = select(steps.c.id, steps.c.kept_from).where(steps.c.id.in_(step_ids), steps.c.kept_from != "")
    return {row.id: row.kept_from for row in conn.execute(query)}


def due_runs(conn: Connection, now: int, limit: int = 100) -> list[str]:
    """Runs with a passed deadline, in random order, so that no run starves."""
    held = jobs.c.held_at == 0
    waiting_job = select(jobs.c.run_id).where(
        jobs.c.status == Status.RUNNING.value,
        ((jobs.c.deadline > 0) & (jobs.c.deadline <= now) & held)
        | ((jobs.c.not_before > 0) & (jobs.c.not_before <= now))
        | ((jobs.c.queue_deadline > 0) & (jobs.c.queue_deadline <= now) & held)
        | ((jobs.c.stopping != "") & (jobs.c.cleanup_until <= now)),
    )
    waiting_step = select(steps.c.run_id).where(
        steps.c.status == Status.PENDING.value, steps.c.not_before > 0, steps.c.not_before <= now
    )
    gate = select(steps.c.run_id).where(steps.c.deadline > 0, steps.c.deadline <= now)
    parts = waiting_job.union(waiting_step, gate).subquery()
    working = select(runs.c.id).where(runs.c.id.in_(select(parts.c.run_id)), runs.c.paused_at == 0)
    whole = select(runs.c.id).where(
        (runs.c.status == Status.RUNNING.value) & (runs.c.cleanup_until > 0) & (runs.c.cleanup_until <= now)
    )
    due = working.union(whole, select(runs.c.id).where(runs.c.unsettled)).subquery()
    return list(conn.execute(select(due.c.id).order_by(func.random()).limit(limit)).scalars())


def prunable_runs(conn: Connection, before: int, limit: int) -> list[Row[Any]]:
    """Runs that ended before a time and whose logs were not pruned, oldest first."""
    old = (runs.c.finished_at > 0) & (runs.c.finished_at < before) & runs.c.pruned.is_(False)
    query = select(runs.c.id).where(old).order_by(runs.c.id).limit(limit)
    return list(conn.execute(query))


def is_pruned(conn: Connection, run_id: str) -> bool:
    """Whether the log of the run was deleted."""
    return bool(conn.execute(select(runs.c.pruned).where(runs.c.id == run_id)).scalar())


def mark_pruned(conn: Connection, run_id: str) -> None:
    """Record that the run's log was deleted."""
    conn.execute(update(runs).where(runs.c.id == run_id).values(pruned=True))


def status_counts(conn: Connection) -> dict[str, int]:
    """The numbers of waiting and running attempts, for metrics."""
    waiting = [Status.QUEUED.value, Status.RUNNING.value]
    query = (
        select(attempts.c.status, func.count())
        .where(attempts.c.status.in_(waiting))
        .group_by(attempts.c.status)
    )
    return dict(conn.execute(query).all())
