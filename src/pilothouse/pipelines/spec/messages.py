"""The messages of a spec and their fields: the one list from which specs are read and the JSON Schema is made.

``pipeline.v1.Spec`` in arcentra-wire.txt; what is ours there is named in decisions.md. The texts are the rows of
docs/pipelines.md; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilothouse.pipelines.spec import model, notify_fields, trigger_fields
from pilothouse.pipelines.spec.fields import Field, Message
from pilothouse.wire.bounds import MAX_APPROVALS, MAX_APPROVERS

MAX_JOBS = 1000
MAX_STEPS = 1000
MAX_CHECKOUT_DEPTH = 2**31 - 1  # what the gRPC message holds
SOURCES = ("", "git")
_REFERENCE = r'\s*\$\{\{\s*secrets(?:\.[A-Za-z_][A-Za-z0-9_]*|\["[A-Za-z0-9_.-]+"\])\s*\}\}\s*'
_EXPECTED_REFERENCE = "a secret, ${{ secrets.NAME }}"
RUNTIMES = ("", "process")
APPROVAL_TYPES = ("", "manual")
APPROVER_ROLES = ("admin", "operator", "user")
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_ON_LOST = ("fail", "rerun")
_JOB_NAME = "up to 63 letters, digits, _ . or -, the first a letter or a digit"
_STEP_NAME = "up to 63 letters, digits, spaces, _ . or -, the first a letter or a digit"

_SPEC = (
    Field("namespace", "text", "kept"),
    Field("version", "text", "kept"),
    Field(
        "variables",
        "text_map",
        "map of name to string, for `${{ variables.name }}`; a run can override and add variables (at "
        "most 200, of 256 Ki characters together)",
    ),
    Field("runtime", "message", "the environment of all jobs: [Runtime](#runtime)", of="Runtime"),
    Field("meta", "struct", "anything; kept"),
    Field(
        "jobs", "messages", "the [jobs](#job); at least one. Required", of="Job", required=True, most=MAX_JOBS
    ),
    Field(
        "triggers",
        "messages",
        "a list of [Trigger](#trigger), at most 20: what starts runs of the saved spec",
        of="Trigger",
        most=trigger_fields.MAX_TRIGGERS,
    ),
    Field(
        "checkout",
        "message",
        "which parts of the repository the workspace has: [CheckoutOptions](#checkoutoptions)",
        of="CheckoutOptions",
    ),
    Field(
        "concurrency",
        "message",
        "how many runs go on at once: [Concurrency](#concurrency)",
        of="Concurrency",
    ),
    Field("notify", "message", "whom to tell how a run has ended: a [Notify](#notify)", of="Notify"),
)

_CONCURRENCY = (
    Field(
        "group",
        "text",
        "the name of a [concurrency group](#concurrency-groups) of the project; can contain expressions with "
        "`variables` and `run`. Required",
        required=True,
        expected="a name such as deploy-${{ run.branch }}",
        rendered=True,
    ),
    Field("cancelInProgress", "boolean", "`true`: a new run cancels the one that is running"),
)

_CHECKOUT = (
    Field(
        "depth",
        "integer",
        "number of commits of the history, from `HEAD`; `0`: all. Default 1",
        default=1,
        most=MAX_CHECKOUT_DEPTH,
    ),
    Field("tags", "boolean", "`true`: include the tags of the repository"),
    Field("submodules", "boolean", "`true`: include the files of submodules"),
    Field(
        "lfs",
        "boolean",
        "`true`: the contents of Git LFS files; otherwise the pointer files",
    ),
)

_JOB = (
    Field(
        "name",
        "text",
        "unique; up to 63 letters, digits, `_`, `.`, `-`, the first a letter or digit. Required",
        required=True,
        expected=_JOB_NAME,
        pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}",
    ),
    Field("description", "text", "kept"),
    Field("env", "env", "[environment variables](#environment-variables) of all its steps"),
    Field(
        "concurrency",
        "text",
        "the name of a [concurrency group](#concurrency-groups) of jobs of the project; can contain expressions "
        "with `variables` and `run`",
        rendered=True,
    ),
    Field(
        "timeout",
        "duration",
        "a [duration](#durations) for the whole job including its retries, from the start of its first "
        "step on an agent",
    ),
    Field(
        "retry",
        "message",
        "a [Retry](#retry) of the job from its first step, in a fresh workspace",
        of="Retry",
    ),
    Field("when", "condition", "a [condition](#conditions); default: all dependencies succeeded"),
    Field(
        "source",
        "message",
        "a [Source](#source): the git repository that its workspace is a work tree of, in place of the run's",
        of="Source",
    ),
    Field(
        "approval",
        "message",
        "an [Approval](#approval): who has to agree before its first step",
        of="Approval",
    ),
    Field(
        "steps",
        "messages",
        "the [steps](#step), in order. Required, unless an `approval` is",
        of="Step",
        required=True,
        most=MAX_STEPS,
    ),
    Field(
        "target", "message", "what the job deploys to: a [Target](#target), which its steps know", of="Target"
    ),
    Field("notify", "message", "whom to tell how the job has ended: a [Notify](#notify)", of="Notify"),
    Field("triggers", "messages", "a list of [Trigger](#trigger); warned of", of="Trigger"),
    Field("dependsOn", "texts", "list of jobs that must end before this one starts; no cycles"),
    Field(
        "onLost",
        "choice",
        "`fail` (default) or `rerun` (from its first step) when [its agent is lost](#retries-and-lost-"
        "agents)",
        options=_ON_LOST,
        default="fail",
    ),
    Field(
        "queueTimeout",
        "duration",
        "a [duration](#durations): how long the job may wait for its first step to start on an agent; "
        "default: no limit",
    ),
)

_STEP = (
    Field(
        "name",
        "text",
        "unique in its job; like a job's name, also with spaces. Required",
        required=True,
        expected=_STEP_NAME,
        pattern=r"[A-Za-z0-9][A-Za-z0-9_. -]{0,62}",
    ),
    Field(
        "run",
        "text",
        "a shell command, or several lines of commands: short for `uses: shell` with `args.command`. A "
        "step has either `run` or `uses`",
    ),
    Field(
        "uses",
        "text",
        "`shell`, `scm`, `artifacts`, `reports`, `http`, `approval`, `window`, `pipeline` or `dummy`: see "
        "[Actions](#actions). Required without `run`",
    ),
    Field("action", "text", "the action; default: the one that has the given arguments"),
    Field("args", "struct", "the action's arguments; strings can contain expressions"),
    Field("env", "env", "[environment variables](#environment-variables), in addition to those of the job"),
    Field("continueOnError", "boolean", "`true`: its failure does not fail the job"),
    Field("timeout", "duration", "a [duration](#durations) for one attempt"),
    Field("when", "condition", "a [condition](#conditions); default: no earlier step of the job failed"),
    Field(
        "agentSelector",
        "message",
        "an [AgentSelector](#agentselector): which agents can run it",
        of="AgentSelector",
    ),
    Field("runOnAgent", "boolean", "kept: in this release every step runs on an agent"),
    Field(
        "onLost",
        "choice",
        "`fail` or `rerun`, for this step; default: that of the job",
        options=_ON_LOST,
    ),
    Field("retry", "message", "a [Retry](#retry) of this step, in the same workspace", of="Retry"),
    Field(
        "background",
        "boolean",
        "`true`: later steps do not wait for it; it runs until its job ends",
    ),
)

_RETRY = (
    Field(
        "maxAttempts",
        "integer",
        "total number of attempts, 1 to 100; 1: no retry. Required",
        required=True,
        least=1,
        most=100,
    ),
    Field(
        "delay",
        "duration",
        "a [duration](#durations) before each further attempt; default: none",
        zero=True,
    ),
)

_AGENT_SELECTOR = (
    Field("matchLabels", "text_map", "label: value; all must be equal"),
    Field(
        "matchExpressions",
        "messages",
        "a list of [LabelExpression](#labelexpression); all must hold",
        of="LabelExpression",
    ),
)

_LABEL_EXPRESSION = (
    Field("key", "text", "name of a label. Required", required=True, expected="the name of a label"),
    Field(
        "operator",
        "choice",
        "`In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`. Required",
        required=True,
        expected="one of " + ", ".join(OPERATORS),
        options=OPERATORS,
        default="Exists",
    ),
    Field(
        "values",
        "texts",
        "for `In`, `NotIn`: at least one; for `Gt`, `Lt`: one integer; otherwise none",
    ),
)

_RUNTIME = (
    Field("type", "text", "`process` (default); anything else is refused", offered=RUNTIMES),
    Field("image", "text", "refused: steps run as processes of the agent", offered=("",)),
    Field("env", "env", "[environment variables](#environment-variables) of all steps of all jobs"),
    Field("resources", "message", "[Resources](#resources); warned of", of="Resources"),
    Field("config", "struct", "anything; warned of"),
)

_RESOURCES = (
    Field("cpuRequest", "text", "kept"),
    Field("cpuLimit", "text", "kept"),
    Field("memoryRequest", "text", "kept"),
    Field("memoryLimit", "text", "kept"),
)

_SOURCE = (
    Field("type", "text", "`git` (default); anything else is refused", offered=SOURCES),
    Field(
        "repo",
        "text",
        "the address of the repository, https or ssh, as in [git.md](git.md). Required",
        required=True,
        expected="an address such as https://git.example/team/tools.git",
    ),
    Field("branch", "text", "the branch whose head is checked out; default: the repository's default branch"),
    Field(
        "auth", "message", "[SourceAuth](#sourceauth), for a repository that is not public", of="SourceAuth"
    ),
)

_SOURCE_AUTH = (
    Field("username", "text", "the user name for https; not needed with most tokens"),
    Field(
        "password",
        "text",
        "as `token`, which goes before",
        expected=_EXPECTED_REFERENCE,
        pattern=_REFERENCE,
        rendered=True,
        private=True,
    ),
    Field(
        "token",
        "text",
        "a secret of the project and nothing else, `${{ secrets.NAME }}`: a token or a password, for ssh a "
        "private key",
        expected=_EXPECTED_REFERENCE,
        pattern=_REFERENCE,
        rendered=True,
        private=True,
    ),
)

_APPROVAL = (
    Field("required", "boolean", "`true`: the job waits for approval; otherwise the other fields are kept"),
    Field("type", "text", "`manual` (default); anything else is refused"),
    Field("plugin", "text", "refused: whoever approves has a user here"),
    Field("params", "struct", "[ApprovalParams](#approvalparams)"),
)

_APPROVAL_PARAMS = (
    Field(
        "count",
        "integer",
        f"how many users have to approve, 1 to {MAX_APPROVALS}. Default 1",
        default=1,
        least=1,
        most=MAX_APPROVALS,
    ),
    Field(
        "roles",
        "texts",
        "roles that may approve: `admin`, `operator`, `user`; default, without `users`: `admin` and `operator`",
        options=APPROVER_ROLES,
        most=MAX_APPROVERS,
    ),
    Field("users", "texts", "names of users that may approve", most=MAX_APPROVERS, rendered=True),
    Field("message", "text", "what is asked; can contain expressions", rendered=True),
    Field("timeout", "duration", "a [duration](#durations) after which it expires; default: no limit"),
)

_TARGET = (
    Field("type", "text", "in the steps' environment as `PILOT_TARGET_TYPE`"),
    Field("config", "struct", "anything; in the steps' environment as `PILOT_TARGET`, in JSON"),
)

MESSAGES: Mapping[str, Message] = {
    message.name: message
    for message in (
        Message("Spec", "the spec", model.Spec, _SPEC),
        Message("CheckoutOptions", "the checkout", model.CheckoutOptions, _CHECKOUT),
        Message("Job", "the job", model.Job, _JOB),
        Message("Step", "the step", model.Step, _STEP),
        Message("Retry", "the retry", model.Retry, _RETRY),
        Message("AgentSelector", "the agent selector", model.AgentSelector, _AGENT_SELECTOR),
        Message("LabelExpression", "the label expression", model.LabelExpression, _LABEL_EXPRESSION),
        Message("Runtime", "the runtime", model.Runtime, _RUNTIME),
        Message("Resources", "the resources", model.Resources, _RESOURCES),
        Message("Concurrency", "the concurrency", model.Concurrency, _CONCURRENCY),
        Message("Trigger", "the trigger", model.Trigger, trigger_fields.TRIGGER),
        Message("ManualOptions", "the manual trigger", dict, trigger_fields.MANUAL_OPTIONS),
        Message("Input", "the input", dict, trigger_fields.INPUT),
        Message("CronOptions", "the cron trigger", dict, trigger_fields.CRON_OPTIONS),
        Message("EventOptions", "the event trigger", dict, trigger_fields.EVENT_OPTIONS),
        Message("Source", "the source", model.Source, _SOURCE),
        Message("SourceAuth", "the source's auth", model.SourceAuth, _SOURCE_AUTH),
        Message("Approval", "the approval", model.Approval, _APPROVAL),
        Message("ApprovalParams", "the approval", dict, _APPROVAL_PARAMS),
        Message("Target", "the target", model.Target, _TARGET),
        Message("Notify", "the notify", model.Notify, notify_fields.NOTIFY),
        Message("NotifyItem", "the notification", model.NotifyItem, notify_fields.NOTIFY_ITEM),
        Message("WebhookParams", "the webhook", dict, notify_fields.WEBHOOK_PARAMS),
        Message("EmailParams", "the e-mail", dict, notify_fields.EMAIL_PARAMS),
        Message("ChatParams", "the chat message", dict, notify_fields.CHAT_PARAMS),
    )
}
