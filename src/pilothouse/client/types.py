"""Types of the REST API; made by tools/generate_types.py from the OpenAPI document, not to be edited.

The values are the server's complete JSON objects, with keys that a newer server adds.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Actor(TypedDict):
    """Who did it; ``kind``: ``user``, ``agent`` or ``system``."""

    kind: str
    id: str
    name: str


class Agent(TypedDict):
    """An agent; ``agent_id`` is its name.

    ``degraded``: what does not work on its machine; ``projects``: ids of the projects whose work it gets, null: all;
    ``allowed_labels``: those that it may have, null: any; ``ephemeral``: it is removed after it went offline.
    """

    id: str
    agent_id: str
    name: str
    platform: str
    region: str
    status: str
    draining: bool
    degraded: list[str]
    capacity: Capacity
    labels: dict[str, str]
    metadata: dict[str, Any]
    websocket_conn_id: str | None
    last_heartbeat: str | None
    uptime_seconds: int
    sessions: list[str]
    projects: list[str] | None
    allowed_labels: list[str] | None
    ephemeral: bool
    registered_by: Origin | None
    created_at: str
    updated_at: str


class AgentList(TypedDict):
    """A page of agents, by name."""

    agents: list[Agent]
    pagination: Pagination


class AgentState(TypedDict):
    """The result of draining an agent, or of giving it work again."""

    id: str
    agent_id: str
    status: str
    draining: bool
    updated_at: str


class AgentStats(TypedDict):
    """Counts and capacity over all agents."""

    total_agents: int
    online_agents: int
    offline_agents: int
    draining_agents: int
    by_platform: dict[str, int]
    total_capacity: TotalCapacity
    utilization: Utilization


class Alive(TypedDict):
    """The process runs."""

    status: str
    version: str


class AnnounceArtifact(TypedDict):
    """What an agent is going to send.

    ``file_name``: the name of the file that users get; ``files`` and ``unpacked_size``: what a ``zip`` holds;
    ``retention``: days that it is kept, 0: as long as the server allows; ``overwrite``: replace the artifact of this
    name that another step of the run has made.
    """

    name: str
    file_name: str
    format: str
    size: int
    sha256: str
    files: NotRequired[int]
    unpacked_size: NotRequired[int]
    retention: NotRequired[float]
    overwrite: NotRequired[bool]


class Artifact(TypedDict):
    """A finished artifact; ``size`` in bytes.

    ``format``: a ``zip`` of ``files`` files (``unpacked_size`` bytes together), one ``file`` as it is, or a ``link``
    to something that an agent keeps elsewhere. ``download_url``: where its content is, on this server for everything
    but a link. ``earlier_run``: it belongs to a step that this run kept from the run that it repeats.
    """

    id: str
    name: str
    file_name: str
    format: str
    size: int
    sha256: str
    files: int
    unpacked_size: int
    run_id: str
    job: str
    step: str
    step_run_id: str
    project: str
    earlier_run: bool
    download_url: str
    created_at: str
    expire_at: str | None


class ArtifactList(TypedDict):
    """The artifacts of a run or step run, by name; at most 500."""

    artifacts: list[Artifact]


class Attempt(TypedDict):
    """One attempt of a step.

    ``reason``: what it waits for; ``lines`` counts its log lines; ``earlier_run``: it belongs to the run that this
    one repeats.
    """

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


class AuditRecord(TypedDict):
    """One change: who, what, to what, when, from where; ``detail`` depends on ``action`` and has no secrets."""

    id: str
    at: str
    actor: Actor
    token_id: str | None
    action: str
    target: str
    address: str
    request_id: str
    detail: dict[str, Any]


class AuditTrail(TypedDict):
    """A page of records, newest first."""

    entries: list[AuditRecord]
    pagination: Pagination


class Blob(TypedDict):
    """An uploaded file; ``size`` in bytes, ``sha256`` in hexadecimal."""

    id: str
    sha256: str
    size: int


class Caller(TypedDict):
    """The user who asks: their projects, and the token of this request; ``role``: what the token may do."""

    userId: str
    username: str
    email: str
    role: str
    projectIds: list[str]
    tokenId: str
    expiresAt: int


class CancelRun(TypedDict):
    """``reason``: why the run is cancelled; ``force``: immediately, without cleanup steps and jobs."""

    reason: NotRequired[str]
    force: NotRequired[bool]


class Capacity(TypedDict):
    """``busy`` of ``slots`` are in use, ``blocked`` of them cannot be."""

    max_sessions: int
    current_sessions: int
    slots: int
    busy: int
    blocked: int


class ChangePassword(TypedDict):
    """The current and the new password (8 to 1024 characters)."""

    current_password: str
    new_password: str


class ChangeSettings(TypedDict):
    """Values by the names of settings; null: as at the server's start."""

    settings: dict[str, str | int | float | None]


class CheckSpec(TypedDict):
    """``variables``, where given: also check that a run with them would have what it needs, as a trigger does."""

    spec: str | dict[str, Any]
    format: NotRequired[int]
    fileName: NotRequired[str]
    pipelineId: NotRequired[str]
    variables: NotRequired[dict[str, str] | None]


class CheckText(TypedDict):
    """``projectId``: whose secrets count; empty is the default project."""

    spec: str | dict[str, Any]
    format: NotRequired[int]
    fileName: NotRequired[str]
    pipelineId: NotRequired[str]
    variables: NotRequired[dict[str, str] | None]
    projectId: NotRequired[str]


class CheckoutRepository(TypedDict):
    """One repository of a git work tree (docs/checkout.md): its ``key``, the commit, and what packs hold it."""

    key: str
    commit: NotRequired[str]
    depth: NotRequired[int]
    packs: NotRequired[list[str]]


class ComparedRun(TypedDict):
    """The tests of the run that this one is compared with."""

    tests: int
    passed: int
    failed: int
    errors: int
    skipped: int
    duration: float
    run_id: str
    finished_at: str


class CreatePipeline(TypedDict):
    """``repoUrl``: the git repository with the spec; empty: that is kept in the database. ``projectId`` empty is the
    default project.
    """

    name: str
    projectId: NotRequired[str]
    description: NotRequired[str]
    repoUrl: NotRequired[str]
    repoSecret: NotRequired[str]
    defaultBranch: NotRequired[str]
    pipelineFilePath: NotRequired[str]
    saveMode: NotRequired[int]
    prTargetBranch: NotRequired[str]
    metadata: NotRequired[dict[str, str]]
    repository: NotRequired[str]
    createdBy: NotRequired[str]


class CreateProject(TypedDict):
    """``members`` are ids or names of users; ``tenantId``: of the tenant that the project belongs to."""

    name: str
    description: NotRequired[str]
    members: NotRequired[list[str]]
    tenantId: NotRequired[str]


class CreateSecret(TypedDict):
    """A new secret; the value is never shown again. ``scopeId``: the id of the pipeline whose steps alone get it."""

    name: str
    value: str
    projectId: NotRequired[str]
    scope: NotRequired[str]
    scopeId: NotRequired[str]


class CreateTenant(TypedDict):
    """A group of projects."""

    name: str
    description: NotRequired[str]


class CreateToken(TypedDict):
    """``role`` limits the token below its user, ``projects`` (names or ids) to the things of these projects;
    ``expires_in`` is in seconds, default: never.
    """

    name: str
    role: NotRequired[str | None]
    projects: NotRequired[list[str] | None]
    expires_in: NotRequired[int | None]


class CreateUser(TypedDict):
    """A new user; ``projects`` are ids, default: the default project."""

    username: str
    password: str
    email: NotRequired[str]
    role: NotRequired[str]
    projects: NotRequired[list[str] | None]


class CreatedRegistrationToken(TypedDict):
    """A new registration token: ``token`` is its secret, shown this once (else ``secret_omitted``)."""

    id: str
    token: NotRequired[str]
    secret_omitted: NotRequired[bool]
    expires_at: str | None


class CreatedToken(TypedDict):
    """A new API token: ``token`` is its secret, shown this once; a repeated answer has ``secret_omitted`` instead."""

    id: str
    name: str
    user: str
    role: str | None
    projects: list[str] | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    token: NotRequired[str]
    secret_omitted: NotRequired[bool]


class DecideGate(TypedDict):
    """Approve or reject, and why."""

    decision: str
    comment: NotRequired[str]


class Done(TypedDict):
    """A confirmation for people."""

    message: str


class EndedLogins(TypedDict):
    """How many logins were ended."""

    ended: int


class EnvelopeError(TypedDict):
    """An error of the Arcentra families: ``code`` is the HTTP status, ``errorCode`` the stable code."""

    code: int
    errMsg: str
    path: str
    timestamp: int
    errorCode: str
    requestId: str
    details: NotRequired[dict[str, Any]]
    retry_after: NotRequired[int]


class Error(TypedDict):
    """An error. ``code`` is stable; ``error`` and ``message`` are for people.

    ``retry_after``: seconds, with ``RATE_LIMIT_EXCEEDED`` and ``CALLER_QUEUE_FULL``.
    """

    error: str
    message: str
    code: str
    details: NotRequired[dict[str, Any]]
    timestamp: str
    request_id: str
    retry_after: NotRequired[int]


FailingTest = TypedDict(
    "FailingTest",
    {
        "id": str,
        "suite": str,
        "class": str,
        "name": str,
        "message": str,
        "job": str,
        "step": str,
        "report": str,
        "kind": str,
        "details": str,
        "duration": float,
        "new": bool,
    },
)


class Fire(TypedDict):
    """One time that a trigger has fired. ``due_at``: the tick; ``cause``: the run whose event it was; ``run_id``:
    the run that it started, none for this ``reason``.
    """

    number: int
    at: str
    due_at: str | None
    cause: str | None
    run_id: str | None
    reason: str


FlakyTest = TypedDict(
    "FlakyTest",
    {
        "id": str,
        "suite": str,
        "class": str,
        "name": str,
        "message": str,
        "job": str,
        "step": str,
        "report": str,
        "reason": str,
    },
)


class Gate(TypedDict):
    """A gate; ``decidable``: the caller may approve or reject it; ``roles`` and ``users``: who may; ``count``: the
    number of approvals that it needs, each of another user; ``waits_for``: what it waits for while it is open;
    ``run_name``, ``job`` and ``step`` are empty for gates of older releases.
    """

    id: str
    run_id: str
    run_name: str
    job: str
    step: str
    project: str
    kind: str
    status: str
    message: str
    roles: list[str]
    users: list[str]
    count: int
    approvals: list[GateApproval]
    waits_for: str
    child_run: str | None
    decidable: bool
    opened_at: str
    deadline: str | None
    closed_at: str | None
    decided_by: str | None
    comment: str


class GateApproval(TypedDict):
    """An approval that counted at the last decision on the gate."""

    by: str
    at: str


class GateList(TypedDict):
    """A page of gates, most recently opened first."""

    gates: list[Gate]
    pagination: Pagination


class Job(TypedDict):
    """A job with its steps.

    ``stopping``: why its remaining steps are being skipped; ``round``: how often the job was started;
    ``begun_at``: when its first step was started on an agent; ``waiting_for``: why none has been yet.
    ``steps_omitted``: so many of its last steps are not shown, since the run is too large; the view of this job alone
    has them.
    """

    id: str
    name: str
    status: str
    reason: str
    stopping: str | None
    needs: list[str]
    round: int
    agent_id: str | None
    started_at: str | None
    begun_at: str | None
    waiting_for: str | None
    finished_at: str | None
    steps: list[Step]
    steps_omitted: NotRequired[int]


class KnownCheckout(TypedDict):
    """A commit that the server has, to ``depth`` (0: the whole history), and its packs in order."""

    commit: str
    depth: int
    packs: list[Blob]


class KnownCommits(TypedDict):
    """The commits of a repository that need not be sent again, most recently used first."""

    commits: list[KnownCheckout]


class LogChunk(TypedDict):
    """Up to 200 lines of one attempt, stored at ``time`` (Unix milliseconds); ``first``: the number of the first.

    ``stderr``: the indices in ``lines`` of lines of standard error. ``message`` instead of lines: some are missing.
    The last object of a log has only ``cursor``, from which the run can be followed, and the run's ``status``.
    """

    job: NotRequired[str]
    step: NotRequired[str]
    step_run_id: NotRequired[str]
    attempt: NotRequired[int]
    time: NotRequired[int]
    first: NotRequired[int]
    lines: NotRequired[list[str]]
    stderr: NotRequired[list[int]]
    message: NotRequired[str]
    cursor: NotRequired[str]
    status: NotRequired[str]


class LoggedInUser(TypedDict):
    """A user in the answer to a login."""

    id: str
    username: str
    email: str
    role: str
    created_at: str


class Login(TypedDict):
    """Name and password."""

    username: str
    password: str


class LoginResult(TypedDict):
    """A session: ``token`` is shown this once."""

    token: str
    user: LoggedInUser
    expires_at: str


class LoginSession(TypedDict):
    """A login of a user; ``current``: the one of this request."""

    id: str
    user: str
    current: bool
    created_at: str
    last_used_at: str | None
    expires_at: str | None
    address: str
    user_agent: str


class LoginSessionList(TypedDict):
    """A page of logins, newest first."""

    sessions: list[LoginSession]
    pagination: Pagination


class Me(TypedDict):
    """The current user, the ids of their projects, and the token of this request."""

    id: str
    username: str
    email: str
    role: str
    active: bool
    created_at: str
    updated_at: str
    last_login: str | None
    projects: list[str]
    token: TokenInUse


class Member(TypedDict):
    """A member of a project."""

    userId: str
    username: str


class MemberInfo(TypedDict):
    """A member of a project, with their role."""

    userId: str
    username: str
    role: str
    active: bool


NamedTest = TypedDict(
    "NamedTest",
    {
        "id": str,
        "suite": str,
        "class": str,
        "name": str,
        "message": str,
        "job": str,
        "step": str,
        "report": str,
    },
)


class NewRegistrationToken(TypedDict):
    """What agents may register with; ``expires_in`` in seconds.

    ``agents``: names or globs of existing agents that may be registered anew; ``projects``: names or ids of the
    only ones whose work the agents get; ``labels``: ``KEY`` or ``KEY=VALUE``, the only ones that agents may have.
    """

    description: NotRequired[str]
    max_uses: NotRequired[int | None]
    expires_in: NotRequired[int | None]
    agents: NotRequired[list[str] | None]
    projects: NotRequired[list[str] | None]
    labels: NotRequired[list[str] | None]


class NotificationDelivery(TypedDict):
    """One notification to one receiver. ``target``: where it goes, without keys and paths; ``job`` empty: about the
    run; ``responseCode``, ``reason`` and ``response`` (at most 1 KiB): of the last attempt.
    """

    deliveryId: str
    runId: str
    event: str
    job: str
    plugin: str
    target: str
    status: str
    attempts: int
    createdAt: int
    lastAttemptAt: int
    nextAttemptAt: int
    endedAt: int
    responseCode: int
    reason: str
    response: str


class Origin(TypedDict):
    """The registration token that an agent came with."""

    token_id: str
    description: str
    created_by: str


class Pagination(TypedDict):
    """Which page of a list this is (StreamSpace page, "Pagination")."""

    page: int
    limit: int
    total: int
    total_pages: int


class PatchAgent(TypedDict):
    """``draining``: no new work; ``online``: work again."""

    status: str


class Pipeline(TypedDict):
    """A pipeline with the counts of its runs; ``status``: that of its newest run; ``lastCommitSha`` empty: no spec
    was saved yet. ``metadataOmitted``: a list does not show the metadata, because it is large.
    """

    pipelineId: str
    projectId: str
    name: str
    description: str
    repoUrl: str
    repoSecret: str
    defaultBranch: str
    pipelineFilePath: str
    status: int
    saveMode: int
    prTargetBranch: str
    metadata: dict[str, str]
    metadataOmitted: NotRequired[bool]
    repository: str
    lastSyncMessage: str
    lastSyncedAt: int
    lastEditor: str
    lastCommitSha: str
    totalRuns: int
    successRuns: int
    failedRuns: int
    createdBy: str
    isEnabled: int
    createdAt: int
    updatedAt: int


class PipelineId(TypedDict):
    """The id of a pipeline that was created or deleted."""

    pipelineId: str


class PipelineRun(TypedDict):
    """A run of a pipeline; ``duration`` in milliseconds, so far if it has not ended.

    ``variablesOmitted``: a list does not show the variables, because they are large.
    """

    runId: str
    pipelineId: str
    pipelineName: str
    branch: str
    commitSha: str
    definitionCommitSha: str
    definitionPath: str
    status: int
    triggerType: int
    triggeredBy: str
    variables: dict[str, str]
    variablesOmitted: NotRequired[bool]
    totalJobs: int
    completedJobs: int
    failedJobs: int
    runningJobs: int
    startTime: int
    endTime: int
    duration: int


class Project(TypedDict):
    """A project with its members, of which a list shows the first 100; ``membersCount``: how many it has."""

    projectId: str
    name: str
    description: str
    isDefault: bool
    tenantId: str
    members: list[Member]
    membersCount: int
    createdAt: int
    updatedAt: int


class ProjectDeleted(TypedDict):
    """The project that was deleted."""

    projectId: str
    name: str


class PutSecret(TypedDict):
    """A secret's value; it is never shown again. ``scopeId``: the id of the pipeline whose steps alone get it."""

    value: str
    projectId: NotRequired[str]
    name: NotRequired[str]
    scope: NotRequired[str]
    scopeId: NotRequired[str]


class Readiness(TypedDict):
    """Whether the server can serve; ``reason``: why not."""

    status: str
    reason: NotRequired[str]


class RegistrationToken(TypedDict):
    """A registration token without its secret; ``projects`` are ids, null: all; ``max_uses`` null: no limit."""

    id: str
    description: str
    max_uses: int | None
    uses: int
    agents: list[str]
    projects: list[str] | None
    labels: list[str] | None
    expires_at: str | None
    revoked: bool
    created_by: str
    created_at: str


class RegistrationTokenList(TypedDict):
    """A page of registration tokens, newest first."""

    registration_tokens: list[RegistrationToken]
    pagination: Pagination


RerunRun = TypedDict("RerunRun", {"from": NotRequired[str]})


class ResetPassword(TypedDict):
    """8 to 1024 characters."""

    password: str


Role = str


class RoleInfo(TypedDict):
    """A role and the actions that it allows."""

    name: str
    actions: list[str]


class Run(TypedDict):
    """A run with its variables and jobs.

    ``tests``: the counts of its tests, null without a report (``getRunTests`` has more); ``artifacts``: their number.
    """

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
    cleanup_until: str | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    duration: float | None
    variables: dict[str, str]
    tests: TestCounts | None
    artifacts: int
    jobs: list[Job]


class RunList(TypedDict):
    """A page of runs, newest first."""

    runs: list[RunSummary]
    pagination: Pagination


class RunState(TypedDict):
    """A run's status after it was stopped, paused or resumed."""

    runId: str
    status: int


class RunSummary(TypedDict):
    """A run without its jobs.

    ``reason``: why it failed or waits; ``rerun_of``: the run that this one repeats; ``parent_gate``: the gate of
    the parent run; ``cleanup_until``: while it is being cancelled, when cleanup ends; ``duration`` in seconds.
    """

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
    cleanup_until: str | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    duration: float | None


class RunTests(TypedDict):
    """The tests of a run, of the last attempt of each step.

    ``compared_with``: the last run of the same pipeline and branch that ended before and has reports; ``fixed``:
    tests that failed there and passed here. At most 500 tests are listed of each kind.
    """

    summary: TestSummary
    reports: list[TestReport]
    failing: list[FailingTest]
    flaky: list[FlakyTest]
    compared_with: ComparedRun | None
    new_failures: int
    fixed: list[NamedTest]


class SaveSpec(TypedDict):
    """``expectedHeadCommitSha``: the save is refused if the current head is another."""

    spec: str | dict[str, Any]
    format: NotRequired[int]
    fileName: NotRequired[str]
    pipelineId: NotRequired[str]
    expectedHeadCommitSha: NotRequired[str]
    saveMode: NotRequired[int]
    commitMessage: NotRequired[str]
    requestId: NotRequired[str]
    editor: NotRequired[str]


class SavedSpec(TypedDict):
    """The current spec, as an object (pipeline.v1.Spec) and as its source; ``format``: pipeline.v1.SpecFormat."""

    spec: dict[str, Any]
    text: str
    format: int
    headCommitSha: str
    branch: str
    pipelineFilePath: str


class SecretDeleted(TypedDict):
    """The name of the secret that was deleted."""

    name: str


class SecretInfo(TypedDict):
    """A secret without its value, and who set it when. ``scopeId``: of its project, or its pipeline."""

    secretId: str
    name: str
    projectId: str
    scope: str
    scopeId: str
    createdBy: str
    createdAt: int
    updatedAt: int


class SecretSet(TypedDict):
    """The result of setting a secret; ``created``: there was none of this name."""

    name: str
    created: bool


class Setting(TypedDict):
    """A setting that is in force; secrets are masked. ``source``: where the value comes from, ``database``: it was
    changed over the API, by ``changedBy``.
    """

    name: str
    value: str | int | float | bool | list[str] | None
    source: str
    changeable: bool
    description: str
    changedBy: str
    changedAt: int


class SettingList(TypedDict):
    """All settings of the server, in the order of the documentation."""

    settings: list[Setting]


class SpecProblem(TypedDict):
    """A problem of a spec; ``line`` and ``column`` count from 1 (0: the spec came as an object)."""

    severity: str
    message: str
    line: int
    column: int
    expected: str
    path: str


class SpecSaved(TypedDict):
    """The new head; ``prUrl`` and ``prBranch`` are empty unless ``saveMode`` is 2."""

    commitSha: str
    branch: str
    saveMode: int
    prUrl: str
    prBranch: str


Status = str


class Step(TypedDict):
    """A step with its attempts.

    ``node``: its name in the run stream; ``gate``: the kind of gate, null for work; ``kept``: it succeeded in an
    earlier run and was not run again; ``progress`` in percent. ``outputs_omitted``, ``attempts_omitted``: the run is
    too large to show all outputs and earlier attempts; the view of this step alone has them.
    """

    id: str
    name: str
    node: str
    uses: str
    background: bool
    gate: str | None
    status: str
    reason: str
    outputs: dict[str, Any]
    outputs_omitted: NotRequired[bool]
    progress: int
    kept: bool
    continue_on_error: bool
    started_at: str | None
    finished_at: str | None
    attempts: list[Attempt]
    attempts_omitted: NotRequired[int]


class StopRun(TypedDict):
    """``reason``: why the run is stopped; ``force``: immediately, without cleanup steps and jobs."""

    reason: NotRequired[str]
    force: NotRequired[bool]
    pipelineId: NotRequired[str]
    runId: NotRequired[str]


class Tenant(TypedDict):
    """A group of projects; ``projectsCount``: how many of them the caller sees."""

    tenantId: str
    name: str
    description: str
    projectsCount: int
    createdAt: int
    updatedAt: int


class TenantDeleted(TypedDict):
    """The tenant that was deleted."""

    tenantId: str
    name: str


class TestCounts(TypedDict):
    """Numbers of tests. A test that failed and then passed in the same report has passed; ``errors`` are tests that
    could not be run to their end.
    """

    tests: int
    passed: int
    failed: int
    errors: int
    skipped: int
    duration: float


class TestReport(TypedDict):
    """One report: made of ``files``; ``problems``: files that could not be read, and why."""

    tests: int
    passed: int
    failed: int
    errors: int
    skipped: int
    duration: float
    name: str
    job: str
    step: str
    step_run_id: str
    attempt: int
    files: int
    problems: list[str]
    created_at: str


class TestSummary(TypedDict):
    """The tests of a run, with the number of flaky ones."""

    tests: int
    passed: int
    failed: int
    errors: int
    skipped: int
    duration: float
    flaky: int


class Token(TypedDict):
    """An API token without its secret; ``role`` null: that of its user; ``projects``: the ids of the only ones it is
    for, null: all of its user.
    """

    id: str
    name: str
    user: str
    role: str | None
    projects: list[str] | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class TokenInUse(TypedDict):
    """The token of this request; ``role``: what it may do, at most what its user may; ``projects``: the ids of the
    only ones it is for, null: all of its user.
    """

    id: str
    role: str
    projects: list[str] | None
    expires_at: str | None


class TokenList(TypedDict):
    """A page of API tokens, newest first."""

    tokens: list[Token]
    pagination: Pagination


class TotalCapacity(TypedDict):
    """Sessions of all agents."""

    max_sessions: int
    current_sessions: int


class Trigger(TypedDict):
    """A cron or event trigger of a saved spec. ``by``: the user whose rights its runs have; ``options`` as in the
    spec; ``reason``: why it started no run the last time.
    """

    id: str
    pipeline_id: str
    pipeline: str
    project: str
    position: int
    name: str
    type: str
    options: dict[str, Any]
    enabled: bool
    pipeline_enabled: bool
    by: str
    created_at: str
    next_at: str | None
    last_at: str | None
    last_run_id: str | None
    reason: str
    fired: int


class TriggerDetail(TypedDict):
    """A trigger with its last fires, newest first (at most 20)."""

    id: str
    pipeline_id: str
    pipeline: str
    project: str
    position: int
    name: str
    type: str
    options: dict[str, Any]
    enabled: bool
    pipeline_enabled: bool
    by: str
    created_at: str
    next_at: str | None
    last_at: str | None
    last_run_id: str | None
    reason: str
    fired: int
    fires: list[Fire]


class TriggerList(TypedDict):
    """A page of triggers, by pipeline and in the order of its spec."""

    triggers: list[Trigger]
    pagination: Pagination


class TriggerPipeline(TypedDict):
    """``spec`` and ``checkout`` (a blob's id), where given, are used for this run alone.

    ``repositories``, the top first: the checkout is a git work tree. ``dirty``: it differs from its commit.
    """

    variables: NotRequired[dict[str, str]]
    requestId: NotRequired[str]
    spec: NotRequired[str | dict[str, Any] | None]
    fileName: NotRequired[str]
    checkout: NotRequired[str]
    branch: NotRequired[str]
    commitSha: NotRequired[str]
    tag: NotRequired[str]
    dirty: NotRequired[bool]
    repositories: NotRequired[list[CheckoutRepository]]
    pipelineId: NotRequired[str]
    triggeredBy: NotRequired[str]


class TriggerStarted(TypedDict):
    """The id of the run that was started."""

    run_id: str


class Triggered(TypedDict):
    """The id of the run that was started."""

    runId: str


class UpdatePipeline(TypedDict):
    """Fields that are left out keep their values."""

    name: NotRequired[str | None]
    description: NotRequired[str | None]
    repoUrl: NotRequired[str | None]
    repoSecret: NotRequired[str | None]
    defaultBranch: NotRequired[str | None]
    pipelineFilePath: NotRequired[str | None]
    saveMode: NotRequired[int | None]
    prTargetBranch: NotRequired[str | None]
    metadata: NotRequired[dict[str, str] | None]
    isEnabled: NotRequired[int | None]
    repository: NotRequired[str | None]
    pipelineId: NotRequired[str]


class UpdateProject(TypedDict):
    """The fields to change; ``tenantId`` empty: it belongs to none."""

    name: NotRequired[str | None]
    description: NotRequired[str | None]
    tenantId: NotRequired[str | None]


class UpdateTenant(TypedDict):
    """The fields to change."""

    name: NotRequired[str | None]
    description: NotRequired[str | None]


class UpdateUser(TypedDict):
    """The fields to change."""

    email: NotRequired[str | None]
    role: NotRequired[str | None]
    active: NotRequired[bool | None]


class Upload(TypedDict):
    """An artifact that is being sent: ``url`` takes the next part, which begins at byte ``offset`` and has
    ``part_size`` bytes, or what is left. ``state`` ``ready``: it is complete, and there is no ``url``.
    """

    id: str
    state: str
    offset: int
    size: int
    part_size: int
    url: NotRequired[str]


class UploadDeleted(TypedDict):
    """The upload that was deleted."""

    uploadId: str
    name: str


class UploadInfo(TypedDict):
    """An upload. ``size`` in bytes, of which ``offset`` have arrived: the next part begins there. ``sha256`` in
    hexadecimal: of the content if it is ``complete``, else as announced, or empty. ``expiresAt``: when it is deleted
    if it does not go on, 0 if it is complete.
    """

    uploadId: str
    projectId: str
    name: str
    size: int
    offset: int
    complete: bool
    sha256: str
    createdBy: str
    createdAt: int
    completedAt: int
    expiresAt: int
    contentUrl: str


class User(TypedDict):
    """A user."""

    id: str
    username: str
    email: str
    role: str
    active: bool
    created_at: str
    updated_at: str
    last_login: str | None


class UserList(TypedDict):
    """A page of users, by name."""

    users: list[User]
    pagination: Pagination


class Utilization(TypedDict):
    """How much of the capacity for sessions is in use."""

    percentage: float
    sessions_available: int


class Validation(TypedDict):
    """A valid spec: its number of jobs, and warnings, as lines (``file:line:column: warning: …``) and as objects."""

    jobsCount: int
    warnings: list[str]
    warningDetails: list[SpecProblem]
