"""Specs that are right: what they mean, and that they survive the way through JSON."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.graph_json import selector_from_json, selector_to_json
from pilothouse.engine.order import levels
from pilothouse.engine.selectors import match_selector
from pilothouse.expressions import secret_names
from pilothouse.pipelines.spec import (
    BUILTIN_ACTIONS,
    ActionSchema,
    AgentSelector,
    Argument,
    LabelExpression,
    Retry,
    SpecError,
    parse_spec,
    spec_from_json,
    spec_to_json,
)
from support.specs import FULL, JSON_VALUES, specs


def test_every_field_arrives() -> None:
    parsed = parse_spec(FULL, only_offered=False)
    spec = parsed.spec
    assert parsed.warnings == ()
    assert (spec.namespace, spec.version) == ("shop", "1.10")
    assert spec.variables == {"TAG": "v1", "zip": "0123", "flag": "on", "empty": ""}
    assert spec.runtime.env == {"CI": "true"}
    assert spec.runtime.resources is not None
    assert spec.runtime.resources.cpu_request == "500m"
    assert spec.runtime.resources.memory_limit == "1Gi"
    assert spec.runtime.config == {"privileged": "no", "shm": 64}
    assert spec.triggers[0].options == {"schedule": "0 3 * * *"}
    tests, approve, deploy = spec.jobs
    assert (tests.timeout, tests.timeout_seconds) == ("1h30m", 5400.0)
    assert tests.retry == Retry(3, "10s")
    assert tests.retry.delay_seconds == 10.0
    assert approve.approval is not None
    assert approve.approval.params == {"count": 2, "roles": ["operator"]}
    assert deploy.depends_on == ("approve", "unit-test")
    assert deploy.when == 'success() && jobs["unit-test"].outputs.ok == "yes"'
    assert deploy.env == tests.env == {"LEVEL": "debug"}
    assert deploy.notify is not None
    assert deploy.notify.on_success is not None
    assert deploy.notify.on_success.params == {"to": ["ops@example.org"]}


def test_steps_arrive_with_what_is_implied() -> None:
    checkout, test = parse_spec(FULL, only_offered=False).spec.jobs[0].steps
    assert (checkout.uses, checkout.action, checkout.on_lost) == ("scm", "checkout", "")
    assert (test.action, test.on_lost, test.continue_on_error) == ("command", "fail", True)
    assert test.args == {
        "command": "make test TAG=${{ variables.TAG }}",
        "workingDirectory": "src",
        "shell": ["bash", "-e"],
    }
    assert test.agent_selector == AgentSelector(
        {"os": "linux"}, (LabelExpression("gpu", "DoesNotExist"), LabelExpression("cores", "Gt", ("4",)))
    )
    assert (checkout.timeout_seconds, checkout.retry, test.retry) == (0.0, None, Retry(2))


def test_canonical_json() -> None:
    message = spec_to_json(parse_spec(FULL, only_offered=False).spec)
    assert list(message) == ["jobs", "namespace", "version", "variables", "runtime", "meta", "triggers"]
    first = message["jobs"][0]
    assert first["retry"] == {"maxAttempts": 3, "delay": "10s"}
    assert first["onLost"] == "rerun"
    assert [step.get("onLost") for step in first["steps"]] == [None, "fail"]
    assert first["steps"][1]["agentSelector"]["matchExpressions"][0] == {
        "key": "gpu",
        "operator": "DoesNotExist",
    }
    assert message["jobs"][2]["dependsOn"] == ["approve", "unit-test"]


def test_yaml_json_and_objects_give_the_same_spec() -> None:
    spec = parse_spec(FULL, only_offered=False).spec
    message = spec_to_json(spec)
    assert spec_from_json(message, only_offered=False).spec == spec
    assert parse_spec(json.dumps(message), only_offered=False).spec == spec
    assert parse_spec(json.dumps(message, indent="\t"), only_offered=False).spec == spec
    assert spec_to_json(spec_from_json(message, only_offered=False).spec) == message


def test_secrets_of_a_spec() -> None:
    assert secret_names(parse_spec(FULL, only_offered=False).spec) == {"GIT", "KUBE"}


def test_a_job_that_is_not_upstream_is_a_warning() -> None:
    text = """
jobs:
  - name: a
    steps: [{name: s, uses: dummy, args: {x: "${{ jobs.b.outputs.v }} ${{ jobs.a.outputs.v }}"}}]
  - name: b
    steps: [{name: s, uses: dummy}]
"""
    assert [warning.describe("f") for warning in parse_spec(text).warnings] == [
        'f:4:47: warning: job "a" does not depend on job "b", so its outputs may not be there yet',
        'f:4:71: warning: job "a" refers to itself, so its outputs may not be there yet',
    ]


def one_step(**step: Any) -> dict[str, Any]:
    return {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": "dummy", **step}]}]}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("0x1F", 31),
        ("0o17", 15),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("~", None),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("99999999999999999999", "99999999999999999999"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ('"\\ud83d\\ude00"', None),
    ],
)
def test_arguments_are_typed_as_yaml_1_2(written: str, value: object) -> None:
    text = f"{{jobs: [{{name: j, steps: [{{name: s, uses: dummy, args: {{x: {written}}}}}]}}]}}"
    found = parse_spec(text).spec.jobs[0].steps[0].args["x"]
    assert found == ("\U0001f600" if "ud83d" in written else value)
    assert type(found) is (str if "ud83d" in written else type(value))


def test_actions_come_from_the_registry() -> None:
    actions = {
        **BUILTIN_ACTIONS,
        "http/request": ActionSchema({"url": Argument(required=True), "tries": Argument("number")}),
        "gate": ActionSchema({"level": Argument()}),
    }
    step = {"name": "s", "uses": "http", "args": {"url": "http://x", "tries": "${{ variables.n }}"}}
    gate = {"name": "g", "uses": "gate", "args": {"level": "high"}}
    parsed = spec_from_json({"jobs": [{"name": "j", "steps": [step, gate]}]}, known_actions=actions)
    assert [step.action for step in parsed.spec.jobs[0].steps] == ["request", ""]
    with pytest.raises(SpecError):
        spec_from_json({"jobs": [{"name": "j", "steps": [step]}]})
    assert spec_from_json(spec_to_json(parsed.spec), known_actions=None).spec == parsed.spec


def test_jobs_in_levels() -> None:
    depends = {"d": ("b", "c", "b"), "b": ("a",), "c": ("a",), "a": (), "e": ()}
    assert levels(depends) == [["a", "e"], ["b", "c"], ["d"]]


@pytest.mark.parametrize(
    ("expression", "labels", "reason"),
    [
        (("os", "In", ("linux", "mac")), {"os": "mac"}, None),
        (("os", "In", ("linux", "mac")), {"os": "bsd"}, "os In (linux, mac)"),
        (("os", "NotIn", ("linux",)), {}, None),
        (("os", "NotIn", ("linux",)), {"os": "linux"}, "os NotIn (linux)"),
        (("gpu", "Exists", ()), {"gpu": ""}, None),
        (("gpu", "Exists", ()), {}, "gpu Exists"),
        (("gpu", "DoesNotExist", ()), {"gpu": "1"}, "gpu DoesNotExist"),
        (("cores", "Gt", ("4",)), {"cores": "8"}, None),
        (("cores", "Gt", ("4",)), {"cores": "4"}, "cores Gt 4"),
        (("cores", "Lt", ("4",)), {"cores": "3"}, None),
        (("cores", "Lt", ("4",)), {"cores": "many"}, "cores Lt 4"),
        (("cores", "Lt", ("4",)), {}, "cores Lt 4"),
    ],
)
def test_label_expressions(expression: Any, labels: dict[str, str], reason: str | None) -> None:
    assert match_selector(AgentSelector({}, (LabelExpression(*expression),)), labels) == reason


def test_selectors() -> None:
    selector = AgentSelector({"os": "arm64"}, (LabelExpression("gpu", "Exists"),))
    assert match_selector(None, {}) is None
    assert match_selector(selector, {"os": "arm64", "gpu": "a"}) is None
    assert match_selector(selector, {"gpu": "a"}) == "os=arm64"
    assert match_selector(selector, {"os": "arm64"}) == "gpu Exists"
    assert selector_from_json(selector_to_json(selector)) == selector
    assert selector_to_json(None) == {}


@settings(deadline=None)
@given(specs())
def test_json_round_trip(message: dict[str, Any]) -> None:
    spec = spec_from_json(message).spec
    canonical = spec_to_json(spec)
    assert spec_from_json(canonical).spec == spec
    assert parse_spec(json.dumps(canonical)).spec == spec
    assert spec_to_json(parse_spec(json.dumps(canonical, ensure_ascii=False)).spec) == canonical


@settings(deadline=None)
@given(
    st.text()
    | st.text(alphabet="{}[]:,-&*!|>'\"#%@`ab$ \n\t?~<1")
    | st.binary().map(lambda b: b.decode("latin-1"))
)
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    with contextlib.suppress(SpecError):
        parse_spec(text)


LINES = [line for line in FULL.splitlines(keepends=True) if line.strip()]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(LINES) - 1), max_size=4), st.integers(0, len(FULL)), st.text(max_size=3))
def test_a_damaged_spec_is_a_spec_or_a_spec_error(dropped: list[int], position: int, inserted: str) -> None:
    text = "".join(line for number, line in enumerate(LINES) if number not in dropped)
    damaged = text[:position] + inserted + text[position:]
    try:
        parse_spec(damaged)
    except SpecError as error:
        lines = damaged.count("\n") + 2
        assert error.problems
        assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in error.problems)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["jobs", "meta", "runtime", "x"]), JSON_VALUES))
def test_any_object_is_a_spec_or_a_spec_error(message: dict[str, Any]) -> None:
    with contextlib.suppress(SpecError):
        spec_from_json(message)


OFFERED = """\
runtime: {type: docker, image: "python:3.12"}
triggers: [{type: cron, options: {schedule: "0 3 * * *"}}]
jobs:
  - name: a
    concurrency: prod
    approval: {required: true, type: auto}
    target: {type: k8s}
    steps: [{name: s, uses: shell, args: {command: "true"}}]
"""


def test_what_this_release_does_not_do_is_refused_or_warned_of() -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(OFFERED)
    places = {(problem.path, problem.line, problem.column) for problem in refused.value.problems}
    assert places == {
        ("runtime.type", 1, 17),
        ("runtime.image", 1, 32),
        ("jobs[0].approval.type", 6, 38),
    }
    plain = "triggers: [{type: webhook}]\njobs: [{name: a, triggers: [{type: webhook}], steps: [%s]}]\n"
    step = '{name: s, uses: shell, args: {command: "true"}}'
    assert [warning.describe("f") for warning in parse_spec(plain % step).warnings] == [
        "f:1:12: warning: triggers of type webhook have no effect in this release",
        "f:2:28: warning: triggers of job 'a' have no effect in this release",
    ]
