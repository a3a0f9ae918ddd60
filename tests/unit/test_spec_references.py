"""Names in a spec that may be undefined in a run: errors if always undefined, warnings if sometimes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pilothouse.engine.contexts import context
from pilothouse.pipelines.spec import SpecError, parse_spec, spec_from_json
from pilothouse.pipelines.spec.references import CONTEXT_KEYS, JOB_KEYS
from support.planning import job, sim

FRAME = "variables: {{tag: v1}}\njobs:\n- name: j\n  env: {{LEVEL: debug}}\n  steps:\n  - name: s\n    env: {{A: b}}\n    {}\n"


def warned(line: str) -> list[str]:
    found = parse_spec(FRAME.format(line)).warnings
    return [warning.describe("f").removeprefix("f:") for warning in found]


def refused(line: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(FRAME.format(line))
    return [problem.describe("f").removeprefix("f:") for problem in caught.value.problems]


def test_a_variable_without_a_value_is_warned_of_once() -> None:
    line = "run: x ${{ variables.tga }}\n  - {name: t, run: 'x ${{ variables.tga }}'}"
    assert warned(line) == [
        '8:12: warning: variables.tga has no value in the spec; did you mean "tag"? (expected every run to be given it '
        "(--var tga=…), or a test for it: has(variables.tga))"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "run: x ${{ variables.tag }}",
        "run: 'x ${{ has(variables.x) ? variables.x : \"\" }}'",
        "run: x ${{ variables.x }}\n    when: has(variables.x)",
        "run: x ${{ env.A }} ${{ env.LEVEL }}",
        "run: 'x ${{ has(env.B) ? env.B : \"\" }}'",
        "run: x ${{ run.commit }} ${{ job.round }} ${{ step.attempt }}",
        "run: 'x ${{ has(run.weather) ? run.weather : \"\" }}'",
    ],
)
def test_names_that_are_there_or_tested_for_are_fine(line: str) -> None:
    assert warned(line) == []


def test_undeclared_env_is_warned_of() -> None:
    assert warned("run: x ${{ env.LEVLE }}") == [
        '8:12: warning: env.LEVLE is declared in no env of this step, its job or the runtime; did you mean "LEVEL"? '
        "(expected a name of env; the agent's own variables are not among them)"
    ]
    assert warned("run: x\n  - {name: t, run: 'x ${{ env.A }}'}")[0].startswith(
        "9:23: warning: env.A is declared in no"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [("run.comit", "commit"), ("step.nmae", "name"), ("job.output", "outputs"), ("run.weather", "")],
)
def test_keys_that_no_run_has_are_problems(name: str, near: str) -> None:
    root, _, key = name.partition(".")
    meant = f'; did you mean "{near}"?' if near else ""
    known = ", ".join(CONTEXT_KEYS[root])
    assert refused(f"run: x ${{{{ {name} }}}}") == [
        f'8:12: error: {root} has no "{key}"{meant} (expected one of {known})'
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "jobs.k.output.x",
            'jobs.k has no "output"; did you mean "outputs"? (expected one of status, outputs, steps)',
        ),
        ('jobs["k"]["result"]', 'jobs.k has no "result" (expected one of status, outputs, steps)'),
        ("jobs.k.steps.bild.status", 'job "k" has no "bild"; did you mean "build"? (expected one of build)'),
    ],
)
def test_what_a_job_has_not_is_a_problem(name: str, said: str) -> None:
    other = "- {name: k, steps: [{name: build, run: x}]}\n"
    text = (
        FRAME.format(f"run: x ${{{{ {name} }}}}").replace("  env: {LEVEL", "  dependsOn: [k]\n  env: {LEVEL")
        + other
    )
    with pytest.raises(SpecError) as caught:
        parse_spec(text)
    assert [problem.describe("f") for problem in caught.value.problems] == [f"f:9:12: error: {said}"]
    fine = "jobs.k.outputs.x jobs.k.status jobs.k.steps.build.outputs.y has(jobs.k.result) jobs.k.steps[run.id].status"
    for expression in fine.split():
        assert parse_spec(text.replace(name, expression)).warnings == ()


def test_the_keys_are_those_that_the_engine_fills() -> None:
    run = sim(job("j", "s")).run
    roots = context(run, run.jobs[0], run.jobs[0].steps[0])
    for root, keys in CONTEXT_KEYS.items():
        assert set(roots[root]) == set(keys), root
    assert set(roots["jobs"]["j"]) == set(JOB_KEYS)


def test_an_expression_where_none_is_put_in_is_warned_of() -> None:
    assert warned("run: x\n    agentSelector: {matchLabels: {os: '${{ variables.tag }}'}}") == [
        "9:40: warning: expressions are evaluated in env, args and run only; this text is used as it is"
    ]


def test_rules_that_came_later_do_not_hold_for_stored_specs() -> None:
    step: dict[str, Any] = {"name": "s", "uses": "shell", "action": "command"}
    step |= {"args": {"command": "${{ run.weather }}", "workingDirectory": "/tmp"}, "env": {"a=b": "c"}}
    stored = {"jobs": [{"name": "j", "steps": [step]}]}
    assert spec_from_json(stored, known_actions=None).spec.jobs[0].steps[0].env == {"a=b": "c"}
    with pytest.raises(SpecError) as caught:
        spec_from_json(stored)
    assert len(caught.value.problems) == 3
    assert dataclasses.is_dataclass(caught.value.problems[0])
