"""Words of other products, and what is written here instead. Data only; foreign.py looks things up.

``{text}`` stands for the value as it was written, where it is one short line, ``{list}`` for it as a list of texts;
after the ``|`` comes what is shown where the value has another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

GITHUB, GITLAB, CIRCLE, BUILDKITE = "GitHub Actions", "GitLab CI", "CircleCI", "Buildkite"
AZURE, WOODPECKER, JENKINS, TRAVIS = "Azure Pipelines", "Woodpecker", "Jenkins", "Travis CI"


class Word(NamedTuple):
    """``products``: who has the word; ``instead``: a sentence that follows a colon."""

    products: str
    instead: str


def _words(products: str, instead: str, *words: str) -> dict[str, Word]:
    return {word: Word(products, instead) for word in words}


_WHEN = "write when: {text|success()}"
_STARTED = "runs are started with `pilot pipeline run` or through the API; nothing here starts them by itself"
_NO_MATRIX = "there is no matrix: write one job or step for each combination"
_IMAGE = "steps run as processes of the agent: leave it out, and call `docker run {text|IMAGE}` in a step"
_SERVICES = "start the service in a step of its own with background: true"
_NO_CACHE = "there is no cache: the agent's own directories outlive a run, the workspace does not"
_NO_INCLUDE = "there is no counterpart: write the text here, or share it with YAML anchors"
_ARTIFACTS = "write a step: uses: artifacts, action: upload, args: {name: dist, path: dist}"
_DOWNLOAD = "write a step: uses: artifacts, action: download, args: {name: dist}"
_NO_PERMISSIONS = "there is no counterpart: a step has no token of the server; leave it out"
_SECRETS = "set it with `pilot secret set NAME`, and refer to it in env: {NAME: ${{ secrets.NAME }}}"
_AGENT = (
    "write agentSelector: {matchLabels: {os: linux}} on a step; labels are given with `pilot agent --label`"
)
_FIRST_STEP = "write a first step for it"
_LAST_STEP = "write a last step for it with when: always()"
_STEPS = "write steps: [{name: build, run: {text|make}}]"
_ONLY = 'write a condition, such as when: run.branch == "main"'
_MINUTES = "write timeout: {text|30}m"
_DIRECTORY = "write args: {workingDirectory: {text|src}} on a step"
_ORDER = "jobs are ordered by what they depend on: write dependsOn: [build] on the later ones"
_NO_GROUPS = "there is no counterpart in this release; leave it out"

_ANYWHERE = (
    _words(GITHUB, _NO_MATRIX, "strategy")
    | _words(f"{GITHUB}, {BUILDKITE} and {JENKINS}", _NO_MATRIX, "matrix")
    | _words(f"{GITLAB} and {CIRCLE}", _NO_MATRIX, "parallel", "parallelism")
    | _words(f"{GITLAB}, {CIRCLE} and {WOODPECKER}", _IMAGE, "image")
    | _words(f"{GITHUB} and {AZURE}", _IMAGE, "container")
    | _words(CIRCLE, "steps run as processes of the agent; " + _AGENT, "docker", "machine", "executor")
    | _words(f"{GITHUB}, {GITLAB} and {WOODPECKER}", _SERVICES, "services")
    | _words(f"{GITLAB} and {BUILDKITE}", _NO_CACHE, "cache")
    | _words(GITLAB, _NO_INCLUDE, "extends", "include", "inherit")
    | _words(f"{GITLAB} and {JENKINS}", _ARTIFACTS, "artifacts", "artifact_paths", "store_artifacts")
    | _words(GITHUB, _NO_PERMISSIONS, "permissions", "id_tokens")
    | _words(GITHUB, "give shell and workingDirectory in the args of each step", "defaults")
    | _words(GITLAB, "write it on each job or step that needs it", "default")
    | _words(GITHUB, _STARTED, "on", "branches", "schedule")
    | _words(f"{GITLAB}, {WOODPECKER} and {AZURE}", _STARTED, "trigger", "pr", "event")
    | _words(GITLAB, _NO_GROUPS, "interruptible", "resource_group", "coverage", "pages", "release")
    | _words(CIRCLE, _NO_GROUPS, "orbs", "parameters", "resource_class")
    | _words(f"{GITHUB} and {WOODPECKER}", _SECRETS, "secrets")
    | _words(f"{BUILDKITE} and {CIRCLE}", _NO_GROUPS, "plugins", "notify_slack")
    | _words(AZURE, _AGENT, "pool", "vmImage")
)

_SPEC = (
    _words(
        GITHUB,
        "a pipeline is named by its directory, or with `pilot pipeline run --name {text|shop}`",
        "name",
    )
    | _words(GITHUB, "runs are numbered by their ids; leave it out", "run-name", "run_name")
    | _words(GITHUB, "for all jobs, write runtime: {env: …}", "env", "environment")
    | _words(
        GITLAB, 'put a condition on each job, such as when: run.branch == "main"', "workflow", "when", "rules"
    )
    | _words(CIRCLE, _ORDER, "workflows")
    | _words(f"{GITLAB}, {AZURE} and {JENKINS}", _ORDER, "stages", "stage")
    | _words(
        f"{GITLAB} and {TRAVIS}",
        "write jobs: [{name: build, steps: [{name: build, run: {text|make}}]}]",
        "script",
    )
    | _words(GITLAB, _FIRST_STEP, "before_script")
    | _words(GITLAB, _LAST_STEP, "after_script")
    | _words(
        f"{BUILDKITE}, {AZURE} and {WOODPECKER}",
        "steps belong to a job: write jobs: [{name: build, steps: …}]",
        "steps",
        "commands",
    )
    | _words(f"{JENKINS} and {WOODPECKER}", "write jobs: [{name: build, steps: …}]", "pipeline", "pipelines")
    | _words(f"{BUILDKITE} and {JENKINS}", _AGENT, "agents", "agent", "labels", "tags", "runs-on")
    | _words(CIRCLE, _AGENT, "executors")
    | _words(JENKINS, "write a last step, or a last job, with when: always()", "post")
    | _words(JENKINS, "no options are needed; leave it out", "options", "tools")
    | _words(WOODPECKER, "leave it out", "kind", "type")
    | _words(
        WOODPECKER,
        "the files are in the workspace before the first step; how much of the repository says checkout: {depth: 1}",
        "clone",
    )
    | _words(TRAVIS, "write a first step that installs it", "language", "install", "os", "dist", "addons")
)

_JOB = (
    _words(f"{GITHUB} and {GITLAB}", "write dependsOn: {list|[build]}", "needs")
    | _words(CIRCLE, "write dependsOn: {list|[build]}", "requires")
    | _words("other products", "write dependsOn: {list|[build]}", "depends", "dependencies", "after", "deps")
    | _words(GITHUB, _WHEN, "if")
    | _words(f"{AZURE} and {BUILDKITE}", _WHEN, "condition", "conditions")
    | _words(GITLAB, _ONLY, "only", "except", "rules")
    | _words("other products", _ONLY, "branches", "filters")
    | _words(GITHUB, _AGENT, "runs-on", "runs_on", "runsOn")
    | _words(f"{GITLAB} and {BUILDKITE}", _AGENT, "tags", "agents", "agent", "labels")
    | _words(f"{GITLAB} and {AZURE}", _ORDER, "stage", "stages")
    | _words(f"{GITLAB} and {WOODPECKER}", _STEPS, "script", "commands", "command", "run")
    | _words(GITLAB, _FIRST_STEP, "before_script")
    | _words(GITLAB, _LAST_STEP, "after_script")
    | _words(GITLAB, "write continueOnError: true on its steps", "allow_failure")
    | _words(GITHUB, "write continueOnError: true on its steps", "continue-on-error")
    | _words(GITHUB, _MINUTES, "timeout-minutes")
    | _words(f"{AZURE} and {BUILDKITE}", _MINUTES, "timeoutInMinutes", "timeout_in_minutes")
    | _words(GITHUB, _DIRECTORY, "working-directory")
    | _words(CIRCLE, _DIRECTORY, "working_directory", "workingDirectory")
    | _words(
        f"{CIRCLE} and {GITHUB}",
        "for environment variables write env; deployments are not part of this release",
        "environment",
    )
    | _words(f"{GITLAB} and {AZURE}", "write env: {NAME: value}", "variables")
    | _words(
        GITHUB,
        "outputs of steps are those of their job: a step prints ::output name=value, "
        "and another job reads jobs.NAME.outputs.name",
        "outputs",
    )
    | _words(GITHUB, "workflows cannot be called: write the steps here", "uses", "with")
    | _words(
        f"{BUILDKITE} and {AZURE}",
        "write name: {text|build}",
        "label",
        "displayName",
        "display_name",
        "key",
        "id",
        "job",
    )
    | _words(JENKINS, "write a last step with when: always()", "post")
)

_STEP = (
    _words(GITHUB, _WHEN, "if")
    | _words(AZURE, _WHEN, "condition")
    | _words(GITHUB, "the arguments of an action are its args: write args: {…}", "with")
    | _words(AZURE, "the arguments of an action are its args: write args: {…}", "inputs")
    | _words(WOODPECKER, "the arguments of an action are its args: write args: {…}", "settings")
    | _words(
        GITHUB,
        "other steps refer to a step by its name; outputs are read as job.outputs.NAME: leave it out",
        "id",
    )
    | _words(GITHUB, "write continueOnError: true", "continue-on-error")
    | _words(
        f"{GITLAB} and {BUILDKITE}",
        "write continueOnError: true",
        "allow_failure",
        "soft_fail",
        "ignore_failure",
        "failure",
    )
    | _words(GITHUB, _MINUTES, "timeout-minutes")
    | _words(f"{AZURE} and {BUILDKITE}", _MINUTES, "timeoutInMinutes", "timeout_in_minutes")
    | _words(GITHUB, "write args: {workingDirectory: {text|src}}", "working-directory")
    | _words(CIRCLE, "write args: {workingDirectory: {text|src}}", "working_directory", "workingDirectory")
    | _words(GITHUB, "write args: {shell: {text|bash}}", "shell")
    | _words(f"{CIRCLE} and {BUILDKITE}", "write run: {text|make}", "command")
    | _words(
        f"{GITLAB}, {WOODPECKER} and {AZURE}", "write run: {text|make}", "script", "commands", "bash", "sh"
    )
    | _words("other products", "write run: {text|make}", "cmd", "exec", "execute", "powershell", "pwsh")
    | _words(f"{CIRCLE}, {AZURE} and {WOODPECKER}", "write env: {NAME: value}", "environment", "variables")
    | _words(
        f"{GITHUB}, {GITLAB} and {WOODPECKER}",
        "steps run one after another; dependsOn is for jobs",
        "needs",
        "depends_on",
        "dependsOn",
    )
    | _words(WOODPECKER, "write background: true", "detach")
    | _words(
        f"{BUILDKITE} and {AZURE}", "write name: {text|build}", "label", "displayName", "display_name", "key"
    )
    | _words(f"{BUILDKITE} and {GITLAB}", _AGENT, "agents", "tags", "labels", "runs-on", "runs_on")
    | _words(WOODPECKER, "there is no counterpart; leave it out", "pull", "privileged", "entrypoint", "group")
    | _words(
        "other products",
        "write onLost: rerun for agents that are lost, or retry: {maxAttempts: 3}",
        "attempts",
        "retries",
    )
)

KEYS: Mapping[str, Mapping[str, Word]] = {
    "Spec": _ANYWHERE | _SPEC,
    "Job": _ANYWHERE | _JOB,
    "Step": _ANYWHERE | _STEP,
    "Retry": _words(
        f"{GITLAB} and {BUILDKITE}",
        "write maxAttempts: {text|2}, the first try included",
        "max",
        "limit",
        "attempts",
        "times",
        "count",
    )
    | _words("other products", "write delay: 10s", "backoff", "interval", "wait"),
    "CheckoutOptions": _words(GITHUB, "write depth: {text|0}", "fetch-depth", "fetch_depth", "fetchDepth")
    | _words(GITHUB, "write tags: true", "fetch-tags", "fetch_tags")
    | _words(
        GITHUB,
        "a run has the commit it was started with",
        "ref",
        "branch",
        "repository",
        "path",
        "clean",
        "token",
    ),
}

ACTIONS: Mapping[str, str] = {
    "actions/checkout": "leave it out: the files are in the workspace before the first step",
    "actions/cache": _NO_CACHE,
    "actions/upload-artifact": _ARTIFACTS,
    "actions/download-artifact": _DOWNLOAD,
}
SETUP_ACTION = "install the tool on the agent, or in a step: run: …"
OTHER_ACTION = "actions of GitHub do not run here: write what it does as run: …"

# Plain texts among the steps of CircleCI, Azure and Jenkins.
STEPS: Mapping[str, str] = {
    "checkout": "it left out: the files are in the workspace before the first step",
    "scm": "it left out: the files are in the workspace before the first step",
    "setup_remote_docker": "it left out: a step may call docker where its agent has it",
    "attach_workspace": "it left out: the steps of a job share its workspace",
}

CONDITIONS: Mapping[str, str] = {
    "on_success": "success(), or no when at all",
    "on_failure": "failure()",
    "never": "no such step or job",
    "manual": "no when: runs are started by hand",
    "delayed": "no when: a step may sleep",
    "succeeded()": "success()",
    "succeeded": "success()",
    "failed()": "failure()",
    "failed": "failure()",
    "succeededOrFailed()": "always()",
    "success": "success()",
    "failure": "failure()",
    "always": "always()",
    "cancelled": "cancelled()",
}

# Roots of expressions, with the first name after them where that matters.
EXPRESSIONS: Mapping[str, str] = {
    "github.sha": "run.commit",
    "github.ref": "run.branch",
    "github.ref_name": "run.branch",
    "github.head_ref": "run.branch",
    "github.actor": "run.triggered_by",
    "github.triggering_actor": "run.triggered_by",
    "github.run_id": "run.id",
    "github.run_attempt": "step.attempt",
    "github.run_number": "run.id",
    "github.event_name": "run.trigger",
    "github.workflow": "run.name",
    "github.job": "job.name",
    "github.workspace": "the variable PILOT_WORKSPACE, in the text of a step",
    "github.token": "a secret of yours, secrets.NAME",
    "github": "one of run.commit, run.branch, run.id, run.trigger, run.triggered_by",
    "needs": "jobs.NAME.outputs",
    "steps": "job.outputs.NAME, or jobs.JOB.steps.STEP.outputs.NAME",
    "inputs": "variables.NAME",
    "vars": "variables.NAME",
    "parameters": "variables.NAME",
    "matrix": "a job or step of its own for each combination: there is no matrix",
    "strategy": "a job or step of its own for each combination: there is no matrix",
    "runner": "the variables of the step, such as PILOT_WORKSPACE",
    "pipeline": "run.NAME or variables.NAME",
    "build": "run.NAME",
}

# Variables that other products set, by the one that is set here; "" for none.
VARIABLES: Mapping[str, str] = {
    "CI_COMMIT_SHA": "PILOT_COMMIT",
    "CI_COMMIT_SHORT_SHA": "PILOT_COMMIT",
    "CI_COMMIT_BRANCH": "PILOT_BRANCH",
    "CI_COMMIT_REF_NAME": "PILOT_BRANCH",
    "CI_COMMIT_REF_SLUG": "PILOT_BRANCH",
    "CI_COMMIT_TAG": "PILOT_TAG",
    "CI_PIPELINE_ID": "PILOT_RUN_ID",
    "CI_PIPELINE_IID": "PILOT_RUN_ID",
    "CI_PIPELINE_SOURCE": "PILOT_EVENT",
    "CI_JOB_NAME": "PILOT_JOB",
    "CI_PROJECT_DIR": "PILOT_WORKSPACE",
    "CI_PROJECT_NAME": "PILOT_PIPELINE",
    "CI_JOB_TOKEN": "",
    "CI_REGISTRY_IMAGE": "",
    "GITHUB_SHA": "PILOT_COMMIT",
    "GITHUB_REF": "PILOT_BRANCH",
    "GITHUB_REF_NAME": "PILOT_BRANCH",
    "GITHUB_HEAD_REF": "PILOT_BRANCH",
    "GITHUB_RUN_ID": "PILOT_RUN_ID",
    "GITHUB_RUN_NUMBER": "PILOT_RUN_ID",
    "GITHUB_RUN_ATTEMPT": "PILOT_ATTEMPT",
    "GITHUB_JOB": "PILOT_JOB",
    "GITHUB_EVENT_NAME": "PILOT_EVENT",
    "GITHUB_WORKFLOW": "PILOT_PIPELINE",
    "GITHUB_WORKSPACE": "PILOT_WORKSPACE",
    "GITHUB_ENV": "PILOT_ENV",
    "GITHUB_OUTPUT": "a line `::output name=value` on standard output",
    "GITHUB_PATH": "a line PATH=… in the file $PILOT_ENV",
    "GITHUB_STEP_SUMMARY": "",
    "GITHUB_TOKEN": "",
    "GITHUB_REPOSITORY": "",
    "CIRCLE_SHA1": "PILOT_COMMIT",
    "CIRCLE_BRANCH": "PILOT_BRANCH",
    "CIRCLE_TAG": "PILOT_TAG",
    "CIRCLE_BUILD_NUM": "PILOT_RUN_ID",
    "CIRCLE_JOB": "PILOT_JOB",
    "CIRCLE_WORKING_DIRECTORY": "PILOT_WORKSPACE",
    "BUILDKITE_COMMIT": "PILOT_COMMIT",
    "BUILDKITE_BRANCH": "PILOT_BRANCH",
    "BUILDKITE_TAG": "PILOT_TAG",
    "BUILDKITE_BUILD_ID": "PILOT_RUN_ID",
    "BUILDKITE_BUILD_NUMBER": "PILOT_RUN_ID",
    "BUILDKITE_RETRY_COUNT": "PILOT_ATTEMPT",
    "DRONE_COMMIT_SHA": "PILOT_COMMIT",
    "DRONE_BRANCH": "PILOT_BRANCH",
    "DRONE_TAG": "PILOT_TAG",
    "DRONE_BUILD_NUMBER": "PILOT_RUN_ID",
    "TRAVIS_COMMIT": "PILOT_COMMIT",
    "TRAVIS_BRANCH": "PILOT_BRANCH",
    "TRAVIS_TAG": "PILOT_TAG",
    "TRAVIS_BUILD_DIR": "PILOT_WORKSPACE",
    "BUILD_SOURCEVERSION": "PILOT_COMMIT",
    "BUILD_SOURCEBRANCHNAME": "PILOT_BRANCH",
}
