"""Checks that the entries of one run are a consistent history: each change once, in order, none missing.

Every entry that changes a status names the one before it, so that a change that was lost, doubled or told out of
order shows at the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LOST = "lost: "
_LATE = {"step.logged", "agent.event"}
"""What may still come of an attempt that its agent has not ended: it was lost, or stopped when its agent was away."""


@dataclass(frozen=True)
class Entry:
    """One row of the journal."""

    offset: int
    stream: str
    type: str
    body: dict[str, Any]

    @property
    def node(self) -> str:
        """``job/step``."""
        return f"{self.body['job']}/{self.body['step']}"


@dataclass
class _Attempt:
    node: str
    state: str = "queued"
    given_up: str = ""
    lines: int = 0
    percent: int = 0
    outputs: set[str] = field(default_factory=set)


def check_story(entries: Iterable[Entry], allowed: Mapping[str, int] | None = None) -> None:
    """``allowed``: how often each step may be started. Raises :class:`AssertionError` with what is wrong."""
    story = Story()
    for entry in entries:
        story.take(entry)
    story.end(allowed or {})


class Story:
    """What is known so far of one run."""

    def __init__(self) -> None:
        self.run = ""
        self.cancelled = False
        self.jobs: dict[str, str] = {}
        self.steps: dict[str, str] = {}
        self.attempts: dict[str, _Attempt] = {}
        self.numbers: Counter[str] = Counter()
        self.rounds: Counter[str] = Counter()
        self.starts: Counter[str] = Counter()

    def take(self, entry: Entry) -> None:
        """The next entry."""
        kind, _, what = entry.type.partition(".")
        body = entry.body
        assert self.run or entry.type == "run.created", f"it begins with {entry.type}"
        if "step_run_id" in body and entry.type != "step.queued":
            self._of_attempt(entry, self.attempts.get(body["step_run_id"]))
        elif kind == "run":
            self._of_run(what, body)
        elif kind == "job":
            self._of_job(what, body)
        elif what == "queued":
            self._queued(entry)
        else:
            assert entry.type == "step.completed", f"{entry.type} of no attempt"
            self._step(entry, "pending", body["status"])

    def end(self, allowed: Mapping[str, int]) -> None:
        """There are no more."""
        assert self.run == "over", "the run is stuck"
        assert all(state == "over" for state in self.jobs.values()), f"jobs are stuck: {dict(self.jobs)}"
        open_steps = {node for node, state in self.steps.items() if state != "over"}
        assert not open_steps, f"steps are stuck: {open_steps}"
        open_attempts = {a.node for a in self.attempts.values() if a.state != "over"}
        assert not open_attempts, f"attempts are stuck: {open_attempts}"
        for node, most in allowed.items():
            assert self.starts[node] <= most, f"{node} was started {self.starts[node]} times"

    # -- runs, jobs, steps ------------------------------------------------------------------------------

    def _of_run(self, what: str, body: Mapping[str, Any]) -> None:
        if what == "created":
            assert not self.run, "created twice"
            self.run = "pending"
            for job in body["jobs"]:
                self.jobs[job["name"]] = "pending"
                self.steps.update({f"{job['name']}/{step['name']}": "pending" for step in job["steps"]})
            return
        if what == "cancelling":
            assert self.run in ("pending", "running"), f"cancelled when {self.run}"
            assert not self.cancelled or body["force"], "cancelled twice"
            self.cancelled = True
            return
        assert what in ("started", "completed"), f"run.{what}"
        assert self.run == body["previous"], f"run.{what} after {body['previous']}, but it was {self.run}"
        self.run = "running" if what == "started" else "over"

    def _of_job(self, what: str, body: Mapping[str, Any]) -> None:
        job = body["job"]
        assert self.run != "over", f"job.{what} while the run is {self.run}"
        if what == "restarted":
            assert self.jobs[job] == "running", f"{job} restarted when {self.jobs[job]}"
            self.rounds[job] += 1
            assert body["round"] == self.rounds[job] + 1, f"{job}: round {body['round']} is not the next"
            for node in [node for node in self.steps if node.startswith(f"{job}/")]:
                assert self.steps[node] in ("pending", "over"), f"{node} is {self.steps[node]} at the restart"
                self.steps[node] = "pending"
            return
        assert what in ("started", "completed"), f"job.{what}"
        assert self.jobs[job] == body["previous"], f"job.{what}: {job} was {self.jobs[job]}"
        self.jobs[job] = "running" if what == "started" else "over"

    def _queued(self, entry: Entry) -> None:
        body, node = entry.body, entry.node
        assert self.jobs[body["job"]] == "running", f"{node} queued while its job is {self.jobs[body['job']]}"
        assert body["step_run_id"] not in self.attempts, f"{node}: an attempt's id was used twice"
        self.numbers[node] += 1
        assert body["attempt"] == self.numbers[node], f"{node}: attempt {body['attempt']} is not the next"
        self._step(entry, body["previous"], "queued")
        self.attempts[body["step_run_id"]] = _Attempt(node)

    def _step(self, entry: Entry, previous: str, now: str) -> None:
        node = entry.node
        assert self.run != "over", f"{entry.type} of {node} while the run is {self.run}"
        assert entry.body["previous"] == previous == self.steps[node], (
            f"{entry.type} of {node} after {entry.body['previous']}, but it was {self.steps[node]}"
        )
        self.steps[node] = "over" if entry.type == "step.completed" else now

    # -- attempts ---------------------------------------------------------------------------------------

    def _of_attempt(self, entry: Entry, attempt: _Attempt | None) -> None:
        if attempt is None and entry.type == "attempt.completed" and entry.body["previous"] == "pending":
            attempt = self._never_queued(entry)
        assert attempt is not None, f"{entry.type} of an attempt that was never queued"
        assert attempt.node == entry.node
        if attempt.state == "over" and entry.type != "step.completed":
            late = attempt.given_up and entry.type in _LATE
            assert late, f"{entry.type} of {entry.node} after its end: {entry.body}"
        match entry.type:
            case "step.started":
                assert attempt.state == "queued", f"{entry.node} started twice under one id"
                self._step(entry, "queued", "running")
                attempt.state = "running"
                self.starts[entry.node] += 1
            case "step.logged":
                self._logged(entry, attempt)
            case "step.progressed":
                assert attempt.percent <= entry.body["percent"] <= 100, f"{entry.node}: progress falls"
                attempt.percent = entry.body["percent"]
            case "step.output":
                name = entry.body["output"]
                assert name not in attempt.outputs, f"{entry.node}: output {name} twice"
                attempt.outputs.add(name)
            case "attempt.completed":
                self._attempt_over(entry, attempt)
            case "step.completed":
                self._step_over(entry, attempt)
            case _:
                assert entry.type in ("step.waiting", "agent.event"), f"{entry.type} of {entry.node}"

    def _never_queued(self, entry: Entry) -> _Attempt:
        """The attempt that every step has from the beginning ends with a step that is skipped or cancelled."""
        assert entry.body["status"] in ("skipped", "cancelled"), f"{entry.node}: {entry.body}"
        assert self.steps[entry.node] == "pending", f"{entry.node} is {self.steps[entry.node]}"
        self.numbers[entry.node] += 1
        attempt = self.attempts[entry.body["step_run_id"]] = _Attempt(entry.node)
        return attempt

    def _logged(self, entry: Entry, attempt: _Attempt) -> None:
        assert attempt.state != "queued", f"{entry.node}: lines before its start"
        first = entry.body["first"]
        assert first == attempt.lines + 1, f"{entry.node}: line {first} after line {attempt.lines}"
        attempt.lines += len(entry.body["lines"])

    def _attempt_over(self, entry: Entry, attempt: _Attempt) -> None:
        assert attempt.state in ("queued", "running")
        attempt.state = "over"
        if entry.body["error"].startswith(LOST) or entry.body["status"] in ("cancelled", "timed_out"):
            attempt.given_up = entry.body["status"]
        node, final = entry.node, entry.body["final"]
        standing = ("pending",) if entry.body["previous"] == "pending" else ("queued", "running")
        assert self.steps[node] in standing, f"{node}: an attempt ends when it is {self.steps[node]}"
        self.steps[node] = f"ended {self.steps[node]} {entry.body['status']}" if final else "pending"

    def _step_over(self, entry: Entry, attempt: _Attempt) -> None:
        assert attempt.state == "over", f"{entry.node} completed before its attempt"
        expected = f"ended {entry.body['previous']} {entry.body['status']}"
        assert self.steps[entry.node] == expected, f"{entry.node} completed when {self.steps[entry.node]}"
        assert self.run != "over", f"{entry.node} completed while the run is {self.run}"
        self.steps[entry.node] = "over"
