"""Graphs: what a spec compiles to, and that they survive the way through JSON and through older releases' storage."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given

from pilothouse.engine.graph import LabelExpression, Retry, Selector, Source
from pilothouse.engine.graph_json import decoded, encoded
from pilothouse.engine.legacy_graphs import from_spec
from pilothouse.engine.names import names_from_json, names_of, names_to_json
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import parse_spec, spec_from_json, spec_to_json
from support.specs import FULL, specs


def test_durations_are_seconds() -> None:
    graph = compile_spec(parse_spec(FULL, only_offered=False).spec)
    tests = graph.jobs[0]
    assert tests.timeout == 5400.0
    assert tests.retry == Retry(3, 10.0)
    text = """
    jobs:
      - name: build
        queueTimeout: 1m30s
        steps:
          - name: compile
            run: make
            timeout: 250ms
            agentSelector: {matchLabels: {os: linux}, matchExpressions: [{key: cpus, operator: Gt, values: ["4"]}]}
    """
    job = compile_spec(parse_spec(text).spec).jobs[0]
    assert (job.queue_timeout, job.timeout, job.steps[0].timeout) == (90.0, 0.0, 0.25)
    assert job.steps[0].selector == Selector({"os": "linux"}, (LabelExpression("cpus", "Gt", ("4",)),))
    assert (job.steps[0].uses, job.steps[0].args) == ("shell", {"command": "make"})


def test_a_source_survives_the_way_through_json() -> None:
    graph = compile_spec(parse_spec(FULL, only_offered=False).spec)
    assert graph.jobs[2].source == Source("https://example.org/x.git", "main", "", "GIT")
    assert decoded(encoded(graph)) == graph


@given(specs())
def test_a_graph_survives_the_way_through_json(message: dict[str, Any]) -> None:
    graph = compile_spec(spec_from_json(message).spec)
    assert decoded(encoded(graph)) == graph
    names = names_of(graph)
    assert names_from_json(orjson.loads(orjson.dumps(names_to_json(names)))) == names


@given(specs())
def test_a_spec_that_an_older_release_stored_gives_the_same_graph(message: dict[str, Any]) -> None:
    spec = spec_from_json(message).spec
    stored = orjson.loads(orjson.dumps(spec_to_json(spec)))
    assert from_spec(stored) == compile_spec(spec)


def test_steps_know_the_target_of_their_job() -> None:
    target = "{type: k8s, config: {cluster: prod, replicas: 3, zones: [a, b]}}"
    steps = "steps: [{name: s, uses: dummy}]"
    text = f"jobs: [{{name: a, target: {target}, env: {{A: b}}, {steps}}}, {{name: b, {steps}}}]"
    first, second = compile_spec(parse_spec(text).spec).jobs
    known = dict(first.env)
    config = orjson.loads(known.pop("PILOT_TARGET"))
    assert config == {"cluster": "prod", "replicas": 3, "zones": ["a", "b"]}
    assert known == {"A": "b", "PILOT_TARGET_TYPE": "k8s"}
    assert second.env == {}
