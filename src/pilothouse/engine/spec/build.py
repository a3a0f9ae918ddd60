"""From nodes to the types of spec_model, message by message, each checked as far as it can be alone."""

from __future__ import annotations

import re
from typing import Any, cast

from pilothouse.engine.spec.actions import ActionRegistry
from pilothouse.engine.spec.model import (
    AgentSelector,
    Approval,
    CheckoutOptions,
    Job,
    LabelExpression,
    Notify,
    NotifyItem,
    OnLost,
    Operator,
    Resources,
    Retry,
    Runtime,
    Source,
    SourceAuth,
    Spec,
    Step,
    Target,
    Trigger,
)
from pilothouse.engine.spec.problems import shown
from pilothouse.engine.spec.reader import Fields
from pilothouse.engine.spec.uses import check_uses

MAX_JOBS = 1000
MAX_STEPS = 1000
MAX_CHECKOUT_DEPTH = 2**31 - 1  # what the gRPC message holds

_SPEC = ("namespace", "version", "variables", "runtime", "meta", "jobs", "triggers", "checkout")
_JOB = (
    *("name", "description", "env", "concurrency", "timeout", "retry", "when", "source", "approval", "steps"),
    *("target", "notify", "triggers", "dependsOn", "onLost", "queueTimeout"),
)
_STEP = (
    *("name", "run", "uses", "action", "args", "env", "continueOnError", "timeout", "when"),
    *("agentSelector", "runOnAgent", "onLost", "retry", "background"),
)
_CHECKOUT = ("depth", "tags", "submodules", "lfs")
_RUNTIME = ("type", "image", "env", "resources", "config")
_RESOURCES = ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_ON_LOST = ("fail", "rerun")

_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,62}")
_JOB_NAME_EXPECTED = "up to 63 letters, digits, _ . or -, the first a letter or a digit"
_STEP_NAME_EXPECTED = "up to 63 letters, digits, spaces, _ . or -, the first a letter or a digit"


class Builder:
    """Builds one spec; ``spec`` is the way in."""

    fields = _SPEC

    def __init__(self, actions: ActionRegistry | None) -> None:
        self._actions = actions

    def spec(self, spec: Fields) -> Spec:
        jobs = spec.messages("jobs", _JOB, self._job)
        if spec.lacks("jobs"):
            spec.problem(spec.mark_of("jobs"), "jobs", "the spec has no jobs", "at least one job")
        elif len(jobs) > MAX_JOBS:
            spec.problem(
                spec.mark_of("jobs"), "jobs", f"the spec has {len(jobs)} jobs", f"at most {MAX_JOBS}"
            )
        return Spec(
            jobs=jobs,
            namespace=spec.text("namespace"),
            version=spec.text("version"),
            variables=spec.text_map("variables"),
            runtime=spec.message("runtime", _RUNTIME, _runtime) or Runtime(),
            meta=spec.struct("meta"),
            triggers=spec.messages("triggers", ("type", "options"), _trigger),
            checkout=spec.message("checkout", _CHECKOUT, _checkout) or CheckoutOptions(),
        )

    def _job(self, job: Fields) -> Job:
        name = job.required("name", "the job", _JOB_NAME_EXPECTED)
        _check_name(job, name, _JOB_NAME, _JOB_NAME_EXPECTED)
        job.reading.job = name
        on_lost = job.choice("onLost", _ON_LOST, "fail")
        approval = job.message("approval", ("required", "type", "plugin", "params"), _approval)
        steps = job.messages("steps", _STEP, self._step)
        self._check_steps(job, name, steps, approval)
        built = Job(
            name=name,
            description=job.text("description"),
            env=job.text_map("env"),
            concurrency=job.text("concurrency"),
            timeout=job.duration("timeout"),
            retry=job.message("retry", ("maxAttempts", "delay"), _retry),
            when=job.condition("when"),
            source=job.message("source", ("type", "repo", "branch", "auth"), _source),
            approval=approval,
            steps=steps,
            target=job.message("target", ("type", "config"), _target),
            notify=job.message("notify", ("onSuccess", "onFailure"), _notify),
            triggers=job.messages("triggers", ("type", "options"), _trigger),
            depends_on=_texts(job, "dependsOn"),
            on_lost=cast(OnLost, on_lost),
            queue_timeout=job.duration("queueTimeout"),
        )
        job.reading.job = ""
        return built

    def _check_steps(
        self, job: Fields, name: str, steps: tuple[Step, ...], approval: Approval | None
    ) -> None:
        what = f"job {shown(name)}" if name else "the job"
        if job.lacks("steps") and not (approval and approval.required):
            expected = "at least one step, or approval with required: true"
            job.problem(job.mark_of("steps"), "steps", f"{what} has no steps", expected)
        elif len(steps) > MAX_STEPS:
            job.problem(
                job.mark_of("steps"), "steps", f"{what} has {len(steps)} steps", f"at most {MAX_STEPS}"
            )

    def _step(self, step: Fields) -> Step:
        name = step.required("name", "the step", _STEP_NAME_EXPECTED)
        _check_name(step, name, _STEP_NAME, _STEP_NAME_EXPECTED)
        args = step.struct("args")
        uses, action = check_uses(step, args, self._actions)
        selector_fields = ("matchLabels", "matchExpressions")
        return Step(
            name=name,
            uses=uses,
            action=action,
            args=args,
            env=step.text_map("env"),
            continue_on_error=step.boolean("continueOnError"),
            timeout=step.duration("timeout"),
            when=step.condition("when"),
            agent_selector=step.message("agentSelector", selector_fields, _selector),
            run_on_agent=step.boolean("runOnAgent"),
            on_lost=cast("OnLost", step.choice("onLost", _ON_LOST, "")),
            retry=step.message("retry", ("maxAttempts", "delay"), _retry),
            background=step.boolean("background"),
        )


def _check_name(fields: Fields, name: str, allowed: re.Pattern[str], expected: str) -> None:
    if name and not allowed.fullmatch(name):
        fields.problem(fields.mark_of("name"), "name", f"the name {shown(name)} is not allowed", expected)


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    found = (fields.reading.text(item, path) for item, path in fields.items(name))
    return tuple(text for text in found if text is not None)


def _retry(retry: Fields) -> Retry:
    return Retry(max_attempts=retry.integer("maxAttempts", 1, 100), delay=retry.duration("delay", zero=True))


def _checkout(checkout: Fields) -> CheckoutOptions:
    given = checkout.node("depth") is not None
    return CheckoutOptions(
        depth=checkout.integer("depth", 0, MAX_CHECKOUT_DEPTH) if given else CheckoutOptions().depth,
        tags=checkout.boolean("tags"),
        submodules=checkout.boolean("submodules"),
        lfs=checkout.boolean("lfs"),
    )


def _runtime(runtime: Fields) -> Runtime:
    return Runtime(
        type=runtime.text("type"),
        image=runtime.text("image"),
        env=runtime.text_map("env"),
        resources=runtime.message("resources", _RESOURCES, _resources),
        config=runtime.struct("config"),
    )


def _resources(resources: Fields) -> Resources:
    return Resources(*(resources.text(name) for name in _RESOURCES))


def _trigger(trigger: Fields) -> Trigger:
    kind = trigger.required("type", "the trigger", "a type such as manual, cron or event")
    return Trigger(type=kind, options=trigger.struct("options"))


def _source(source: Fields) -> Source:
    return Source(
        type=source.text("type"),
        repo=source.text("repo"),
        branch=source.text("branch"),
        auth=source.message("auth", ("username", "password", "token"), _auth),
    )


def _auth(auth: Fields) -> SourceAuth:
    return SourceAuth(
        username=auth.text("username"), password=auth.text("password"), token=auth.text("token")
    )


def _approval(approval: Fields) -> Approval:
    return Approval(
        required=approval.boolean("required"),
        type=approval.text("type"),
        plugin=approval.text("plugin"),
        params=approval.struct("params"),
    )


def _target(target: Fields) -> Target:
    return Target(type=target.text("type"), config=target.struct("config"))


def _notify(notify: Fields) -> Notify:
    known = ("plugin", "action", "params")
    return Notify(
        on_success=notify.message("onSuccess", known, _notify_item),
        on_failure=notify.message("onFailure", known, _notify_item),
    )


def _notify_item(item: Fields) -> NotifyItem:
    return NotifyItem(plugin=item.text("plugin"), action=item.text("action"), params=item.struct("params"))


def _selector(selector: Fields) -> AgentSelector:
    expressions = selector.messages("matchExpressions", ("key", "operator", "values"), _label_expression)
    return AgentSelector(match_labels=selector.text_map("matchLabels"), match_expressions=expressions)


def _label_expression(expression: Fields) -> LabelExpression:
    key = expression.required("key", "the label expression", "the name of a label")
    given = expression.required("operator", "the label expression", "one of " + ", ".join(_OPERATORS))
    operator = cast(Operator, expression.choice("operator", _OPERATORS, "Exists"))
    values = _texts(expression, "values")
    problem = _values_problem(operator, values) if given else None
    if problem:
        expression.problem(expression.mark_of("values"), "values", f"{operator} {problem[0]}", problem[1])
    return LabelExpression(key=key, operator=operator, values=values)


def _values_problem(operator: str, values: tuple[Any, ...]) -> tuple[str, str] | None:
    """What is wrong, and what would be right."""
    if operator in ("In", "NotIn"):
        return None if values else ("needs values", "a list with at least one value")
    if operator in ("Exists", "DoesNotExist"):
        return ("takes no values", "no values") if values else None
    if len(values) == 1 and re.fullmatch(r"-?[0-9]{1,18}", values[0]):
        return None
    return "compares with one whole number", 'a list with one number, such as ["4"]'
