"""Which jobs and steps of a run would run, and which would be skipped, if everything that starts succeeds; pure.

Conditions that use what only a run knows (outputs and statuses of jobs, ids, who started it) are reported as such,
and taken as true for what comes after them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pilothouse.engine.contexts import wanted
from pilothouse.engine.decisions import FinishJob, FinishStep, OpenGate, QueueStep
from pilothouse.engine.graph import Job as JobSpec
from pilothouse.engine.model import SETTLE_STEPS, Job, Run, Status, Step
from pilothouse.engine.order import levels
from pilothouse.engine.plan import decide_job
from pilothouse.expressions import ExpressionError, compile_condition

Outcome = Literal["success", "failure", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("success", "failure", "cancelled")

_KNOWN = {
    "run": frozenset({"name", "kind", "trigger", "branch", "commit", "tag"}),
    "job": frozenset({"name", "round"}),
    "step": frozenset({"name", "attempt"}),
}
"""By root, what is known before a run; of ``variables`` and ``env`` everything is, of other roots nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job or step would run if all before it succeeds: ``run``, ``skip``, ``fail`` (its condition cannot be
    evaluated) or ``depends`` (on the run).

    ``reason``: why it is skipped or fails, or what it depends on. ``after``: the outcomes of what comes before it
    after which its condition is true; empty for ``depends``.
    """

    word: Literal["run", "skip", "fail", "depends"]
    reason: str = ""
    after: tuple[Outcome, ...] = ()


class Planned:
    """Carries a run out with the planner of the engine: everything that starts succeeds at once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.jobs: dict[str, Verdict] = {}
        self.steps: dict[tuple[str, str], Verdict] = {}
        self.levels = levels({job.name: job.spec.depends_on for job in run.jobs})
        whens = {job.name: job.spec.when for job in run.jobs}
        for name in (name for level in self.levels for name in level):
            job = run.job(name)
            job.spec = _without_unknown(job)
            self._plan(job, whens[name])

    def _plan(self, job: Job, when: str) -> None:
        found, status = self._of_job(job, when)
        self.jobs[job.name] = found
        if status.over and not found.after:
            self._run.move(job, status)
            return
        self._run.move(job, Status.RUNNING)  # also one that only runs after a failure, to see its steps
        while not job.status.over:
            self._run.condition_steps = SETTLE_STEPS  # of each settle of a real run
            for decision in decide_job(self._run, job, 0):
                match decision:
                    case FinishJob():
                        self._run.move(job, status if status.over else decision.status)
                    case QueueStep(step=step) | OpenGate(step=step):
                        self._keep(job, step, Status.SUCCEEDED, "")
                    case FinishStep(step=step, status=end, reason=reason):
                        self._keep(job, step, end, reason)
                    case _:
                        raise AssertionError(f"not expected where all succeeds: {decision}")

    def _of_job(self, job: Job, when: str) -> tuple[Verdict, Status]:
        """What the planner decides on its start, and what its dependencies mean for that; with the status then."""
        self._run.condition_steps = SETTLE_STEPS
        after = _after(when, self._run, job)
        (decision,) = decide_job(self._run, job, 0)
        if isinstance(decision, FinishJob):
            # What it depends on never succeeds here.
            skipped = any(self._run.job(name).status is Status.SKIPPED for name in job.spec.depends_on)
            after = tuple(outcome for outcome in after if outcome != "success" or not skipped)
            return _left_out(decision.status, decision.reason, after), decision.status
        if unknown := _of_run_time(when):
            return Verdict("depends", unknown), Status.RUNNING
        unsure = [name for name in job.spec.depends_on if self.jobs[name].word == "depends"]
        if unsure and not wanted(when, "skipped", self._run, job):
            return Verdict("depends", f"whether {unsure[0]} runs"), Status.RUNNING
        return Verdict("run", "", after), Status.RUNNING

    def _keep(self, job: Job, step: Step, status: Status, reason: str) -> None:
        """End a step, and keep what was decided on it."""
        when = self._run.graph.jobs[job.index].steps[step.index].when
        after = _after(when, self._run, job, step)
        if reason:
            found = _left_out(status, reason, after)
        elif unknown := _of_run_time(when):
            found = Verdict("depends", unknown)
        else:
            found = Verdict("run", "", after)
        self.steps[job.name, step.name] = found
        job.move(step, status)


def _left_out(status: Status, reason: str, after: tuple[Outcome, ...]) -> Verdict:
    return Verdict("fail" if status.bad else "skip", reason, after)


def _after(when: str, run: Run, job: Job, step: Step | None = None) -> tuple[Outcome, ...]:
    """The outcomes after which a condition is true; none for one that cannot be evaluated."""
    found = []
    for outcome in OUTCOMES:
        run.condition_steps = SETTLE_STEPS
        try:
            if wanted(when, outcome, run, job, step):
                found.append(outcome)
        except ExpressionError:
            continue
    return tuple(found)


def _without_unknown(job: Job) -> JobSpec:
    """The job, with conditions that are true where only a run knows whether they are."""
    steps = tuple(replace(step, when="") if _of_run_time(step.when) else step for step in job.spec.steps)
    return replace(job.spec, steps=steps, when="" if _of_run_time(job.spec.when) else job.spec.when)


def _of_run_time(when: str) -> str:
    """What a condition uses that only a run knows, ``jobs.build``; empty if nothing."""
    if not when.strip():
        return ""
    try:
        expression = compile_condition(when)
    except ExpressionError:
        return ""
    for reference in expression.references:
        if reference.root in ("variables", "env"):
            continue
        if reference.key not in _KNOWN.get(reference.root, ()):
            return f"{reference.root}.{reference.key}" if reference.key else reference.root
    return ""
