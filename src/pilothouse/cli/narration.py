"""Formats a run's entries as plain lines for pipes, files and CI logs. Pure.

Queued steps are reported only if they wait. Log lines are printed as ``job/step | line``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pilothouse.cli.documents import json_line
from pilothouse.cli.progress import BAD, Body, failure
from pilothouse.cli.text import safe, span
from pilothouse.cli.waits import decided, waits_for
from pilothouse.wire import entries

_WORDS = {"timed_out": "timed out"}


def narrate(type: str, body: Body, at: float, *, allowed: bool = False) -> list[str]:
    """The lines for one entry; none for entries without news for a reader. ``at``: Unix seconds.

    ``allowed``: the step may fail without failing its job.
    """
    tell = _TELLERS.get(type)
    lines = tell(body, at) if tell else []
    if allowed and body.get("status") in BAD:
        lines = [f"{line}, allowed" for line in lines]
    return lines


def _run_created(body: Body, at: float) -> list[str]:
    return [f"{_run(body)}: created ({safe(body.get('name', ''))})"]


def _run_started(body: Body, at: float) -> list[str]:
    return [f"{_run(body)}: started"]


def _run_paused(body: Body, at: float) -> list[str]:
    return [f"{_run(body)}: paused by {safe(body.get('by', '?'))}"]


def _run_resumed(body: Body, at: float) -> list[str]:
    return [f"{_run(body)}: resumed by {safe(body.get('by', '?'))}"]


def _run_extended(body: Body, at: float) -> list[str]:
    return [f"{_run(body)}: more steps: job {safe(job.get('name', '?'))}" for job in body.get("jobs", ())]


def _run_cancelling(body: Body, at: float) -> list[str]:
    by, reason = body.get("by", ""), body.get("reason", "")
    if by and reason != f"cancelled by {by}":
        return [f"{_run(body)}: being cancelled by {safe(by)}{_because(reason)}"]
    return [f"{_run(body)}: being cancelled{_because(reason)}"]


def _run_completed(body: Body, at: float) -> list[str]:
    return [_ended(_run(body), body, body.get("reason"))]


def _job_started(body: Body, at: float) -> list[str]:
    return [f"{_job(body)}: ready"]  # its first step may have to wait; its start is reported


def _job_restarted(body: Body, at: float) -> list[str]:
    wait = body.get("retry_at", 0) / 1000 - at
    when = f" in {span(wait)}" if wait >= 0.05 else ""
    return [f"{_job(body)}: starting again{when}{_because(body.get('reason'))}"]


def _job_completed(body: Body, at: float) -> list[str]:
    return [_ended(_job(body), body, body.get("reason"))]


def _step_waiting(body: Body, at: float) -> list[str]:
    return [f"{_step(body)}: waiting: {safe(body['reason'])}"] if body.get("reason") else []


def _step_started(body: Body, at: float) -> list[str]:
    if body.get("gate"):
        run_id = "" if body.get("transient") else body.get("run_id", "")
        told = waits_for(body["gate"], body.get("waits_for", ""), run_id, _path(body))
        return [f"{_step(body)}: {safe(told)}"]
    attempt = f" (attempt {body['attempt']})" if body.get("attempt", 1) > 1 else ""
    return [f"{_step(body)}: started on agent {safe(body.get('agent_id', '?'))}{attempt}"]


def _gate_decided(body: Body, at: float) -> list[str]:
    waits = f"; {safe(body['waits_for'])}" if body.get("waits_for") else ""
    return [f"{_step(body)}: {safe(decided(body, alone=bool(waits)))}{waits}"]


def _step_progressed(body: Body, at: float) -> list[str]:
    return [f"{_step(body)}: {body.get('percent', 0)}% {safe(body.get('message', ''))}".rstrip()]


def _step_logged(body: Body, at: float) -> list[str]:
    path = _path(body)
    return [f"{path} | {safe(line)}" for line in body.get("lines", ())]


def _log_missed(body: Body, at: float) -> list[str]:
    return [f"{_path(body)} | [{safe(body.get('message', 'lines are missing'))}]"]


def _step_output(body: Body, at: float) -> list[str]:
    value: Any = body.get("value")
    shown = value if isinstance(value, str) else json_line(value).rstrip("\n")
    return [f"{_step(body)}: output {safe(body['output'])}={safe(shown)}"]


def _attempt_completed(body: Body, at: float) -> list[str]:
    if body.get("final", True):
        return []  # step.completed follows
    wait = max(0.0, body.get("retry_at", 0) / 1000 - at)
    again = f"trying again in {span(wait)}" if wait >= 0.05 else "trying again"
    return [f"{_step(body)}: attempt {body.get('attempt', '?')} failed ({safe(failure(body))}), {again}"]


def _step_completed(body: Body, at: float) -> list[str]:
    if body["status"] in ("failed", "timed_out"):
        return [_ended(_step(body), body, failure(body))]
    return [_ended(_step(body), body, body.get("reason"))]


_TELLERS: dict[str, Callable[[Body, float], list[str]]] = {
    entries.RUN_CREATED: _run_created,
    entries.RUN_STARTED: _run_started,
    entries.RUN_EXTENDED: _run_extended,
    entries.RUN_PAUSED: _run_paused,
    entries.RUN_RESUMED: _run_resumed,
    entries.GATE_DECIDED: _gate_decided,
    entries.RUN_CANCELLING: _run_cancelling,
    entries.RUN_COMPLETED: _run_completed,
    entries.JOB_STARTED: _job_started,
    entries.JOB_RESTARTED: _job_restarted,
    entries.JOB_COMPLETED: _job_completed,
    entries.STEP_WAITING: _step_waiting,
    entries.STEP_STARTED: _step_started,
    entries.STEP_PROGRESSED: _step_progressed,
    entries.STEP_LOGGED: _step_logged,
    entries.STEP_LOG_MISSED: _log_missed,
    entries.STEP_OUTPUT: _step_output,
    entries.ATTEMPT_COMPLETED: _attempt_completed,
    entries.STEP_COMPLETED: _step_completed,
}


def _run(body: Body) -> str:
    return f"run {body.get('run_id', '?')}"


def _job(body: Body) -> str:
    return f"job {safe(body.get('job', '?'))}"


def _path(body: Body) -> str:
    return f"{safe(body.get('job', '?'))}/{safe(body.get('step', '?'))}"


def _step(body: Body) -> str:
    return f"step {_path(body)}"


def _ended(subject: str, body: Body, reason: str | None) -> str:
    status = _WORDS.get(body["status"], body["status"])
    # A reason that only repeats the status is omitted.
    why = _because(None if reason in (body["status"], status) else reason)
    took = f" in {span(body['duration'] / 1000)}" if body.get("duration") else ""  # 0: never started
    return f"{subject}: {status}{why}{took}"


def _because(reason: str | None) -> str:
    return f" ({safe(reason)})" if reason else ""
