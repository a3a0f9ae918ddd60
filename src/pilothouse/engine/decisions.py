"""What the planner may decide; the transitions apply it."""

from __future__ import annotations

from dataclasses import dataclass

from pilothouse.engine.model import Job, Status, Step


@dataclass(frozen=True, slots=True)
class StartRun:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Nothing is left to do."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class StartJob:
    """All it depends on is over, and its condition holds."""

    job: Job


@dataclass(frozen=True, slots=True)
class FinishJob:
    """The job ends; its remaining steps with it."""

    job: Job
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUpWaiting:
    """The job ends timed out, since its first step has not started within its ``queueTimeout``."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class KeepJob:
    """The run is cancelled, and this job goes on: its ``when`` says that it cleans up."""

    job: Job


@dataclass(frozen=True, slots=True)
class StopJob:
    """From here on only those steps of the job run that clean up; then it ends with ``status``."""

    job: Job
    status: Status


@dataclass(frozen=True, slots=True)
class RestartJob:
    """The job begins again from its first step, in a fresh workspace, after ``delay`` ms."""

    job: Job
    reason: str
    delay: int


@dataclass(frozen=True, slots=True)
class QueueStep:
    """The step's next attempt may be handed out."""

    job: Job
    step: Step


@dataclass(frozen=True, slots=True)
class OpenGate:
    """The step is a gate, and it is its turn."""

    job: Job
    step: Step


@dataclass(frozen=True, slots=True)
class CheckGate:
    """The deadline of an open gate has come."""

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
    """The step's running attempt is to be stopped; the agent reports when it is."""

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
