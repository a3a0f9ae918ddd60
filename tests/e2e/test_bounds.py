"""Every field of a request has a bound in size, and unknown keys are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.bodies import ENVELOPED, UNKNOWN
from support.server import Server, spec_for

Schema = dict[str, Any]

LARGE = {"/api/v1/pipelines"}
"""Prefixes of paths whose bodies may have 2 MiB; that of others is 256 KiB."""


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def resolved(document: dict[str, Any], schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def unbounded(document: dict[str, Any], schema: Schema, at: str) -> Iterator[str]:
    """The places in a schema without a bound; ``spec`` is checked by its own rules (docs/pipelines.md)."""
    schema = resolved(document, schema)
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from unbounded(document, part, at)
    match schema.get("type"):
        case "string" if not {"maxLength", "enum", "const"} & schema.keys() and schema.get("format") not in (
            "date-time",
            "uuid",
            "binary",  # a file: max_upload, which is 413
        ):
            yield f"{at}: a text without maxLength"
        case "integer" | "number" if "enum" not in schema:
            if not {"maximum", "exclusiveMaximum"} & schema.keys():
                yield f"{at}: a number without maximum"
            if not {"minimum", "exclusiveMinimum"} & schema.keys():
                yield f"{at}: a number without minimum"
        case "array":
            if "maxItems" not in schema:
                yield f"{at}: an array without maxItems"
            yield from unbounded(document, schema["items"], f"{at}[]")
        case "object":
            yield from _unbounded_object(document, schema, at)
        case None if not {"anyOf", "oneOf", "allOf"} & schema.keys():
            yield f"{at}: anything"


def _unbounded_object(document: dict[str, Any], schema: Schema, at: str) -> Iterator[str]:
    more = schema.get("additionalProperties", True)
    if more is not False and "maxProperties" not in schema:
        yield f"{at}: an object without maxProperties"
    if isinstance(more, dict):
        yield from unbounded(document, more, f"{at}.*")
    for name, field in schema.get("properties", {}).items():
        yield from unbounded(document, field, f"{at}.{name}")


def test_every_field_of_a_body_has_a_bound(document: dict[str, Any]) -> None:
    bodies = {
        f"{method} {path}": operation["requestBody"]["content"]
        for method, path, operation in operations(document)
        if "requestBody" in operation
    }
    assert len(bodies) > 15
    found = [
        place
        for name, content in bodies.items()
        for media in content.values()
        for place in unbounded(document, media["schema"], name)
    ]
    assert found == []


def test_every_parameter_has_a_bound(document: dict[str, Any]) -> None:
    found, count = [], 0
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            count += 1
            found += unbounded(document, parameter["schema"], f"{method} {path} {parameter['name']}")
    assert count > 50
    assert found == []


def test_the_walk_finds_what_has_no_bound() -> None:
    """A control of the walk itself."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "array", "items": {"type": "integer", "maximum": 3}},
            "c": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
            "d": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "e": {},
        },
    }
    assert len(list(unbounded({}, schema, "x"))) == 7


OF_AGENTS = {("POST", "/api/v1/step-runs/{step_run_id}/artifacts")}
"""Operations for which users have no right, whatever the body; test_artifacts.py has their bounds."""


def with_bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, Schema]]:
    """Every operation of users with a JSON body: method, a path that leads nowhere, schema."""
    for method, path, operation in operations(document):
        if (method, path) in OF_AGENTS:
            continue
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            for part in (schema, *schema.get("anyOf", ())):
                if "properties" in resolved(document, part):
                    yield method, re.sub(r"{\w+}", UNKNOWN, path), resolved(document, part)


def code_of(answer: Any) -> str:
    body = answer.json()
    return str(body["errorCode"] if answer.request.url.path.startswith(ENVELOPED) else body["code"])


def message_of(answer: Any) -> str:
    body = answer.json()
    return str(body.get("errMsg") or body["message"])


def test_every_body_refuses_unknown_keys_and_names_them(server: Server, document: dict[str, Any]) -> None:
    asked = 0
    for method, path, schema in with_bodies(document):
        asked += 1
        key = "colour" * 20
        for body in ({"colour": 1}, {**example(document, schema), key: "x"}, {"colour": {"a": []}}):
            answer = server.call(method, path, json=body)
            assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_FAILED"), (method, path)
            assert "'colour" in message_of(answer), message_of(answer)
            assert "not a known key" in message_of(answer)
            assert len(answer.content) < 1000
    assert asked > 15


def example(document: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """A body with all required fields."""
    kinds: dict[str, Any] = {"string": "x", "integer": 1, "boolean": True, "object": {}, "array": []}
    found = {}
    for name in schema.get("required", ()):
        field = resolved(document, schema["properties"][name])
        field = resolved(document, field["anyOf"][0]) if "anyOf" in field else field
        found[name] = field["enum"][0] if "enum" in field else kinds[field["type"]]
    return found


def test_every_text_of_a_body_is_refused_beyond_its_bound(server: Server, document: dict[str, Any]) -> None:
    checked = 0
    for method, path, schema in with_bodies(document):
        for name, field in schema["properties"].items():
            for part in (field, *field.get("anyOf", ())):
                if "maxLength" not in part or part["maxLength"] > 200_000:
                    continue
                checked += 1
                body = {**example(document, schema), name: "x" * (part["maxLength"] + 1)}
                answer = server.call(method, path, json=body)
                assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_FAILED"), (path, name)
                assert message_of(answer).startswith(name), message_of(answer)
                assert len(answer.content) < 2000
    assert checked > 30


HOSTILE = {
    "many unknown keys": "{" + ",".join(f'"k{n}":1' for n in range(20_000)) + "}",
    "many lists": '{"a":[' + ",".join(["[]"] * 80_000) + "]}",
    "deep lists": '{"a":' + "[" * 120_000 + "]" * 120_000 + "}",
    "deep maps": '{"a":' * 40_000 + "1" + "}" * 40_000,
    "65 levels": '{"a":' * 66 + "1" + "}" * 66,
    "a long key": '{"' + "k" * 200_000 + '":1}',
    "a number of 200,000 digits": '{"a":' + "9" * 200_000 + "}",
    "infinity": '{"a":1e999}',
    "no object": "[" + "1," * 100_000 + "1]",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/tokens", "/pipelines", "/projects", "/pipelines/spec/validate"])
def test_hostile_bodies(server: Server, path: str, name: str) -> None:
    answer = server.call(
        "POST", path, content=HOSTILE[name].encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400, answer.text[:500]
    assert code_of(answer) in ("VALIDATION_FAILED", "MISSING_REQUIRED_FIELD")
    assert len(answer.content) < 8192
    assert server.alive


def test_maps_are_bounded(server: Server) -> None:
    """Metadata of a pipeline: entries, and bytes in total."""

    def refused(metadata: dict[str, str]) -> str:
        answer = server.call("POST", "/pipelines", json={"name": "bounded-maps", "metadata": metadata})
        assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_FAILED"), answer.text
        return message_of(answer)

    assert "101 entries, at most 100" in refused({str(n): "" for n in range(101)})
    assert "bytes, at most 16384" in refused({"a": "ä" * 8192, "b": ""})
    assert "metadata" in refused({"a": "x" * 16_385})
    assert "metadata" in refused({"k" * 257: ""})
    largest = {"a": "x" * 16_383}
    made = server.ask("POST", "/pipelines", json={"name": "bounded-maps", "metadata": largest})
    path = f"/pipelines/{made['pipelineId']}"
    assert server.ask("GET", path)["metadata"] == largest
    answer = server.call("PUT", path, json={"metadata": {"a": "x" * 16_384}})
    assert answer.status_code == 400


def test_bodies_are_as_large_as_their_routes_need(server: Server) -> None:
    for path, limit in (("/tokens", 256 << 10), ("/users", 256 << 10), ("/pipelines/spec/validate", 2 << 20)):
        for size, expected in ((limit, 400), (limit + 1, 413)):
            body = b'{"a":"' + b"x" * (size - 8) + b'"}'
            answer = server.call("POST", path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == expected, (path, size)


def test_parameters_are_refused_beyond_their_bounds(server: Server) -> None:
    for path in ("/workflow-runs/", "/agents/", "/pipelines/", "/users/", "/gates/"):
        assert server.call("GET", path + "x" * 256).status_code == 404
        for part in ("x" * 257, "%C3%A4" * 257):
            answer = server.call("GET", path + part)
            assert (answer.status_code, code_of(answer)) == (400, "INVALID_PARAMETER"), path
    for name in ("pipeline", "cluster"):
        assert server.call("GET", f"/workflow-runs?{name}={'x' * 2000}").status_code == 200
        assert server.call("GET", f"/workflow-runs?{name}={'%C3%A4' * 2000}").status_code == 200
        answer = server.call("GET", f"/workflow-runs?{name}={'x' * 2001}")
        assert (answer.status_code, code_of(answer)) == (400, "INVALID_PARAMETER")
        assert name in message_of(answer)
    assert server.call("GET", "/workflow-runs?" + "&".join(["page=1"] * 101)).status_code == 400
    assert server.call("GET", "/workflow-runs?" + "x" * 200 + "=1").status_code == 400
    headers = {"Idempotency-Key": "k" * 256}
    answer = server.call("POST", "/tokens", json={"name": "bounded"}, headers=headers)
    assert (answer.status_code, code_of(answer)) == (400, "INVALID_PARAMETER")


def test_keys_of_the_contract_pages_are_accepted(server: Server) -> None:
    """Those that name an actor, and the ids that the path has already, are ignored."""
    body = {"name": "by-the-page", "createdBy": "somebody else", "description": "", "metadata": {}}
    pipeline_id = server.ask("POST", "/pipelines", json=body)["pipelineId"]
    path = f"/pipelines/{pipeline_id}"
    assert server.ask("GET", path)["createdBy"] == "admin"
    spec = spec_for("nobody")
    save = {"pipelineId": pipeline_id, "spec": spec, "format": 1, "editor": "x", "requestId": "1"}
    server.ask("POST", f"{path}/spec/save", json={**save, "commitMessage": "m", "expectedHeadCommitSha": ""})
    server.ask("POST", f"{path}/spec/validate", json={"pipelineId": pipeline_id, "spec": spec, "format": 1})
    trigger = {"pipelineId": pipeline_id, "variables": {}, "triggeredBy": "x", "requestId": "1"}
    run_id = server.ask("POST", f"{path}/trigger", json=trigger)["runId"]
    assert server.ask("GET", f"{path}/runs/{run_id}")["triggeredBy"] == "admin"
    stop = {"pipelineId": pipeline_id, "runId": run_id, "reason": "x"}
    server.ask("POST", f"{path}/runs/{run_id}/stop", json=stop)
    secret = {"name": "PAGE", "value": "s3cr3t-x", "scope": "project", "scopeId": "", "projectId": ""}
    server.ask("PUT", "/secrets/PAGE", json=secret)
    answer = server.call("PUT", "/secrets/PAGE", json={**secret, "scope": "environment"})
    assert answer.status_code == 400


def test_a_large_spec_as_an_object_is_what_it_was(server: Server) -> None:
    """More values than the event loop parses: a worker has split the body."""
    [step] = spec_for("nobody")["jobs"][0]["steps"]
    step["env"] = {f"V{n}": "1" for n in range(50)}
    jobs = [{"name": f"j{n}", "steps": [{**step, "name": f"s{m}"} for m in range(10)]} for n in range(30)]
    spec = {"jobs": jobs}
    assert json.dumps(spec).count(",") > 10_000
    pipeline_id = server.ask("POST", "/pipelines", json={"name": "large-object"})["pipelineId"]
    path = f"/pipelines/{pipeline_id}"
    keyed = {"Idempotency-Key": "large-object"}
    saved = server.ask("POST", f"{path}/spec/save", json={"spec": spec}, headers=keyed)
    assert server.ask("POST", f"{path}/spec/save", json={"spec": spec}, headers=keyed) == saved
    shown = server.ask("GET", f"{path}/spec")
    assert json.loads(shown["text"]) == spec
    assert shown["text"] == json.dumps(spec, indent=2)
    assert len(shown["spec"]["jobs"]) == 30
    assert server.ask("POST", f"{path}/spec/validate", json={"spec": spec})["jobsCount"] == 30
    server.ask("POST", f"{path}/trigger", json={"spec": spec})
    for wrong, where in (
        ({"spec": spec, "colour": 1}, "'colour' is not a known key"),
        ({"spec": spec, "fileName": [1] * 20_000}, "beside its spec"),
        ({"spec": [spec]}, "neither a text nor an object"),
    ):
        answer = server.call("POST", f"{path}/trigger", json=wrong)
        assert (answer.status_code, code_of(answer)) == (400, "VALIDATION_FAILED")
        assert where in message_of(answer)
    answer = server.call("POST", f"{path}/trigger", None, json={"spec": spec})
    assert answer.status_code == 401


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
