"""State of a run for display, built from journal entries (wire/entries.py) or the REST view. Pure.

A viewer may join at any position of the stream: jobs and steps are created on first mention; missing keys and
unknown entry types are ignored. Times are Unix seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilothouse.cli.text import moment
from pilothouse.cli.waits import HOLD, decided
from pilothouse.wire import entries

OVER = frozenset({"succeeded", "failed", "cancelled", "timed_out", "skipped"})
BAD = frozenset({"failed", "timed_out"})

STEP_TAIL = 20
RUN_TAIL = 10

Body = Mapping[str, Any]

_LITTLE = frozenset({"", *OVER, "timed out"})
"""Reasons that only repeat a status."""


def words(status: str) -> str:
    """A status as display text."""
    return status.replace("_", " ")


@dataclass(slots=True)
class StepState:
    """A step. ``percent`` is ``None`` until reported; ``started_at`` is that of the current attempt.

    ``allowed``: its job continues if it fails (``continueOnError``); ``retry_at``: time of the next attempt.
    ``gate``: its kind, if it is one; ``reason`` says what an open one waits for. ``decided``: by whom, and why.
    """

    id: str
    job: str
    name: str
    status: str = "pending"
    reason: str = ""
    agent: str = ""
    attempt: int = 0
    percent: int | None = None
    message: str = ""
    exit_code: int = 0
    kept: bool = False
    allowed: bool = False
    gate: str = ""
    decided: str = ""
    retry_at: float | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    started_at: float | None = None
    finished_at: float | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=STEP_TAIL))

    @property
    def path(self) -> str:
        """``job/step``."""
        return f"{self.job}/{self.name}"

    @property
    def waits_at_gate(self) -> bool:
        """Whether it is an open gate."""
        return bool(self.gate) and self.status == "running"

    def begin_attempt(self, body: Body) -> None:
        """Reset the fields of an earlier attempt."""
        number = body.get("attempt", self.attempt)
        self.retry_at = None
        if number != self.attempt:
            self.attempt = number
            self.percent, self.message, self.exit_code, self.decided = None, "", 0, ""
            self.started_at = self.finished_at = None
            self.tail.clear()
            self.outputs.clear()


@dataclass(slots=True)
class JobState:
    """A job and its steps, in order.

    ``waiting_for``: the server's reason for waiting; ``stopping``: why only cleanup steps run.
    """

    id: str
    name: str
    status: str = "pending"
    reason: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    retry_at: float | None = None
    waiting_for: str | None = None
    stopping: str = ""
    steps: dict[str, StepState] = field(default_factory=dict)

    @property
    def waiting(self) -> str | None:
        """Why the job waits for a slot (empty: unknown); ``None`` if it does not wait."""
        if self.status != "running" or any(step.status == "running" for step in self.steps.values()):
            return None
        queued = [step for step in self.steps.values() if step.status == "queued"]
        # Between two steps a job waits only briefly; not shown without a reason.
        begun = any(step.status in OVER for step in self.steps.values())
        if not begun and self.waiting_for is not None:
            return next((step.reason for step in queued if step.reason), self.waiting_for)
        return next((step.reason for step in queued if step.reason or not begun), None)


@dataclass(slots=True)
class RunState:
    """A run, its jobs, and the last log lines of all of them as (step, line). ``paused``: nothing is started.

    ``transient``: its server ends with it, so that no command can be suggested that asks the server.
    """

    id: str
    name: str = ""
    status: str = "pending"
    reason: str = ""
    paused: bool = False
    transient: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    jobs: dict[str, JobState] = field(default_factory=dict)
    tail: deque[tuple[StepState, str]] = field(default_factory=lambda: deque(maxlen=RUN_TAIL))

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status in OVER

    def allows(self, step: StepState) -> bool:
        """Whether a step's failure is allowed: by its spec, or because its job succeeded."""
        job = next((job for job in self.jobs.values() if job.steps.get(step.id) is step), None)
        return step.allowed or (job is not None and job.status == "succeeded")

    def open_gates(self, kind: str) -> list[StepState]:
        """The gates of a kind that are open."""
        steps = (step for job in self.jobs.values() for step in job.steps.values())
        return [step for step in steps if step.waits_at_gate and step.gate == kind]

    def failed_steps(self) -> list[StepState]:
        """The steps that made their job fail: those it names, or all failed ones if it names none.

        Other failed steps were allowed to fail (``continueOnError``).
        """
        found: list[StepState] = []
        for job in self.jobs.values():
            if job.status in BAD:
                bad = [step for step in job.steps.values() if step.status in BAD]
                found += [step for step in bad if job.reason == f"{step.name} {words(step.status)}"] or bad
        return found

    def job(self, body: Body) -> JobState:
        """The job of an entry."""
        key = body.get("job_id") or body.get("job", "")
        return self.jobs.setdefault(key, JobState(key, body.get("job", key)))

    def step(self, body: Body) -> StepState:
        """The step of an entry."""
        job = self.job(body)
        key = body.get("step_id") or body.get("step", "")
        return job.steps.setdefault(key, StepState(key, job.name, body.get("step", key)))

    def apply(self, type: str, body: Body, at: float) -> None:
        """Apply one entry; ``at`` is its time."""
        change = _CHANGES.get(type)
        if change is not None:
            self.name = body.get("name") or self.name
            change(self, body, at)


def _run_created(run: RunState, body: Body, at: float) -> None:
    for job in body.get("jobs", ()):
        shown = run.job({"job_id": job["id"], "job": job["name"]})
        for step in job.get("steps", ()):
            run.step({"job_id": shown.id, "job": shown.name, "step_id": step["id"], "step": step["name"]})


def _run_started(run: RunState, body: Body, at: float) -> None:
    run.status, run.started_at = "running", at


def _run_paused(run: RunState, body: Body, at: float) -> None:
    run.paused, run.reason = True, f"paused by {body.get('by', '?')}"


def _run_resumed(run: RunState, body: Body, at: float) -> None:
    run.paused, run.reason = False, ""


def _run_cancelling(run: RunState, body: Body, at: float) -> None:
    # It still runs cleanup steps: "cancelled by ann" alone would mean that it has ended.
    run.reason = ": ".join(filter(None, ("cancelling", body.get("reason", ""))))


def _run_completed(run: RunState, body: Body, at: float) -> None:
    run.status, run.reason, run.finished_at = body["status"], body.get("reason", ""), at
    run.paused = False
    run.started_at = _begun(run.started_at, body, at)


def _job_started(run: RunState, body: Body, at: float) -> None:
    job = run.job(body)
    job.status, job.reason, job.started_at, job.finished_at = "running", "", at, None


def _job_restarted(run: RunState, body: Body, at: float) -> None:
    job = run.job(body)
    job.reason = body.get("reason", "")
    job.retry_at = _later(body, at)
    for step in [*job.steps.values()][body.get("from_step", 0) :]:
        step.status, step.reason, step.kept, step.retry_at = "pending", "", False, None
        step.percent, step.message, step.started_at, step.finished_at = None, "", None, None
        step.decided = ""


def _job_completed(run: RunState, body: Body, at: float) -> None:
    job = run.job(body)
    job.status, job.reason, job.finished_at = body["status"], body.get("reason", ""), at
    job.started_at = _begun(job.started_at, body, at)


def _step_queued(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    step.begin_attempt(body)
    run.job(body).retry_at = None
    step.status, step.reason, step.finished_at = "queued", body.get("reason", ""), None


def _step_waiting(run: RunState, body: Body, at: float) -> None:
    run.step(body).reason = body.get("reason", "")


def _step_started(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    step.begin_attempt(body)
    run.job(body).waiting_for = None
    step.status, step.reason, step.agent = "running", body.get("waits_for", ""), body.get("agent_id", "")
    step.gate = body.get("gate", "")
    step.started_at, step.finished_at = at, None


def _gate_decided(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    step.decided = decided(body)
    if body.get("waits_for"):
        step.reason = body["waits_for"]


def _step_progressed(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    step.percent, step.message = body.get("percent", 0), body.get("message", "")


def _step_logged(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    lines = body.get("lines", ())
    step.tail.extend(lines[-STEP_TAIL:])
    run.tail.extend((step, line) for line in lines[-RUN_TAIL:])


def _step_output(run: RunState, body: Body, at: float) -> None:
    run.step(body).outputs[body["output"]] = body.get("value")


def _attempt_completed(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    step.exit_code = body.get("exit_code", 0)
    if not body.get("final", True):
        step.status = "pending"
        step.reason = f"attempt {body.get('attempt', '?')} failed: {failure(body)}"
        step.retry_at = _later(body, at)


def _step_completed(run: RunState, body: Body, at: float) -> None:
    step = run.step(body)
    step.status, step.exit_code, step.finished_at = body["status"], body.get("exit_code", 0), at
    step.retry_at = None
    step.reason = failure(body) if step.status in BAD else body.get("error") or body.get("reason", "")
    if step.status == "succeeded":
        step.reason = step.reason or step.decided
    step.outputs = dict(body.get("outputs") or step.outputs)
    step.started_at = _begun(step.started_at, body, at)


_CHANGES: dict[str, Callable[[RunState, Body, float], None]] = {
    entries.RUN_CREATED: _run_created,
    entries.RUN_STARTED: _run_started,
    entries.RUN_EXTENDED: _run_created,
    entries.RUN_PAUSED: _run_paused,
    entries.RUN_RESUMED: _run_resumed,
    entries.GATE_DECIDED: _gate_decided,
    entries.RUN_CANCELLING: _run_cancelling,
    entries.RUN_COMPLETED: _run_completed,
    entries.JOB_STARTED: _job_started,
    entries.JOB_RESTARTED: _job_restarted,
    entries.JOB_COMPLETED: _job_completed,
    entries.STEP_QUEUED: _step_queued,
    entries.STEP_WAITING: _step_waiting,
    entries.STEP_STARTED: _step_started,
    entries.STEP_PROGRESSED: _step_progressed,
    entries.STEP_LOGGED: _step_logged,
    entries.STEP_OUTPUT: _step_output,
    entries.ATTEMPT_COMPLETED: _attempt_completed,
    entries.STEP_COMPLETED: _step_completed,
}


def _later(body: Body, at: float) -> float | None:
    """Time of the next attempt, if it is delayed."""
    again = float(body.get("retry_at") or 0) / 1000
    return again if again > at else None


def _begun(known: float | None, body: Body, at: float) -> float | None:
    """Start time, for a viewer that joined later."""
    if known is not None or not body.get("duration"):
        return known
    return float(at - body["duration"] / 1000)


def failure(body: Body) -> str:
    """Short reason of a failure; the exit code only if there is nothing else."""
    said = [str(body[key]) for key in ("error", "reason") if body.get(key)]
    telling = [each for each in said if each not in _LITTLE]
    code = [f"exit code {body['exit_code']}"] if body.get("exit_code") else []
    why = [*telling, *code, *said, words(body.get("status", "failed"))][0]
    return without_status(body.get("status", "failed"), why)


def without_status(status: str, reason: str) -> str:
    """A reason without the prefix ``cancelled`` of agents, which repeats the status."""
    return reason.removeprefix("cancelled: ") if status in ("cancelled", "timed_out") else reason


def from_view(view: Mapping[str, Any]) -> RunState:
    """Build the state from ``GET /workflow-runs/{id}``."""
    run = RunState(view["id"], view["name"], view["status"], view["reason"])
    run.started_at, run.finished_at = moment(view["started_at"]), moment(view["finished_at"])
    run.paused = bool(view.get("paused_at")) and not run.over
    for job in view["jobs"]:
        shown = JobState(job["id"], job["name"], job["status"], job["reason"])
        shown.started_at, shown.finished_at = moment(job["started_at"]), moment(job["finished_at"])
        shown.waiting_for, shown.stopping = job.get("waiting_for"), job.get("stopping") or ""
        shown.steps = {step["id"]: _step_of_view(shown.name, step) for step in job["steps"]}
        run.jobs[job["id"]] = shown
    return run


def _step_of_view(job: str, view: Mapping[str, Any]) -> StepState:
    step = StepState(view["id"], job, view["name"], view["status"], view["reason"])
    step.kept, step.outputs = view.get("kept", False), dict(view["outputs"])
    step.allowed = view.get("continue_on_error", False)
    step.percent = view.get("progress") or None
    step.gate = view.get("gate") or ""
    step.started_at, step.finished_at = moment(view["started_at"]), moment(view["finished_at"])
    if view["attempts"]:
        last = view["attempts"][-1]
        step.attempt, step.agent = last.get("number", 0), last["agent_id"] or ""
        step.exit_code = last["exit_code"]
        step.started_at = moment(last["started_at"]) if "started_at" in last else step.started_at
        if step.status in BAD:
            # An earlier attempt's error is not the reason of the step's end.
            step.reason = failure({**last, "reason": step.reason, "status": step.status})
        else:
            step.reason = step.reason or last.get("error", "")
    if step.gate == HOLD and step.status == "succeeded" and "decision" in step.outputs:
        step.reason = decided(step.outputs)
    return step
