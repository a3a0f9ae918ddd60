"""What breaks clients of the last release is found, and nothing else."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Document = dict[str, Any]

_FILE = Path(__file__).resolve().parents[2] / "tools" / "check_api.py"
_SPEC = importlib.util.spec_from_file_location("check_api", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
check_api = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(check_api)

NOTE = {
    "type": "object",
    "required": ["id", "tags"],
    "properties": {
        "id": {"type": "string"},
        "tags": {"type": "array", "items": {"$ref": "#/components/schemas/Tag"}},
        "parent": {"anyOf": [{"$ref": "#/components/schemas/Note"}, {"type": "null"}]},
        "size": {"type": "number"},
    },
}
BODY = {
    "type": "object",
    "required": ["title"],
    "properties": {
        "title": {"type": "string", "maxLength": 100, "minLength": 1},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "due": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
}
DOCUMENT: Document = {
    "paths": {
        "/notes": {
            "post": {
                "operationId": "writeNote",
                "parameters": [{"in": "query", "name": "at", "schema": {"type": "string", "maxLength": 9}}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": BODY}}},
                "responses": {
                    "201": {
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Note"}}}
                    },
                    "404": {},
                },
            }
        }
    },
    "components": {
        "schemas": {
            "Note": NOTE,
            "Tag": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        }
    },
}


def post(document: Document) -> Document:
    found: Document = document["paths"]["/notes"]["post"]
    return found


def note(document: Document) -> Document:
    found: Document = document["components"]["schemas"]["Note"]
    return found


def body(document: Document) -> Document:
    found: Document = post(document)["requestBody"]["content"]["application/json"]["schema"]
    return found


def put(where: Document, key: str, value: Any) -> None:
    where[key] = value


BREAKING: dict[str, Callable[[Document], Any]] = {
    "an operation": lambda d: d["paths"].pop("/notes"),
    "a method": lambda d: d["paths"]["/notes"].pop("post"),
    "an id": lambda d: put(post(d), "operationId", "createNote"),
    "a status": lambda d: put(post(d)["responses"], "200", post(d)["responses"].pop("201")),
    "a media type": lambda d: put(post(d)["responses"]["201"], "content", {"text/plain": {}}),
    "a key of an answer": lambda d: note(d)["properties"].pop("id"),
    "a key of an answer inside a list": lambda d: d["components"]["schemas"]["Tag"]["properties"].pop("name"),
    "a key that may be missing": lambda d: note(d)["required"].remove("id"),
    "a type of an answer": lambda d: put(note(d)["properties"], "id", {"type": "integer"}),
    "an answer that may be null": lambda d: put(
        note(d)["properties"], "id", {"anyOf": [{"type": "string"}, {"type": "null"}]}
    ),
    "a parameter": lambda d: post(d)["parameters"].clear(),
    "a new required parameter": lambda d: post(d)["parameters"].append(
        {"in": "query", "name": "by", "required": True, "schema": {"type": "string"}}
    ),
    "a shorter parameter": lambda d: put(post(d)["parameters"][0]["schema"], "maxLength", 8),
    "a body": lambda d: post(d).pop("requestBody"),
    "a key of a body": lambda d: body(d)["properties"].pop("kind"),
    "a new required key": lambda d: body(d)["required"].append("kind"),
    "a lower bound": lambda d: put(body(d)["properties"]["title"], "maxLength", 99),
    "a higher minimum": lambda d: put(body(d)["properties"]["title"], "minLength", 2),
    "a pattern": lambda d: put(body(d)["properties"]["title"], "pattern", "^[a-z]+$"),
    "a value of a body": lambda d: put(body(d)["properties"]["kind"], "enum", ["a"]),
    "null in a body": lambda d: put(body(d)["properties"], "due", {"type": "integer"}),
}
COMPATIBLE: dict[str, Callable[[Document], Any]] = {
    "nothing": lambda d: None,
    "another operation": lambda d: put(d["paths"], "/tags", copy.deepcopy(d["paths"]["/notes"])),
    "another key of an answer": lambda d: put(note(d)["properties"], "more", {"type": "string"}),
    "whole numbers only": lambda d: put(note(d)["properties"], "size", {"type": "integer"}),
    "a value that is never null any more": lambda d: put(
        note(d)["properties"], "parent", {"$ref": "#/components/schemas/Note"}
    ),
    "another key of a body": lambda d: put(body(d)["properties"], "more", {"type": "string"}),
    "a longer text": lambda d: put(body(d)["properties"]["title"], "maxLength", 200),
    "another value of a body": lambda d: put(body(d)["properties"]["kind"], "enum", ["a", "b", "c"]),
    "an optional body": lambda d: put(post(d)["requestBody"], "required", False),
    "another error": lambda d: put(post(d)["responses"], "409", {}),
    "an error less": lambda d: post(d)["responses"].pop("404"),
}


@pytest.mark.parametrize("what", BREAKING)
def test_what_breaks_clients_is_named(what: str) -> None:
    new = copy.deepcopy(DOCUMENT)
    BREAKING[what](new)
    assert check_api.breaks(DOCUMENT, new)


@pytest.mark.parametrize("what", COMPATIBLE)
def test_what_breaks_nobody_is_not(what: str) -> None:
    new = copy.deepcopy(DOCUMENT)
    COMPATIBLE[what](new)
    assert check_api.breaks(DOCUMENT, new) == []
