"""The state of a run as its journal entries tell it, and what may follow what.

This is the model of the engine: it knows what the entries mean, and the rules that no run may break; nothing of how
the engine decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pilothouse.engine.graph import Graph
from pilothouse.engine.graph import Job as JobSpec
from pilothouse.engine.graph import Step as StepSpec
from pilothouse.engine.model import LOST, MAX_LOST_RERUNS, MAX_UNSTARTED
from pilothouse.expressions import cleans_up
from pilothouse.journal import Entry
from pilothouse.wire import entries

OVER = frozenset({"succeeded", "failed", "cancelled", "timed_out", "skipped"})
BAD = frozenset({"failed", "timed_out"})
Body = dict[str, Any]


@dataclass
class TriedStep:
    """A step. ``failed``, ``lost`` and ``unstarted``: its attempts that ended so, in all rounds."""

    id: str
    status: str
    kept: bool
    failed: int = 0
    lost: int = 0
    unstarted: int = 0


@dataclass
class ToldJob:
    """A job. ``begins``: how often it began at its first step or, after it was reopened, at another. ``worked``: an agent has begun a step of it
    since it started."""

    status: str
    needs: list[str]
    steps: dict[str, TriedStep] = field(default_factory=dict)
    round: int = 1
    begins: int = 1
    timed_out: bool = False
    worked: bool = False


@dataclass
class ToldAttempt:
    """A step run that was queued, or opened as a gate."""

    job: str
    step: str
    status: str
    gate: bool = False
    agent: str = ""
    at: int = 0


@dataclass
class Told:
    """A run. ``graph``: gives its present graph. ``reopened``: how often it was opened again."""

    run_id: str
    graph: Callable[[], Graph]
    status: str = ""
    paused: bool = False
    cancelling: bool = False
    forced: bool = False
    until: int = 0
    reopened: int = 0
    at: int = 0
    jobs: dict[str, ToldJob] = field(default_factory=dict)
    attempts: dict[str, ToldAttempt] = field(default_factory=dict)

    # -- reading ----------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in OVER

    def spec(self, job: str) -> JobSpec:
        """The definition of a job."""
        return next(one for one in self.graph().jobs if one.name == job)

    def step_spec(self, job: str, step: str) -> StepSpec:
        """The definition of a step."""
        return next(one for one in self.spec(job).steps if one.name == step)

    def outcome(self) -> str:
        """The status of an ended run, which follows from its jobs."""
        ends = {job.status for job in self.jobs.values()}
        if self.cancelling:
            return "cancelled"
        if ends & BAD:
            return "failed"
        return "cancelled" if "cancelled" in ends else "succeeded"

    def cleans(self, job: str, step: str) -> bool:
        """Whether a step may begin after a cancel."""
        when = self.step_spec(job, step).when
        after_timeout = self.jobs[job].timed_out and "failure()" in when
        return cleans_up(self.spec(job).when) or cleans_up(when) or after_timeout

    def beside(self, attempt: ToldAttempt) -> bool:
        """Whether it is one of a background step."""
        return self.step_spec(attempt.job, attempt.step).background

    # -- applying ---------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Take in the next entry of the run's stream."""
        body, self.at = entry.body, entry.at
        if entry.type != entries.RUN_CREATED:
            assert self.status, "the first entry creates the run"
            assert not self.over or entry.type == entries.RUN_REOPENED, f"{entry.type} after the run's end"
        known = body.get("step_run_id") in self.attempts or "step_run_id" not in body
        handler = getattr(self, f"_{entry.type.replace('.', '_')}", None)
        if handler is not None:
            handler(body)
        if known or entry.type in (entries.STEP_QUEUED, entries.STEP_STARTED):
            self._check_counts(entry)

    def _check_counts(self, entry: Entry) -> None:
        """Entries say how many jobs or steps have which status."""
        body = entry.body
        if "counts" not in body:
            return
        if "job_id" not in body or entry.type == entries.RUN_REOPENED:
            assert body["counts"] == _counts([job.status for job in self.jobs.values()]), entry.type
            return
        job = self.jobs[body["job"]]
        statuses = [step.status for step in job.steps.values()]
        assert body["counts"] == _counts(statuses), (entry.type, body["counts"], statuses)
        still = [at for at, status in enumerate(statuses) if status not in OVER]
        assert body["at_step"] == (still[0] if still else max(len(statuses) - 1, 0)), entry.type
        assert body.get("job_status", job.status) == job.status
        if "run_counts" in body:
            assert body["run_counts"] == _counts([one.status for one in self.jobs.values()])
            assert body["run_status"] == self.status

    # -- the run ----------------------------------------------------------------------------------------

    def _run_created(self, body: Body) -> None:
        assert not self.status
        self.status = "pending"
        self._outline(body["jobs"])

    def _outline(self, told: list[Body]) -> None:
        for job in told:
            known = self.jobs.setdefault(job["name"], ToldJob(job["status"], job["needs"]))
            assert known.status == job["status"]
            for step in job["steps"]:
                fresh = TriedStep(step["id"], step["status"], "step_run_id" not in step)
                assert known.steps.setdefault(step["name"], fresh).status == step["status"]

    def _run_started(self, body: Body) -> None:
        assert self.status == body["previous"] == "pending"
        assert not self.paused
        self.status = "running"

    def _run_paused(self, body: Body) -> None:
        assert not self.paused
        assert not self.cancelling
        self.paused = True

    def _run_resumed(self, body: Body) -> None:
        assert self.paused
        self.paused = False

    def _run_cancelling(self, body: Body) -> None:
        assert not self.cancelling or (body["force"] and not self.forced)
        assert not self.paused, "a cancel ends a pause"
        self.cancelling, self.forced, self.until = True, body["force"], body["until"]

    def _run_extended(self, body: Body) -> None:
        self._outline(body["jobs"])

    def _run_completed(self, body: Body) -> None:
        assert body["previous"] == self.status
        assert not self.paused
        assert all(job.status in OVER for job in self.jobs.values())
        self.status = body["status"]
        assert self.status == self.outcome()

    def _run_reopened(self, body: Body) -> None:
        assert body["previous"] == self.status
        self.status, self.cancelling, self.forced, self.until = "running", False, False, 0
        self.reopened += 1
        for name in body["jobs"]:
            job = self.jobs[name]
            assert job.status in OVER
            job.status, job.timed_out, job.worked = "pending", False, False
            job.begins += 1
            self._again(name, body["from_step"] if name == body["job"] else 0)
        assert self.jobs[body["job"]].steps[body["step"]].status == "pending"

    # -- jobs -------------------------------------------------------------------------------------------

    def _job_started(self, body: Body) -> None:
        job, spec = self.jobs[body["job"]], self.spec(body["job"])
        assert job.status == body["previous"] == "pending"
        assert self.status == "running"
        assert not self.paused
        assert all(self.jobs[need].status in OVER for need in job.needs), "it starts after what it needs"
        if self.cancelling:
            self._check_cleanup(cleans_up(spec.when))
        job.status = "running"
        assert body["round"] >= job.round
        job.round = body["round"]

    def _job_restarted(self, body: Body) -> None:
        job, spec = self.jobs[body["job"]], self.spec(body["job"])
        assert job.status == "running"
        assert not self.cancelling
        assert body["round"] == job.round + 1
        job.round, job.begins = body["round"], job.begins + 1
        tries = spec.retry.max_attempts if spec.retry else 1
        assert job.begins <= (tries + MAX_LOST_RERUNS) * (1 + self.reopened)
        self._again(body["job"], body["from_step"])

    def _job_completed(self, body: Body) -> None:
        job = self.jobs[body["job"]]
        assert job.status == body["previous"]
        assert all(step.status in OVER for step in job.steps.values())
        job.status = body["status"]
        if job.status == "succeeded":
            for name, step in job.steps.items():
                forgiven = self.step_spec(body["job"], name).continue_on_error
                assert step.status in ("succeeded", "skipped") or (forgiven and step.status in BAD)

    def _again(self, name: str, first: int) -> None:
        """The steps of a job wait again: those from the first on, and all in the background."""
        for at, spec in enumerate(self.spec(name).steps):
            if at >= first or spec.background:
                self.jobs[name].steps[spec.name].status = "pending"

    # -- steps ------------------------------------------------------------------------------------------

    def _step_queued(self, body: Body) -> None:
        step = self._begin(body, "queued")
        assert not self.step_spec(body["job"], body["step"]).gate
        step.status = "queued"

    def _step_started(self, body: Body) -> None:
        id = body["step_run_id"]
        if "gate" in body:
            step = self._begin(body, "running")
            assert not self.cancelling, "no gate is opened after a cancel"
            self.attempts[id].gate = True
        else:
            attempt, step = self.attempts[id], self.jobs[body["job"]].steps[body["step"]]
            assert attempt.status == step.status == body["previous"] == "queued"
            attempt.status, attempt.agent = "running", body["agent_id"]
            assert attempt.agent
            self.jobs[body["job"]].worked = True
        step.status = "running"

    def _begin(self, body: Body, status: str) -> TriedStep:
        """The next attempt of a step: whether it may begin now."""
        name, id = body["job"], body["step_run_id"]
        job = self.jobs[name]
        step, spec = job.steps[body["step"]], self.step_spec(name, body["step"])
        assert id not in self.attempts, "each attempt has an id of its own"
        assert step.status == body["previous"] == "pending"
        assert job.status == self.status == "running"
        assert not self.paused
        assert not spec.removed
        for one in self.spec(name).steps:
            other = job.steps[one.name].status
            if one.name == spec.name:
                break
            beside = one.background and other == "running"
            assert beside or other in OVER, f"{spec.name} begins before {one.name} is over"
        busy = [a for a in self.attempts.values() if a.job == name and a.status not in OVER]
        alone = spec.background or all(map(self.beside, busy))
        assert alone, "one step of a job at a time, but for those in the background"
        if self.cancelling:
            self._check_cleanup(self.cleans(name, spec.name))
        self.attempts[id] = ToldAttempt(name, spec.name, status, at=self.at)
        return step

    def _check_cleanup(self, cleans: bool) -> None:
        assert cleans, "after a cancel only cleanup begins"
        assert not self.forced
        assert self.at < self.until

    def _attempt_completed(self, body: Body) -> None:
        id, status, name = body["step_run_id"], body["status"], body["job"]
        step = self.jobs[name].steps[body["step"]]
        attempt = self.attempts.get(id)
        if attempt is None:  # the step has ended without an attempt; step.completed follows
            assert step.status == body["previous"] == "pending"
            self.attempts[id] = ToldAttempt(name, body["step"], status)
            return
        assert attempt.status not in OVER, "an attempt ends once"
        assert attempt.status == body["previous"]
        lost = body["error"].startswith(LOST)
        started, attempt.status = attempt.status == "running", status
        step.failed += status in BAD and not lost
        step.lost += lost and started
        step.unstarted += lost and not started
        self._check_tries(name, body["step"], step)
        if not body["final"]:
            step.status = "pending"

    def _check_tries(self, name: str, step_name: str, step: TriedStep) -> None:
        job, spec = self.jobs[name], self.step_spec(name, step_name)
        tries = spec.retry.max_attempts if spec.retry else 1
        assert step.failed <= tries * job.begins
        assert step.lost <= 1 + MAX_LOST_RERUNS + self.reopened
        assert step.unstarted <= 1 + MAX_UNSTARTED + self.reopened
        if spec.on_lost != "rerun" and self.spec(name).on_lost != "rerun":
            assert step.lost <= 1 + self.reopened

    def _step_completed(self, body: Body) -> None:
        job, status = self.jobs[body["job"]], body["status"]
        step = job.steps[body["step"]]
        assert step.status not in OVER, "a step ends once"
        assert step.status == body["previous"]
        step.status = status
        job.timed_out = job.timed_out or status == "timed_out"
        attempt = self.attempts.get(body.get("step_run_id", ""))
        if attempt is not None:
            assert attempt.status == status
        if status == "succeeded":
            assert attempt is not None, "nothing succeeds without an attempt"
        busy = [a for a in self.attempts.values() if (a.job, a.step) == (body["job"], body["step"])]
        assert all(a.status in OVER for a in busy)


def _counts(statuses: list[str]) -> dict[str, int]:
    return {
        "total": len(statuses),
        "completed": sum(status in OVER for status in statuses),
        "failed": sum(status in BAD for status in statuses),
        "running": statuses.count("running"),
    }
