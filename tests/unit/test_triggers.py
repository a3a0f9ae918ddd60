"""Which events triggers are for, which triggers a new spec continues, and what inputs accept; pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.engine.problems import SpecError
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.spec.inputs import Input, check_given
from pilothouse.pipelines.triggers.model import RunEvent, Trigger, Wanted, matches, paired


def trigger(id: str = "t", type: str = "event", name: str = "", **options: Any) -> Trigger:
    return Trigger(id, "mine", "p", 0, name, type, options, True, "ann", "u1", 0)


def event(**more: Any) -> RunEvent:
    keys = {"offset": 5, "type": "run.completed", "run_id": "r", "project": "p", "pipeline_id": "other"}
    return RunEvent(**{**keys, "pipeline": "build", "status": "succeeded", **more})


DONE = {"events": ["run.completed"]}


@pytest.mark.parametrize(
    ("options", "happened", "wanted"),
    [
        (DONE, {}, True),
        (DONE, {"type": "run.started", "status": ""}, False),
        (DONE, {"project": "q"}, False),
        (DONE, {"pipeline_id": "mine", "pipeline": "mine"}, False),
        (DONE | {"pipeline": "build"}, {}, True),
        (DONE | {"pipeline": "other"}, {}, True),
        (DONE | {"pipeline": "test"}, {}, False),
        (DONE | {"pipeline": "mine"}, {"pipeline_id": "mine"}, True),
        (DONE | {"statuses": ["failed"]}, {}, False),
        (DONE | {"statuses": ["failed", "succeeded"]}, {}, True),
        ({"events": ["run.started"], "statuses": ["failed"]}, {"type": "run.started", "status": ""}, True),
    ],
)
def test_which_events_a_trigger_is_for(
    options: dict[str, Any], happened: dict[str, Any], wanted: bool
) -> None:
    assert matches(trigger(**options), event(**happened)) is wanted


def test_what_came_before_it_is_not_for_it() -> None:
    one = trigger(**DONE)
    one.seen = 6
    assert not matches(one, event())


def test_a_trigger_goes_on_with_its_name_or_its_options() -> None:
    a, b = trigger("a", **DONE), trigger("b", name="night", type="cron", schedule="0 1 * * *")
    c = trigger("c", **DONE)
    wanted = [
        Wanted("cron", "night", {"schedule": "0 2 * * *"}),
        Wanted("event", "", DONE),
        Wanted("event", "", DONE | {"pipeline": "x"}),
        Wanted("event", "", DONE),
        Wanted("event", "", DONE),
    ]
    assert [one and one.id for one in paired(wanted, [a, b, c])] == ["b", "a", None, "c", None]


INPUTS = (
    Input("text"),
    Input("sure", "boolean", "false"),
    Input("count", "number", "1"),
    Input("where", "choice", None, ("here", "there")),
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": "", "where": "here"}, []),
        ({"text": "x", "where": "there", "sure": "true", "count": "-1.5e3"}, []),
        ({"text": "x"}, ['input "where" has no default, and no value is given']),
        ({"text": "x", "where": "her"}, ['input "where" is one of here, there, not "her"']),
        ({"text": "x", "where": "here", "sure": "yes"}, ['input "sure" is true or false, not "yes"']),
        ({"text": "x", "where": "here", "count": "1,5"}, ['input "count" is a number, not "1,5"']),
        ({"text": "x", "where": "here", "txet": "x"}, ['there is no input "txet"; did you mean "text"?']),
    ],
)
def test_inputs(given: dict[str, str], said: list[str]) -> None:
    assert [problem.message for problem in check_given(INPUTS, given)] == said


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_json_writes_them_are_numbers(number: float) -> None:
    text = repr(number)
    assert len(text) > 31 or Input("n", "number").refusal(text) == ""


SPEC = """
variables: {fixed: "1"}
triggers:
  - type: manual
    options: {inputs: [%s]}
  - type: cron
    options: {schedule: "0 3 * * *", variables: {%s}}
jobs: [{name: j, steps: [{name: s, run: "echo ${{ variables.a }}"}]}]
"""


def test_defaults_of_inputs_are_variables() -> None:
    compiled = compile_source(SPEC % ("{name: a, default: x}, {name: unused}", "unused: 1"))
    assert '"a":"x"' in compiled.graph
    assert compiled.inputs == (Input("a", default="x"), Input("unused"))


@pytest.mark.parametrize(
    ("inputs", "variables", "said"),
    [
        ("{name: a}", "", 'trigger 2: input "a" has no default'),
        ("{name: a}", "a: 1, b: 2", 'trigger 2: there is no input "b"'),
        ("{name: a, type: number}", "a: x", 'trigger 2: input "a" is a number'),
        ("{name: fixed, default: 1}, {name: a}", "a: 1", 'input "fixed" is in variables, too'),
        ("{name: a, type: choice}", "a: 1", 'input "a" has 0 choices'),
        ("{name: a, choices: [x]}", "a: 1", 'input "a" has choices, but its type is string'),
        ("{name: a, type: boolean, default: maybe}", "", 'input "a" is true or false'),
        ("{name: a, default: 1}, {name: a}", "", 'two inputs are named "a"'),
    ],
)
def test_inputs_that_do_not_fit(inputs: str, variables: str, said: str) -> None:
    with pytest.raises(SpecError, match="(?s)" + said.replace('"', '"')):
        compile_source(SPEC % (inputs, variables))
