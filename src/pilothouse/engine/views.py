"""The JSON forms of runs (decisions.md, native routes); read only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from pilothouse.engine import store
from pilothouse.engine.artifacts.lineage import artifacts_of
from pilothouse.engine.cleanup import stop_reason
from pilothouse.engine.model import Attempt, Job, Run, Status, Step
from pilothouse.engine.reports.views import tests_summary
from pilothouse.engine.unstarted import unstarted
from pilothouse.journal import kept_json
from pilothouse.wire.times import rfc3339_ms

_DONE = (Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT)


CANCELLING = "cancelling"
"""The reason of a run that is being cancelled, until it has ended."""


def _time(at: int) -> str | None:
    """RFC 3339 in milliseconds; ``None`` for 0."""
    return rfc3339_ms(at) if at else None


def run_summary(row: Row[Any] | Run) -> dict[str, Any]:
    """A run without its jobs."""
    return {
        "id": row.id,
        "kind": row.kind,
        "name": row.name,
        "status": str(row.status),
        "reason": row.reason or _reason(row),
        "project": row.project,
        "pipeline_id": row.pipeline_id or row.id,
        "trigger": row.trigger,
        "triggered_by": row.triggered_by,
        "branch": row.branch,
        "commit_sha": row.commit_sha,
        "tag": row.tag,
        "dirty": bool(row.dirty),
        "rerun_of": row.rerun_of or None,
        "parent_gate": row.parent_gate or None,
        "paused_at": _time(row.paused_at),
        "cleanup_until": _time(0 if row.forced or row.finished_at else row.cleanup_until),
        "created_at": _time(row.created_at),
        "started_at": _time(row.started_at),
        "finished_at": _time(row.finished_at),
        "duration": (row.finished_at - row.started_at) / 1000 if row.finished_at and row.started_at else None,
    }


def _reason(row: Row[Any] | Run) -> str:
    """Why an active run makes no progress: it is being cancelled, or paused; otherwise empty."""
    if row.finished_at:
        return ""
    if row.cancel_reason:
        return CANCELLING
    return f"paused by {row.paused_by}" if row.paused_at else ""


MAX_VIEW = (4 << 20) - (64 << 10)
"""Bytes of the jobs, steps and variables of a run's view, which has less than 4 MiB in total. Steps that find no room
are left out."""
MAX_DETAIL = 1 << 20
"""Bytes of a run's view for outputs and for texts of over ``MAX_TEXT`` characters, in the order of the steps."""
MAX_TEXT = 100
"""Characters of a reason or error that are shown, even if there is no room for longer ones."""
MAX_SHORT = 512 << 10
"""Bytes of a run's view for texts up to ``MAX_TEXT`` characters; once they are used up, ``LEAST_TEXT`` are shown."""
LEAST_TEXT = 16
MAX_ATTEMPTS = 1000
"""Attempts of a run's view that are shown besides the last one of each step."""
MANY = 1000
"""A view of more steps has a quarter of the room for outputs, texts and attempts, so that the steps find room."""


@dataclass(slots=True)
class Room:
    """What is left of the bounds of one view."""

    total: int = MAX_VIEW
    detail: int = MAX_DETAIL
    short: int = MAX_SHORT
    attempts: int = MAX_ATTEMPTS

    @classmethod
    def of(cls, steps: int) -> Room:
        """For a view of so many steps."""
        if steps <= MANY:
            return cls()
        return cls(MAX_VIEW, MAX_DETAIL // 4, MAX_SHORT // 4, MAX_ATTEMPTS // 4)

    def text(self, text: str) -> str:
        """The text, shortened if there is no room for all of it."""
        if len(text) <= LEAST_TEXT:
            return text
        size = len(text.encode("utf-8", "replace"))
        if len(text) > MAX_TEXT:
            if self._take(size):
                return text
            text = text[: MAX_TEXT - 1] + "…"
        if self.short >= size:
            self.short -= size
            return text
        return text[: LEAST_TEXT - 1] + "…"

    def steps(self, views: Iterable[dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
        """The job's view with its steps and, if there is no room for all of them, ``steps_omitted``."""
        self.total -= len(orjson.dumps(job))
        shown: list[orjson.Fragment] = []
        omitted = 0
        for view in views:
            if omitted:
                omitted += 1
                continue
            encoded = kept_json(view)
            if len(encoded) >= self.total:
                omitted = 1
                continue
            self.total -= len(encoded) + 1
            shown.append(orjson.Fragment(encoded))
        return {**job, "steps": shown, **({"steps_omitted": omitted} if omitted else {})}

    def outputs(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """The keys ``outputs`` and, if there is no room for them, ``outputs_omitted``."""
        if not outputs:
            return {"outputs": {}}
        encoded = orjson.dumps(outputs)
        if self._take(len(encoded)):
            return {"outputs": orjson.Fragment(encoded)}
        return {"outputs": {}, "outputs_omitted": True}

    def newest(self, attempts: list[Attempt]) -> list[Attempt]:
        """The attempts; the last one alone if there is no room for the others."""
        earlier = max(0, len(attempts) - 1)
        if self.attempts >= earlier:
            self.attempts -= earlier
            return attempts
        return attempts[-1:]

    def _take(self, size: int) -> bool:
        if size > self.detail:
            return False
        self.detail -= size
        return True


def run_view(
    conn: Connection, run: Run, job_names: Collection[str] = (), step_names: Collection[str] = ()
) -> dict[str, Any]:
    """A run with its jobs and steps (with these names, if any) and attempts, also those kept from earlier runs.

    Of large runs it is not all: bounds and keys as in :class:`Room`. To be encoded with orjson.
    """
    jobs = [job for job in run.jobs if not job_names or job.name in job_names]
    steps = {
        job.id: [step for step in job.steps if not step_names or step.name in step_names] for job in jobs
    }
    history = _attempts(conn, [step.id for shown in steps.values() for step in shown])
    view, room = run_summary(run), Room.of(sum(map(len, steps.values())))
    view["variables"] = run.variables
    view["tests"] = tests_summary(conn, run.id)
    view["artifacts"] = len(artifacts_of(conn, run.id))
    room.total -= len(orjson.dumps(run.variables))
    view["jobs"] = [_job_view(run, job, steps[job.id], history, room) for job in jobs]
    return view


def _attempts(conn: Connection, step_ids: list[str]) -> dict[str, list[Attempt]]:
    """Attempts by step, those of earlier runs first."""
    lineage = {step_id: [step_id] for step_id in step_ids}
    frontier = {step_id: step_id for step_id in step_ids}
    while frontier:
        parents = store.ancestors(conn, list(frontier))
        frontier = {parent: frontier[child] for child, parent in parents.items()}
        for parent, step_id in frontier.items():
            lineage[step_id].insert(0, parent)
    everyone = [member for line in lineage.values() for member in line]
    found = store.attempts_of_steps(conn, everyone)
    return {
        step_id: [a for member in line for a in found.get(member, [])] for step_id, line in lineage.items()
    }


def _job_view(
    run: Run, job: Job, steps: list[Step], history: dict[str, list[Attempt]], room: Room
) -> dict[str, Any]:
    # Those of the runs it repeats belong to other steps.
    attempts = [a for step in steps for a in history[step.id] if a.step_id == step.id]
    starts = [a.started_at for a in attempts if a.started_at]
    view = {
        "id": job.id,
        "name": job.name,
        "status": job.status.value,
        "reason": room.text(job.reason or (stop_reason(run, job) if job.stopping else "")),
        "stopping": job.stopping or None,
        "needs": list(job.spec.depends_on),
        "round": job.round,
        "agent_id": job.agent_id or None,
        "started_at": _time(job.started_at),
        "begun_at": _time(min(starts, default=0)),
        "waiting_for": None if starts or job.status is not Status.RUNNING else _waiting_for(job, attempts),
        "finished_at": _time(job.finished_at),
    }
    return room.steps((_step_view(run, job, step, history[step.id], room) for step in steps), view)


def _waiting_for(job: Job, attempts: list[Attempt]) -> str:
    """Why a job that could start is waiting; empty before the scheduler has run."""
    current = {step.current for step in job.steps if step.current}
    return next((a.reason for a in attempts if a.id in current and a.reason), "")


def _step_view(run: Run, job: Job, step: Step, attempts: list[Attempt], room: Room) -> dict[str, Any]:
    waiting = next((a.reason for a in attempts if a.id == step.current and a.reason), "")
    everything = _with_unstarted(run, job, step, attempts)
    shown = room.newest(everything)
    return {
        "id": step.id,
        "name": step.name,
        "node": run.node(job, step),
        "uses": job.step_spec(step).uses,
        "background": job.step_spec(step).background,
        "gate": job.step_spec(step).gate or None,
        "status": step.status.value,
        "reason": room.text(waiting or step.reason),
        **room.outputs(step.outputs),
        "progress": attempts[-1].percent if attempts else 0,
        "continue_on_error": job.step_spec(step).continue_on_error,
        "kept": step.kept and step.status in _DONE,
        "started_at": _time(step.started_at),
        "finished_at": _time(step.finished_at),
        "attempts": [_attempt_view(attempt, step, room) for attempt in shown],
        **({"attempts_omitted": len(everything) - len(shown)} if len(shown) < len(everything) else {}),
    }


def _with_unstarted(run: Run, job: Job, step: Step, attempts: list[Attempt]) -> list[Attempt]:
    waiting = unstarted(run, job, step)
    return [*attempts, waiting] if waiting else attempts


def _attempt_view(attempt: Attempt, step: Step, room: Room) -> dict[str, Any]:
    return {
        "step_run_id": attempt.id,
        "number": attempt.number,
        "status": attempt.status.value,
        "exit_code": attempt.exit_code,
        "error": room.text(attempt.error),
        "reason": room.text(attempt.reason),
        "agent_id": attempt.agent_id or None,
        "lines": attempt.lines,
        "earlier_run": attempt.step_id != step.id,
        "queued_at": _time(attempt.queued_at),
        "started_at": _time(attempt.started_at),
        "finished_at": _time(attempt.finished_at),
    }
