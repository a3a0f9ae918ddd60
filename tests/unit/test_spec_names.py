"""Secrets and variables a spec refers to, those missing for a run, and their positions."""

from __future__ import annotations

import pytest

from pilothouse.engine.name_checks import check_names
from pilothouse.engine.names import NamesUsed, NameUse, names_of
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import Spec, SpecError, parse_spec
from pilothouse.pipelines.spec.places import located

SPEC = """
variables: {tag: "1", unused: "2"}
runtime:
  env: {R: "${{ secrets.RUNTIME }}"}
jobs:
  - name: build
    when: variables.go == "yes"
    env: {AUTH: "Bearer ${{ secrets.AUTH }}"}
    steps:
      - name: compile
        uses: dummy
        when: always() && has(variables.extra)
        env: {"a-key": "${{ variables.tag }}", E: "${{ variables.extra }}"}
        args: {list: [plain, "${{ variables.deep }} $${{ variables.escaped }}"], maybe: "${{ has(secrets.OPT) }}"}
      - name: other
        uses: dummy
        args: {x: '${{ "soft" in variables ? variables.soft : variables.hard }}'}
"""


def names_used(spec: Spec) -> NamesUsed:
    """Of its graph, which names the same places."""
    return names_of(compile_spec(spec))


def test_every_name_with_its_first_place() -> None:
    used = names_used(parse_spec(SPEC).spec)
    assert used.secrets == {
        "RUNTIME": NameUse("runtime.env.R"),
        "AUTH": NameUse("jobs[0].env.AUTH", "build"),
    }
    assert used.optional_secrets == {"OPT": NameUse("jobs[0].steps[0].args.maybe", "build", "compile")}
    assert used.variables == {
        "go": NameUse("jobs[0].when", "build"),
        "tag": NameUse("jobs[0].steps[0].env.a-key", "build", "compile"),
        "deep": NameUse("jobs[0].steps[0].args.list[1]", "build", "compile"),
        "hard": NameUse("jobs[0].steps[1].args.x", "build", "other"),
    }
    assert set(used.optional_variables) == {"extra", "soft"}, (
        "tested for, in their own text or in a when around it"
    )
    assert not used.computed


@pytest.mark.parametrize("source", ["variables[run.name]", "size(variables)", "variables.map(v, v)"])
def test_a_computed_name_may_be_any(source: str) -> None:
    spec = f"jobs: [{{name: j, steps: [{{name: s, uses: dummy, args: {{x: '${{{{ {source} }}}}'}}}}]}}]"
    used = names_used(parse_spec(spec).spec)
    assert used.computed
    check_names(used, {}, {"anything": "1"}, [])


def problems(declared: set[str], given: set[str], missing: list[str]) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        check_names(names_used(parse_spec(SPEC).spec), declared, given, missing)
    found = located(caught.value, SPEC, ".pilot.yaml")
    return {f"{p.path}:{p.line}:{p.column}": p.message for p in found.problems}


def test_what_is_missing_is_told_with_its_place() -> None:
    assert problems({"tag", "go", "deep"}, set(), ["AUTH"]) == {
        "jobs[0].steps[1].args.x:17:19": 'step "other" of job "build" uses variable "hard", which has no value',
        "jobs[0].env.AUTH:8:17": 'job "build" needs secret "AUTH", which this project does not have',
    }


def test_what_a_run_text_lacks_is_told_at_that_text() -> None:
    spec = "jobs:\n  - name: j\n    steps:\n      - name: s\n        run: echo ${{ variables.x }}\n"
    with pytest.raises(SpecError) as caught:
        check_names(names_used(parse_spec(spec).spec), {}, {}, [])
    [problem] = located(caught.value, spec, ".pilot.yaml").problems
    assert (problem.line, problem.column) == (5, 14)


def test_an_unused_variable_is_reported_with_the_nearest_name() -> None:
    found = problems({"tag", "go", "deep", "hard"}, {"tga"}, [])
    assert found == {
        "variables.tga:0:0": 'variable "tga" is given, but nothing in the spec uses it; did you mean "tag"?'
    }


def test_what_is_declared_or_named_may_be_given() -> None:
    used = names_used(parse_spec(SPEC).spec)
    check_names(used, {"tag", "unused"}, {"unused", "go", "deep", "hard", "extra", "soft"}, [])


def test_a_spec_without_variables_takes_any() -> None:
    spec = "jobs: [{name: j, steps: [{name: s, uses: dummy}]}]"
    check_names(names_used(parse_spec(spec).spec), {}, {"a": "b"}, [])


def test_there_are_not_too_many_problems_at_once() -> None:
    texts = "".join(f"${{{{ variables.v{n} }}}}" for n in range(500))
    spec = f"jobs: [{{name: j, steps: [{{name: s, uses: dummy, args: {{x: '{texts}'}}}}]}}]"
    with pytest.raises(SpecError) as caught:
        check_names(names_used(parse_spec(spec).spec), {}, {}, [])
    assert len(caught.value.problems) == 50
