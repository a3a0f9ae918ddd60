"""What runs of specs in workers: the same results as in this process, and few imports."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pilothouse.pipelines.compiled import compile_source, read_spec
from pilothouse.pipelines.jobs import (
    DONE,
    INVALID,
    NOT_UNICODE,
    check_job,
    compile_job,
    encoded_source,
    locate_job,
    problems_from_json,
    problems_to_json,
)
from pilothouse.pipelines.spec import SpecError, SpecProblem
from support.server import spec_for

TEXT = """
jobs:
  - name: build
    steps:
      - {name: greet, run: 'echo ${{ variables.NAME }}', env: {A: "${{ secrets.KEY }}"}}
"""
STEP: dict[str, Any] = spec_for("x")["jobs"][0]["steps"][0]


def job_with(step: dict[str, Any]) -> dict[str, Any]:
    return {"jobs": [{"name": "build", "steps": [{**STEP, **step}]}]}


def nested(depth: int) -> Any:
    found: Any = "x"
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "source", [TEXT, spec_for("x", "one", "two"), job_with({"env": {"ä": "\U0001f600"}})]
)
def test_valid_specs(source: Any) -> None:
    compiled = compile_source(source)
    outcome = compile_job(*encoded_source(source), "")
    indented = "" if compiled.written else compiled.text
    texts = (compiled.spec, compiled.graph, compiled.names, compiled.triggers, indented)
    assert outcome == (DONE, *(text.encode() for text in texts))
    parsed = read_spec(source)
    kind, jobs, warnings = check_job(*encoded_source(source), "")
    assert (kind, jobs) == (DONE, b"%d" % len(parsed.spec.jobs))
    assert isinstance(warnings, bytes)
    assert problems_from_json(warnings) == parsed.warnings


WRONG: dict[str, Any] = {
    "text": "jobs:\n  - nme: build\n",
    "half a character in a text": "a: \ud800",
    "object": {"jobs": [{"name": "a b", "steps": []}]},
    "half a character in a key": {"jobs": [], "\udc00": 1},
    "an integer of 70 bits": job_with({"timeout": 2**70}),
    "300 levels": job_with({"args": {"command": nested(300)}}),
    "nothing": "",
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_specs(name: str) -> None:
    """The same problems, with their places and whatever stands in them."""
    with pytest.raises(SpecError) as caught:
        compile_source(WRONG[name], "ci.yaml")
    for job in (compile_job, check_job):
        kind, problems = job(*encoded_source(WRONG[name]), "ci.yaml")
        assert kind == INVALID
        assert isinstance(problems, bytes)
        assert problems_from_json(problems) == caught.value.problems


def test_half_characters_in_values() -> None:
    source = job_with({"args": {"command": "\ud800"}})
    with pytest.raises(TypeError):
        compile_source(source)
    assert compile_job(*encoded_source(source), "") == (NOT_UNICODE, b"")


def test_places_of_problems() -> None:
    problem = SpecProblem("there is no variable NAME", 0, 0, "", "jobs[0].steps[0].args")
    [found] = problems_from_json(locate_job(problems_to_json((problem,)), TEXT.encode(), "ci.yaml"))
    assert (found.line, found.message) == (5, problem.message)


def test_a_worker_imports_what_specs_need_and_nothing_else() -> None:
    """Starting one must cost little, in time and memory."""
    code = "import pilothouse.pipelines.jobs, sys; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = set(found.stdout.splitlines())
    assert "pilothouse.expressions" in modules
    heavy = {"asyncio", "fastapi", "google", "grpc", "pydantic", "sqlalchemy", "starlette", "structlog"}
    heavy |= {"prompt_toolkit", "rich", "typer"}
    assert modules & heavy == set()
    assert {name for name in modules if name.startswith(("pilothouse.edge", "pilothouse.storage"))} == set()
