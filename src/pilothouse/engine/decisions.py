"""The decisions of the planner, which the transitions apply."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine.model import Job, Status, Step


@dataclass(frozen=True, slots=True)
class StartRun:
    """The run starts."""


@dataclass(frozen=True, slots=True)
class FinishRun:
    """All jobs are over: the run ends."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class StartJob:
    """The job starts: its dependencies are over and its condition is true."""

    job: Job


@dataclass(frozen=True, slots=True)
class FinishJob:
    """The job ends, together with its remaining steps."""

    job: Job
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUpWaiting:
    """The job ends as timed out, since its first step has not started within its ``queueTimeout``."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class KeepJob:
    """The job continues although its run was cancelled, since it is part of the cleanup."""

    job: Job


@dataclass(frozen=True, slots=True)
class StopJob:
    """From now on only cleanup steps of the job run; then it ends with ``status``."""

    job: Job
    status: Status


@dataclass(frozen=True, slots=True)
class RestartJob:
    """The job restarts from its first step, in a fresh workspace, after ``delay`` ms."""

    job: Job
    reason: str
    delay: int


@dataclass(frozen=True, slots=True)
class QueueStep:
    """The step's next attempt enters the queue."""

    job: Job
    step: Step


@dataclass(frozen=True, slots=True)
class OpenGate:
    """The next step is a gate, which is opened."""

    job: Job
    step: Step


@dataclass(frozen=True, slots=True)
class CheckGate:
    """The deadline of an open gate has passed."""

    job: Job
    step: Step


@dataclass(frozen=True, slots=True)
class FinishStep:
    """The step ends without (another) attempt."""

    job: Job
    step: Step
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """The step's current attempt is to be stopped; the agent reports its end."""

    job: Job
    step: Step
    status: Status
    reason: str


Decision = (
    StartRun
    | FinishRun
    | StartJob
    | FinishJob
    | GiveUpWaiting
    | KeepJob
    | StopJob
    | RestartJob
    | QueueStep
    | OpenGate
    | CheckGate
    | FinishStep
    | StopAttempt
)
