"""What the server answers, as far as this client counts on it (decisions.md, native routes).

These are the server's own JSON objects, kept whole: keys that a newer server adds are there, too.
Times are RFC 3339 UTC unless said otherwise, durations seconds.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class RunSummary(TypedDict):
    """A run without its jobs."""

    id: str
    kind: str
    name: str
    status: str
    reason: str
    project: str
    pipeline_id: str
    trigger: str
    triggered_by: str
    branch: str
    commit_sha: str
    rerun_of: str | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    duration: float | None


class AttemptView(TypedDict):
    """One attempt of a step; ``lines`` counts its log lines."""

    step_run_id: str
    number: int
    status: str
    exit_code: int
    error: str
    reason: str
    agent_id: str | None
    lines: int
    queued_at: str | None
    started_at: str | None
    finished_at: str | None


class StepView(TypedDict):
    """A step; ``kept``: it succeeded in an earlier run and was not run again."""

    id: str
    name: str
    node: str
    uses: str
    status: str
    reason: str
    outputs: dict[str, Any]
    progress: int
    kept: bool
    started_at: str | None
    finished_at: str | None
    attempts: list[AttemptView]


class JobView(TypedDict):
    """A job with its steps."""

    id: str
    name: str
    status: str
    reason: str
    needs: list[str]
    round: int
    agent_id: str | None
    started_at: str | None
    finished_at: str | None
    steps: list[StepView]


class RunView(RunSummary):
    """A run with its jobs, steps and attempts."""

    variables: dict[str, str]
    jobs: list[JobView]


class Capacity(TypedDict):
    """``busy`` of ``slots`` hold a step now."""

    max_sessions: int
    current_sessions: int
    slots: int
    busy: int


class Agent(TypedDict):
    """An agent; ``agent_id`` is its name."""

    id: str
    agent_id: str
    platform: str
    region: str
    status: str
    degraded: NotRequired[list[str]]
    capacity: Capacity
    labels: dict[str, str]
    metadata: dict[str, str]
    last_heartbeat: str | None


class Token(TypedDict):
    """An API token; ``role`` null: that of its user."""

    id: str
    name: str
    user: str
    role: str | None
    created_at: str
    expires_at: str | None


class NewToken(Token):
    """A token just made: ``token`` is its secret, shown this once."""

    token: str


class RegistrationToken(TypedDict):
    """A registration token of agents."""

    id: str
    description: str
    expires_at: str | None


class NewRegistrationToken(TypedDict):
    """A registration token just made: ``token`` is shown this once."""

    id: str
    token: str
    expires_at: str | None


class User(TypedDict):
    """A user."""

    id: str
    username: str
    email: str
    role: str
    created_at: str


class Login(TypedDict):
    """What a password is traded for."""

    token: str
    user: User
    expires_at: str


class Project(TypedDict):
    """A project; times in Unix seconds."""

    projectId: str
    name: str
    description: str
    isDefault: bool


class Pipeline(TypedDict):
    """A pipeline; ``lastCommitSha`` is empty while no spec was saved; times in Unix seconds."""

    pipelineId: str
    projectId: str
    name: str
    description: str
    lastCommitSha: str
    totalRuns: int
    successRuns: int
    failedRuns: int
    isEnabled: int
    updatedAt: int


class Validation(TypedDict):
    """A spec that is good, and what may still be wrong with it."""

    jobsCount: int
    warnings: list[Any]


class SecretInfo(TypedDict):
    """A secret without its value; times in Unix seconds."""

    name: str
    createdBy: str
    createdAt: int
    updatedAt: int


class Blob(TypedDict):
    """An uploaded file; ``size`` in bytes."""

    id: str
    sha256: str
    size: int
