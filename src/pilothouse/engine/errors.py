"""Errors of the engine, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal
from pilothouse.engine.gates.counting import approvers


class EngineError(Refusal):
    """Base class of the engine's errors."""


class RunNotFound(EngineError):
    """There is no run with this id, or the caller may not see it."""

    code = "RUN_NOT_FOUND"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"No run with ID '{run_id}' exists")


class RunOver(EngineError):
    """The run has ended with this status and cannot be changed."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self, status: str) -> None:
        helper = "was" if status in ("cancelled", "skipped") else "has"
        super().__init__(f"the run {helper} {status.replace('_', ' ')} already")


class RunActive(EngineError):
    """The run has not ended yet."""

    code = "INVALID_STATE_TRANSITION"


class NothingFailed(EngineError):
    """A rerun from the failed step needs a step that failed."""

    code = "INVALID_STATE_TRANSITION"


class GroupInvalid(EngineError):
    """The name of a concurrency group cannot be worked out, or to wait in it would never end."""

    code = "CONCURRENCY_INVALID"


class GateNotFound(EngineError):
    """There is no gate with this id, or the caller may not see it."""

    code = "GATE_NOT_FOUND"

    def __init__(self, gate_id: str) -> None:
        super().__init__(f"No gate with ID '{gate_id}' exists")


class GateClosed(EngineError):
    """The gate is not open, or is not decided by users."""

    code = "GATE_CLOSED"

    def __init__(self, status: str) -> None:
        super().__init__(f"the gate is {status}")


class NotAnApprover(EngineError):
    """The caller is not among the gate's approvers."""

    code = "AUTH_INSUFFICIENT_PERMISSIONS"

    def __init__(self, roles: list[str], users: list[str]) -> None:
        super().__init__(f"this gate is decided by {approvers(roles, users)}")


class ApprovalFixed(EngineError):
    """A step that waits for an approval cannot be changed or deleted: whoever may do that need not be an approver."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self) -> None:
        super().__init__("an approval cannot be changed or deleted; cancel the run, the job or the step run")


class RunPaused(EngineError):
    """The run is already paused, or is not paused."""

    code = "INVALID_STATE_TRANSITION"


class JobEnding(EngineError):
    """The last step of the job is with an agent, which removes the workspace after it: no step can follow."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self, job: str) -> None:
        super().__init__(
            f"the last step of job '{job}' is with an agent already; add a job that depends on it"
        )


class JobOver(EngineError):
    """Steps cannot be added to a job that has ended."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self, job: str) -> None:
        super().__init__(f"job '{job}' has ended already")


class StepRunNotFound(EngineError):
    """There is no step run with this id, or the caller may not see it."""

    code = "STEP_RUN_NOT_FOUND"

    def __init__(self, step_run_id: str) -> None:
        super().__init__(f"No step run with ID '{step_run_id}' exists")


class JobNotFound(EngineError):
    """There is no job with this id, or the caller may not see it."""

    code = "JOB_NOT_FOUND"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"No job with ID '{job_id}' exists")


class StepRunOver(EngineError):
    """The step run has ended with this status and cannot be changed."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self, status: str) -> None:
        helper = "was" if status in ("cancelled", "skipped") else "has"
        super().__init__(f"the step run {helper} {status.replace('_', ' ')} already")


class JobHasWork(EngineError):
    """An agent has reported the end of a job of which other steps are still to be run."""

    code = "INVALID_STATE_TRANSITION"


class StepHandedOut(EngineError):
    """The step run is with an agent, or is an open gate, and can no longer be changed or deleted."""

    code = "INVALID_STATE_TRANSITION"

    def __init__(self) -> None:
        super().__init__("the step run was handed out already; cancel it instead")


class NotRetryable(EngineError):
    """The step run cannot be tried again."""

    code = "INVALID_STATE_TRANSITION"
