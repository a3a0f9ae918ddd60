"""The JSON Schema and the check agree, except for rules a schema cannot express."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pilothouse.pipelines.spec import BUILTIN_ACTIONS, SpecError, json_schema, parse_spec, spec_from_json
from pilothouse.pipelines.spec.fields import Field, snake_case
from pilothouse.pipelines.spec.messages import MESSAGES
from pilothouse.pipelines.spec.problems import Problems
from pilothouse.pipelines.spec.reader import Reading
from pilothouse.pipelines.spec.yaml_nodes import read_nodes
from support.pages import ROOT, blocks, quoted, rows, section
from support.specs import FULL, specs

SCHEMA = json_schema(BUILTIN_ACTIONS)
VALIDATOR = Draft202012Validator(SCHEMA)
SPECS = [ROOT / ".pilot.yaml", *sorted(ROOT.glob("examples/*/.pilot.yaml"))]

# Rules a schema cannot express, by a part of the check's message.
BEYOND = re.compile(
    r"two jobs are named|two steps of job|depends on itself|there is no job|in a cycle|^in `|is never closed"
    r"|longer than a year|must be longer than 0s|is an absolute path|leads out of the workspace"
    r"|is too long for an environment variable|has no \"|NUL character|the spec holds more than"
    r"|^the schedule |there is no time zone|longer than 24h|two inputs are named|two triggers are|input \"|has \d+ (inputs|triggers)"
    r"|a concurrency group cannot use|names fewer users"
)


def value_of(text: str) -> Any:
    """A text as editors parse it, with YAML 1.2 types."""
    return Reading(Problems()).value(read_nodes(text, Problems()), "", rendered=False)


def complaints(value: Any) -> list[str]:
    """Problems of a spec."""
    try:
        spec_from_json(value)
    except SpecError as error:
        return [problem.message for problem in error.problems]
    return []


def agree(value: Any) -> bool:
    """Whether both accept or both refuse, or only the check refuses and for what it alone can know."""
    said, valid = complaints(value), VALIDATOR.is_valid(value)
    if valid and said:
        return all(BEYOND.search(message) for message in said)
    return valid or bool(said)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("code", blocks("yaml"))
def test_examples_of_the_documentation_are_valid(code: str) -> None:
    parse_spec(code)
    VALIDATOR.validate(value_of(code))


@pytest.mark.parametrize("path", SPECS, ids=[str(path.relative_to(ROOT)) for path in SPECS])
def test_specs_that_ship_are_valid(path: Path) -> None:
    VALIDATOR.validate(value_of(path.read_text()))


@settings(deadline=None)
@given(specs())
def test_what_the_check_accepts_is_valid(message: dict[str, Any]) -> None:
    spec_from_json(message)
    VALIDATOR.validate(message)


def test_every_field_is_in_it_in_both_spellings() -> None:
    for name, message in MESSAGES.items():
        properties = (SCHEMA if name == "Spec" else SCHEMA["$defs"][name])["properties"]
        expected = {spelling for field in message.fields for spelling in (field.name, snake_case(field.name))}
        assert properties.keys() == expected
        assert all(properties[field.name]["description"] for field in message.fields)


DESCRIBED = [(name, field) for name, message in MESSAGES.items() for field in message.fields]


@pytest.mark.parametrize(("name", "field"), DESCRIBED, ids=[f"{name}.{f.name}" for name, f in DESCRIBED])
def test_descriptions_are_those_of_the_documentation(name: str, field: Field) -> None:
    table = {quoted(row[0])[0]: row[1] for row in rows(section("pipelines.md", f"### {name}"), 2)}
    assert table[field.name] == field.about


STEP = {"name": "s", "uses": "dummy"}
SHELL = {"name": "s", "uses": "shell"}


def with_step(**step: Any) -> dict[str, Any]:
    return {"jobs": [{"name": "j", "steps": [{"name": "s", **step}]}]}


def with_job(**job: Any) -> dict[str, Any]:
    return {"jobs": [{"name": "j", "steps": [STEP], **job}]}


def with_spec(**spec: Any) -> dict[str, Any]:
    return {"jobs": [{"name": "j", "steps": [STEP]}], **spec}


def with_triggers(*triggers: Any) -> dict[str, Any]:
    return with_spec(triggers=list(triggers))


CRON = {"schedule": "0 3 * * *"}
CHOICE = {"name": "c", "type": "choice", "choices": ["x", "y"]}


def hook(url: Any, secret: Any = "HOOK_KEY") -> dict[str, Any]:
    return {"plugin": "webhook", "params": {"url": url, "secret": secret}}


HOOK = hook("https://hooks.example.org/pilot")
MAIL = {"plugin": "email", "params": {"to": ["ops@example.org", "a+b@x"]}}

ACCEPTED = [
    with_step(run="make"),
    with_step(run=True),
    with_step(run="make", args={"shell": ["bash", "-e"], "working_directory": "src"}),
    with_step(run="make", uses=None, action=None, args=None),
    with_step(uses="shell", args={"script": "a"}),
    with_step(uses="shell", action="", args={"command": 5}),
    with_step(uses="shell", action="script", args={"script": "a", "workingDirectory": "b"}),
    with_step(uses="dummy", action="run", args={"anything": [1]}),
    with_step(uses="scm"),
    with_step(uses="dummy", timeout="1h30m", onLost="RERUN", background=True),
    with_step(uses="dummy", retry={"max_attempts": 2.0, "delay": "0s"}),
    with_step(
        uses="dummy", agentSelector={"matchExpressions": [{"key": "a", "operator": "gt", "values": [4]}]}
    ),
    with_step(uses="dummy", agentSelector={"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
    with_job(name=5, when=True, queueTimeout="5m", depends_on=[]),
    with_job(env={"A.b-c": None, "ü": 1}, concurrency="", approval={"required": False}),
    with_job(concurrency="prod-${{ run.branch }}"),
    with_job(approval={"required": True}),
    with_job(approval={"required": True, "type": "manual", "plugin": None, "params": None}, steps=[]),
    with_job(
        approval={"required": True, "params": {"count": 2.0, "users": ["a", 5], "roles": None}}, steps=None
    ),
    with_job(approval={"required": True, "params": {"roles": ["user"], "message": 5, "timeout": "2d"}}),
    with_job(approval={"required": False, "type": "auto", "plugin": "slack", "params": {"approvers": 1}}),
    with_job(approval=None),
    with_step(uses="approval"),
    with_step(uses="approval", args={"count": 2.0, "roles": "operator", "users": ["a"]}),
    with_step(
        uses="approval", args={"count": "${{ variables.n }}", "roles": ["${{ variables.r }}", "admin"]}
    ),
    with_spec(
        concurrency={"group": "deploy-${{ variables.v }}", "cancel_in_progress": True}, variables={"v": 1}
    ),
    with_spec(checkout={"depth": 0, "tags": True}, runtime={"type": "process", "image": None}),
    with_spec(variables={"a b": 1, "": None}, triggers=[{"type": "manual"}], meta=None),
    with_triggers({"type": "CRON", "options": {"schedule": "*/5 * * * *", "timezone": None}}),
    with_triggers({"type": "cron", "name": "night", "options": CRON | {"timezone": "Europe/Berlin"}}),
    with_triggers({"type": "cron", "options": CRON | {"starting_deadline": "0s", "variables": {"a": 1}}}),
    with_triggers({"type": "event", "options": {"events": ["run.completed"], "statuses": ["failed"]}}),
    with_triggers({"type": "event", "options": {"events": ["run.created"], "pipeline": "build"}}),
    with_triggers({"type": "webhook", "options": {"anything": [1]}}),
    with_triggers({"type": "manual", "options": {"inputs": []}}),
    with_triggers(
        {"type": "manual", "options": {"inputs": [{"name": "a", "default": ""}, CHOICE | {"default": "x"}]}},
        {"type": "cron", "options": CRON | {"variables": {"c": "y"}}},
    ),
    with_triggers(
        {"type": "manual", "options": {"inputs": [{"name": "a", "type": "BOOLEAN", "default": True}]}}
    ),
    with_triggers(
        {"type": "manual", "options": {"inputs": [{"name": "n", "type": "number", "default": 1.5}]}}
    ),
    with_spec(notify={"onSuccess": HOOK, "on_failure": {"plugin": "CHAT", "params": {"secret": True}}}),
    with_spec(notify={"onFailure": hook("http://[::1]:8080/a?b=c#d")}),
    with_spec(notify={}),
    with_job(notify={"onSuccess": MAIL | {"action": "send"}, "onFailure": MAIL | {"action": None}}),
    with_job(notify=None),
]

REFUSED = [
    with_step(),
    with_step(run=" "),
    with_step(run=None),
    with_step(run="make", uses="shell"),
    with_step(run="make", action="command"),
    with_step(run="make", args={"command": "b"}),
    with_step(run="make", args={"script": "b"}),
    with_step(run={"name": "a", "command": "b"}),
    with_step(uses="shell"),
    with_step(uses="shell", args={}),
    with_step(uses="shell", args={"command": ""}),
    with_step(uses="shell", args={"command": True}),
    with_step(uses="shell", args={"command": "a", "script": "b"}),
    with_step(uses="shell", action="script", args={"command": "a"}),
    with_step(uses="shell", args={"command": "a", "workingDirectory": "b", "working_directory": "c"}),
    with_step(uses="shell", args={"command": "a", "shell": [1]}),
    with_step(uses="shel", args={"command": "a"}),
    with_step(uses="dummy", action="walk"),
    with_step(uses="dummy", args=[]),
    with_step(uses="dummy", timeout=30),
    with_step(uses="dummy", timeout="0s"),
    with_step(uses="dummy", background="yes"),
    with_step(uses="dummy", onLost="retry"),
    with_step(uses="dummy", retry={"delay": "5s"}),
    with_step(uses="dummy", retry={"maxAttempts": 0}),
    with_step(uses="dummy", retry={"maxAttempts": 2, "max_attempts": 2}),
    with_step(uses="dummy", agentSelector={"matchExpressions": [{"key": "a", "operator": "Is"}]}),
    with_step(uses="dummy", agentSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
    with_step(uses="dummy", agentSelector={"matchExpressions": [{"operator": "Exists"}]}),
    with_step(
        uses="dummy", agentSelector={"matchExpressions": [{"key": "a", "operator": "Lt", "values": ["b"]}]}
    ),
    with_step(
        uses="dummy", agentSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": [1]}]}
    ),
    with_step(uses="dummy", needs=["a"]),
    with_step(uses="dummy", env={"a=b": 1}),
    with_step(uses="dummy", env={"": 1}),
    with_step(uses="dummy", env={"a b": 1}),
    with_step(uses="dummy", env={"A": "x\0y"}),
    with_job(env=["A=b"]),
    with_job(name="a b"),
    with_job(name=""),
    with_job(steps=[]),
    with_job(steps=["make"]),
    with_job(steps={"a": STEP}),
    with_job(dependsOn="j"),
    with_job(dependsOn=[], depends_on=[]),
    with_job(when=5),
    with_job(concurrency=["prod"]),
    with_spec(concurrency={}),
    with_spec(concurrency={"group": " "}),
    with_spec(concurrency={"group": "a", "cancelInProgress": "yes"}),
    with_spec(concurrency={"group": "a", "max": 2}),
    with_spec(concurrency="deploy"),
    with_triggers({"type": "cron"}),
    with_triggers({"type": "crn", "options": CRON}),
    with_triggers({"type": "cron", "options": {}}),
    with_triggers({"type": "cron", "options": {"schedule": ""}}),
    with_triggers({"type": "cron", "options": CRON | {"time_zone": "UTC"}}),
    with_triggers({"type": "cron", "options": CRON | {"startingDeadline": 5}}),
    with_triggers({"type": "event", "options": {}}),
    with_triggers({"type": "event", "options": {"events": []}}),
    with_triggers({"type": "event", "options": {"events": ["run.exploded"]}}),
    with_triggers({"type": "event", "options": {"events": ["run.completed"], "statuses": ["ok"]}}),
    with_triggers({"type": "manual", "options": {"inputs": {"a": {}}}}),
    with_triggers({"type": "manual", "options": {"inputs": [{"name": "a b"}]}}),
    with_triggers({"type": "manual", "options": {"inputs": [{"name": 5}]}}),
    with_spec(notify={"onSuccess": {}}),
    with_spec(notify={"onSuccess": {"plugin": "sms", "params": {}}}),
    with_spec(notify={"onSuccess": {"plugin": "webhook"}}),
    with_spec(notify={"onSuccess": HOOK | {"action": "call"}}),
    with_spec(notify={"onCancel": HOOK}),
    with_spec(notify=HOOK),
    with_spec(notify={"onSuccess": [HOOK]}),
    with_spec(notify={"onSuccess": {"plugin": "webhook", "params": {"url": "https://a.example"}}}),
    with_spec(notify={"onSuccess": {"plugin": "chat", "params": {"secret": "A", "url": "slack://"}}}),
    *(
        with_spec(notify={"onFailure": hook(url)})
        for url in (
            "ftp://a.example",
            "https://user:password@a.example/",
            "https:///path",
            "https://a.example/a b",
            "https://ü.example/",
            "https://a.example\\@b.example/",
            "https://a.example/\nHost: b",
            "a.example",
            "",
            5,
            None,
        )
    ),
    *(
        with_spec(notify={"onFailure": hook("https://a.example", name)})
        for name in ("a b", "1a", "", 1, "A" * 129)
    ),
    *(
        with_job(notify={"onFailure": {"plugin": "email", "params": {"to": to}}})
        for to in (
            [],
            None,
            "ops@example.org",
            ["ops"],
            ["a@b\r\nBcc: c@d"],
            ["Ops <ops@example.org>"],
            ["a@b, c@d"],
            [None],
            ["a@-b"],
            ["a@b"] * 21,
        )
    ),
    with_triggers({"type": "manual", "options": {"inputs": [{"name": "a", "type": "list"}]}}),
    with_triggers({"type": "manual", "options": {"inputs": [{"name": "a", "default": {}}]}}),
    with_job(triggers=[{"type": "cron"}]),
    with_job(approval={"required": True, "type": "auto"}),
    with_job(approval={"required": True, "plugin": "slack"}),
    with_job(approval={"required": "yes"}),
    with_job(approval={"required": False}, steps=[]),
    with_job(approval={"required": True}, steps={}),
    with_job(approval={"required": True, "params": {"count": 0}}),
    with_job(approval={"required": True, "params": {"count": 21}}),
    with_job(approval={"required": True, "params": {"count": "2"}}),
    with_job(approval={"required": True, "params": {"roles": ["king"]}}),
    with_job(approval={"required": True, "params": {"roles": ["viewer"]}}),
    with_job(approval={"required": True, "params": {"roles": "operator"}}),
    with_job(approval={"required": True, "params": {"users": ["a"] * 51}}),
    with_job(approval={"required": True, "params": {"timeout": "0s"}}),
    with_job(approval={"required": True, "params": {"approvers": ["a"]}}),
    with_step(uses="approval", args={"count": 1.5}),
    with_step(uses="approval", args={"count": 21}),
    with_step(uses="approval", args={"count": True}),
    with_step(uses="approval", args={"roles": ["viewer"]}),
    with_step(uses="approval", args={"roles": "king"}),
    with_step(uses="approval", args={"approvers": ["a"]}),
    with_job(image="python"),
    with_spec(runtime={"image": "python"}),
    with_spec(runtime={"type": "docker"}),
    with_spec(checkout={"depth": -1}),
    with_spec(checkout={"depth": 1.5}),
    with_spec(checkout=True),
    with_spec(variables={"a": "${{ run.id }}"}),
    with_spec(triggers=[{"options": {}}]),
    with_spec(on="push"),
    {"jobs": {"build": {"steps": [STEP]}}},
    {"jobs": []},
    {},
    [],
    "jobs",
]


@pytest.mark.parametrize("value", ACCEPTED)
def test_both_accept(value: Any) -> None:
    assert complaints(value) == []
    VALIDATOR.validate(value)


@pytest.mark.parametrize("value", REFUSED)
def test_both_refuse(value: Any) -> None:
    assert complaints(value)
    assert not VALIDATOR.is_valid(value)


# -- a good spec, damaged anywhere --------------------------------------------------------------------------


def good() -> dict[str, Any]:
    """The specs of this file's neighbour without what this release refuses, and one with every kind of step."""
    full: dict[str, Any] = value_of(FULL)
    full["runtime"] |= {"type": "process", "image": None}
    full["jobs"][1]["steps"] = [
        {"name": "r", "run": "make", "args": {"shell": "sh"}},
        dict(SHELL, args={"script": "x"}),
    ]
    full["jobs"][1]["queueTimeout"] = "5m"
    full["jobs"][2]["source"]["auth"]["token"] = '${{ secrets["G-T"] }}'
    full["checkout"] = {"depth": 3, "lfs": True}
    full["notify"] = {"onFailure": HOOK, "onSuccess": {"plugin": "chat", "params": {"secret": "CHAT"}}}
    return copy.deepcopy(full)


GOOD = good()
WORDS = sorted(
    {spelling for message in MESSAGES.values() for spelling in message.spellings}
    | {"needs", "if", "image", "command", "script", "workingDirectory", "working_directory", "a=b", "", "x"}
)
SCALARS = [None, True, False, 0, 1, -1, 1.5, 101, "", " ", "x", "a b", "5s", "0s", "${{ run.id }}"]
ENUMS = [
    "shell",
    "dummy",
    "approval",
    "manual",
    "operator",
    "command",
    "script",
    "In",
    "exists",
    "Gt",
    "rerun",
    "process",
]
LISTS = [[], [1], ["x"], [None], [[]]]
MAPS = [
    {},
    {"a": 1},
    {"name": "n", "run": "x"},
    {"command": "x"},
    {"script": "x", "shell": ["sh"]},
    {"maxAttempts": 1},
]
VALUES = st.sampled_from([*SCALARS, *ENUMS, *LISTS, *MAPS]).map(copy.deepcopy)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with every key or index in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    spec = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(places(spec))
        if not spots:
            break
        container, key = spots[draw(st.integers(0, len(spots) - 1))]
        match draw(st.sampled_from(["drop", "replace", "rename", "add"])):
            case "drop":
                del container[key]
            case "rename" if isinstance(container, dict):
                container[draw(st.sampled_from(WORDS))] = container.pop(key)
            case "add" if isinstance(container, dict):
                container[draw(st.sampled_from(WORDS))] = draw(VALUES)
            case _:
                container[key] = draw(VALUES)
    return spec


def test_the_good_spec_is_good() -> None:
    assert complaints(GOOD) == []
    VALIDATOR.validate(GOOD)
    assert len(list(places(GOOD))) > 80


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_a_damaged_spec_is_refused_by_both_or_by_none(spec: Any) -> None:
    assert agree(spec), (complaints(spec), [error.message for error in VALIDATOR.iter_errors(spec)])
