"""The OpenAPI document: whole, and true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support import answers, messages
from support.bodies import ENVELOPED
from support.server import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("openapi"), max_blob=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert document["info"]["version"]
    text = json.dumps(document)
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', text)):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    declared = set(document["components"]["securitySchemes"])
    for name, operation in operations(document):
        in_path = set(re.findall(r"{(\w+)}", name))
        given = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == given, name
        assert all(p.get("schema") for p in operation.get("parameters", [])), name
        assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path"), name
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d|default", status), name
            assert isinstance(response["description"], str), name
        assert all(set(choice) <= declared for choice in operation.get("security", [])), name
        body = operation.get("requestBody", {"content": {"x": {"schema": {}}}})
        assert body["content"], name


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    ids = [operation.get("operationId") for _, operation in operations(document)]
    assert None not in ids
    assert len(set(ids)) == len(ids)
    lacking = [
        (name, part)
        for name, operation in operations(document)
        for part in ("summary", "description", "x-required-action", "tags")
        if not operation.get(part)
    ]
    assert lacking == []


def test_every_operation_states_its_security(document: dict[str, Any]) -> None:
    wrong = []
    for name, operation in operations(document):
        expected: Any = [] if operation["x-required-action"] == "public" else [{"bearer": []}, {"cookie": []}]
        if operation.get("security") != expected:
            wrong.append(name)
    assert wrong == []


def test_every_answer_has_a_schema_and_an_example_that_fits() -> None:
    for place, example, validator in answers.examples():
        assert [error.message for error in validator.iter_errors(example)] == [], place
    for name, operation in operations(answers.document()):
        for status, response in operation["responses"].items():
            for content in response.get("content", {}).values():
                assert content["schema"], f"{name} {status}"


def test_operation_ids_are_short_words(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert [id for id in ids if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", id) or len(id) > 30] == []


def test_every_operation_shows_an_example_of_success(document: dict[str, Any]) -> None:
    lacking = []
    for name, operation in operations(document):
        good = {status: r for status, r in operation["responses"].items() if status[0] == "2"}
        if not good:
            lacking.append(name)
        for status, response in good.items():
            shown = [c for c in response.get("content", {}).values() if "example" in c or "examples" in c]
            if status != "204" and not shown:
                lacking.append(name)
    assert lacking == []


def test_every_operation_describes_its_errors(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        content = operation["responses"]["default"]["content"]["application/json"]
        family = name.split(" ")[1].startswith(ENVELOPED)
        expected = "EnvelopeError" if family else "Error"
        assert content["schema"]["$ref"] == f"#/components/schemas/{expected}", name


def test_the_documents_codes_are_those_of_the_routes(server: Server, document: dict[str, Any]) -> None:
    """Creation returns 201, an empty response 204, as documented in OpenAPI."""
    created = {
        ("POST", "/tokens"): {"name": "documented"},
        ("POST", "/pipelines"): {"name": "documented"},
        ("POST", "/registration-tokens"): {},
    }
    for (method, path), body in created.items():
        answer = server.call(method, path, json=body)
        assert str(answer.status_code) in document["paths"][f"/api/v1{path}"][method.lower()]["responses"]


def test_the_documents_pages(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        answer = server.http.get(server.url + path)
        assert answer.status_code == 200, path
        assert not [h for h in answer.headers if h.lower().startswith("x-ratelimit")], path


def test_asyncapi(server: Server) -> None:
    answer = server.http.get(f"{server.url}/asyncapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document == messages.asyncapi(), "a stream that support.messages does not know"
    assert document["asyncapi"] == "3.0.0"
    for reference in set(re.findall(r'"\$ref":"([^"]+)"', answer.text)):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    for name, channel in document["channels"].items():
        for message in channel["messages"].values():
            model = message["payload"]["$ref"].rpartition("/")[2]
            found = messages.validator(model).iter_errors(message["examples"][0]["payload"])
            assert [error.message for error in found] == [], f"{name}: {model}"


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
