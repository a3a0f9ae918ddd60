"""Types of the server's answers, as far as this client uses them (decisions.md, native routes).

The values are the server's complete JSON objects, including keys that a newer server adds.
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
    tag: str
    dirty: bool
    rerun_of: str | None
    parent_gate: str | None
    paused_at: str | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    duration: float | None


class GateView(TypedDict):
    """A gate of a run; ``decidable``: the caller may approve or reject it."""

    id: str
    run_id: str
    project: str
    kind: str
    status: str
    message: str
    roles: list[str]
    users: list[str]
    child_run: str | None
    decidable: bool
    opened_at: str
    deadline: str | None
    closed_at: str | None
    decided_by: str | None
    comment: str


class AttemptView(TypedDict):
    """One attempt of a step; ``lines`` counts its log lines; ``earlier_run``: it belongs to the run that this
    one repeats."""

    step_run_id: str
    number: int
    status: str
    exit_code: int
    error: str
    reason: str
    agent_id: str | None
    lines: int
    earlier_run: bool
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
    continue_on_error: bool
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


class LogChunk(TypedDict, total=False):
    """Up to 200 lines of one attempt, stored at ``time`` (ms); ``stderr`` are indices into ``lines``.

    ``message`` instead of lines: some lines are missing. The last chunk has only ``cursor`` and ``status``.
    """

    job: str
    step: str
    step_run_id: str
    attempt: int
    time: int
    first: int
    lines: list[str]
    stderr: list[int]
    message: str
    cursor: str
    status: str


class Capacity(TypedDict):
    """``busy`` of ``slots`` are in use."""

    max_sessions: int
    current_sessions: int
    slots: int
    busy: int


class Origin(TypedDict):
    """The registration token that an agent registered with."""

    token_id: str
    description: str
    created_by: str


class Agent(TypedDict):
    """An agent; ``agent_id`` is its name.

    ``projects``: ids of the projects whose work it gets, null for all; ``allowed_labels``: null for any.
    """

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
    projects: NotRequired[list[str] | None]
    allowed_labels: NotRequired[list[str] | None]
    ephemeral: NotRequired[bool]
    registered_by: NotRequired[Origin | None]


class Token(TypedDict):
    """An API token; ``role`` null: that of its user."""

    id: str
    name: str
    user: str
    role: str | None
    created_at: str
    expires_at: str | None
    last_used_at: NotRequired[str | None]


class LoginSession(TypedDict):
    """A login; ``current``: the one of the request."""

    id: str
    user: str
    current: bool
    created_at: str
    last_used_at: str | None
    expires_at: str
    address: str
    user_agent: str


class NewToken(Token):
    """A new token: ``token`` is its secret, which is only returned once."""

    token: str


class RegistrationToken(TypedDict):
    """A registration token of agents; ``projects`` are ids."""

    id: str
    description: str
    max_uses: int | None
    uses: int
    agents: NotRequired[list[str]]
    projects: NotRequired[list[str] | None]
    labels: NotRequired[list[str] | None]
    expires_at: str | None
    revoked: bool
    created_by: str
    created_at: str


class NewRegistrationToken(TypedDict):
    """A new registration token: ``token`` is only returned once."""

    id: str
    token: str
    expires_at: str | None


class User(TypedDict):
    """A user."""

    id: str
    username: str
    email: str
    role: str
    active: NotRequired[bool]
    created_at: str
    last_login: NotRequired[str | None]


class TokenInUse(TypedDict):
    """The token of a request; ``role``: its effective role."""

    id: str
    role: str
    expires_at: str | None


class Me(User):
    """The current user; ``projects`` are ids."""

    projects: list[str]
    token: TokenInUse


class Login(TypedDict):
    """The answer to a login."""

    token: str
    user: User
    expires_at: str


class Member(TypedDict):
    """A member of a project."""

    userId: str
    username: str


class Project(TypedDict):
    """A project; times in Unix seconds."""

    projectId: str
    name: str
    description: str
    isDefault: bool
    members: list[Member]
    createdAt: int
    updatedAt: int


class Pipeline(TypedDict):
    """A pipeline; ``lastCommitSha`` is empty if no spec was saved; times in Unix seconds."""

    pipelineId: str
    projectId: str
    name: str
    description: str
    lastCommitSha: str
    repository: str
    metadata: dict[str, str]
    defaultBranch: str
    pipelineFilePath: str
    lastEditor: str
    createdBy: str
    totalRuns: int
    successRuns: int
    failedRuns: int
    isEnabled: int
    status: int
    createdAt: int
    updatedAt: int


class SavedSpec(TypedDict):
    """The saved spec: its source ``text`` and its hash."""

    text: str
    headCommitSha: str


class Validation(TypedDict):
    """The result of checking a valid spec, with warnings.

    ``warnings``: one line each, ``file:line:column: warning: …``; ``warningDetails``: the same warnings as
    objects.
    """

    jobsCount: int
    warnings: list[str]
    warningDetails: list[Any]


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


class KnownCheckout(TypedDict):
    """A commit that the server has, to ``depth`` (0: the whole history), and its packs in order."""

    commit: str
    depth: int
    packs: list[Blob]


class CheckoutRepository(TypedDict):
    """A repository of a run's checkout; ``packs``: ids of blobs, in order."""

    key: str
    commit: str
    depth: int
    packs: list[str]
