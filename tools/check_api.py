"""Compare the OpenAPI document with that of the last release: within /api/v1 nothing is removed or narrowed.

    python tools/check_api.py             exit 1 and name what would break a client of the last release
    python tools/check_api.py --accept    make today's document that of the release (done when one is made)

What counts: operations and their ids, statuses of success, keys and types of answers (a client reads them), and what
a request may contain (a client sends it). Added keys, operations, statuses, codes and values are compatible.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.server.document import openapi

FILE = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"
Document = dict[str, Any]
_LOWER = ("maxLength", "maxItems", "maxProperties", "maximum")
_HIGHER = ("minLength", "minItems", "minProperties", "minimum")


def breaks(old: Document, new: Document) -> list[str]:
    """What a client of ``old`` would miss in ``new``, one line each."""
    return sorted(set(_Comparison(old, new).problems()))


class _Comparison:
    def __init__(self, old: Document, new: Document) -> None:
        self._old = old
        self._new = new

    def problems(self) -> Iterator[str]:
        for path, methods in self._old["paths"].items():
            for method, operation in methods.items():
                name = f"{method.upper()} {path}"
                now = self._new["paths"].get(path, {}).get(method)
                if now is None:
                    yield f"{name}: removed"
                    continue
                if now["operationId"] != operation["operationId"]:
                    yield f"{name}: its id is {now['operationId']}, was {operation['operationId']}"
                yield from self._answers(name, operation, now)
                yield from self._requests(name, operation, now)

    def _answers(self, name: str, old: Document, new: Document) -> Iterator[str]:
        for status, response in old["responses"].items():
            if not status.startswith("2"):
                continue
            now = new["responses"].get(status)
            if now is None:
                yield f"{name}: no answer {status} any more"
                continue
            for media, content in response.get("content", {}).items():
                if media not in now.get("content", {}):
                    yield f"{name}: {status} is not {media} any more"
                    continue
                schema, schema_now = content.get("schema", {}), now["content"][media].get("schema", {})
                yield from self._answer(f"{name} {status}", schema, schema_now, ())

    def _answer(self, place: str, old: Any, new: Any, seen: tuple[str, ...]) -> Iterator[str]:
        """Whoever reads an answer finds what was there: keys, with no types but those that there were."""
        if reference := _reference(old):
            if reference in seen:
                return
            seen = (*seen, reference)
        old, new = self._resolved(self._old, old), self._resolved(self._new, new)
        if added := _types(new) - _types(old) - ({"integer"} if "number" in _types(old) else set()):
            yield f"{place}: may now be {', '.join(sorted(added))}"
        for key, schema in old.get("properties", {}).items():
            if key not in new.get("properties", {}):
                yield f"{place}.{key}: removed"
                continue
            if key in old.get("required", ()) and key not in new.get("required", ()):
                yield f"{place}.{key}: may be missing now"
            yield from self._answer(f"{place}.{key}", schema, new["properties"][key], seen)
        for part in ("items", "additionalProperties"):
            if isinstance(old.get(part), dict) and isinstance(new.get(part), dict):
                yield from self._answer(f"{place}[]", old[part], new[part], seen)

    def _requests(self, name: str, old: Document, new: Document) -> Iterator[str]:
        given = {(p["in"], p["name"]): p for p in old.get("parameters", [])}
        now = {(p["in"], p["name"]): p for p in new.get("parameters", [])}
        for key, parameter in given.items():
            if key not in now:
                yield f"{name}: parameter {key[1]} removed"
            else:
                yield from self._request(f"{name} ?{key[1]}", parameter["schema"], now[key]["schema"], ())
        for key, parameter in now.items():
            if parameter.get("required") and not given.get(key, {}).get("required"):
                yield f"{name}: parameter {key[1]} is required now"
        body, body_now = old.get("requestBody"), new.get("requestBody")
        if body is None:
            if body_now is not None and body_now.get("required"):
                yield f"{name}: a body is required now"
            return
        if body_now is None:
            yield f"{name}: takes no body any more"
            return
        if body_now.get("required") and not body.get("required"):
            yield f"{name}: a body is required now"
        for media, content in body["content"].items():
            if media not in body_now["content"]:
                yield f"{name}: takes no {media} any more"
                continue
            schema, schema_now = content.get("schema", {}), body_now["content"][media].get("schema", {})
            yield from self._request(f"{name} body", schema, schema_now, ())

    def _request(self, place: str, old: Any, new: Any, seen: tuple[str, ...]) -> Iterator[str]:
        """Whatever was accepted is accepted."""
        if reference := _reference(old):
            if reference in seen:
                return
            seen = (*seen, reference)
        old, new = self._resolved(self._old, old), self._resolved(self._new, new)
        if gone := _types(old) - _types(new) - ({"integer"} if "number" in _types(new) else set()):
            yield f"{place}: may not be {', '.join(sorted(gone))} any more"
        yield from _narrowed(place, old, new)
        properties = new.get("properties", {})
        for key, schema in old.get("properties", {}).items():
            if key in properties:
                yield from self._request(f"{place}.{key}", schema, properties[key], seen)
            else:
                yield f"{place}.{key}: removed"
        for key in new.get("required", ()):
            if key not in old.get("required", ()):
                yield f"{place}.{key}: required now"
        for part in ("items", "additionalProperties"):
            if isinstance(old.get(part), dict) and isinstance(new.get(part), dict):
                yield from self._request(f"{place}[]", old[part], new[part], seen)

    def _resolved(self, document: Document, schema: Document) -> Document:
        """The schema, without reference and without the alternative ``null``, which :func:`_types` names."""
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        choices = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        if len(choices) == 1:
            inner = self._resolved(document, choices[0])
            nullable = {"null"} if len(schema["anyOf"]) > 1 else set()
            return {**inner, "type": sorted(_types(inner) | nullable)}
        if choices:
            found = set().union(*(_types(self._resolved(document, each)) for each in schema["anyOf"]))
            return {**schema, "type": sorted(found)}
        return schema


def _reference(schema: Document) -> str:
    """What a schema refers to, itself or as its only alternative to null; empty if it does not."""
    choices = [each for each in schema.get("anyOf", (schema,)) if each.get("type") != "null"]
    return str(choices[0].get("$ref", "")) if len(choices) == 1 else ""


def _types(schema: Document) -> set[str]:
    kind = schema.get("type", ())
    return {kind} if isinstance(kind, str) else set(kind)


def _narrowed(place: str, old: Document, new: Document) -> Iterator[str]:
    for bound in _LOWER:
        if bound in new and (bound not in old or new[bound] < old[bound]):
            yield f"{place}: {bound} is {new[bound]}, was {old.get(bound, 'none')}"
    for bound in _HIGHER:
        if new.get(bound, 0) > old.get(bound, 0):
            yield f"{place}: {bound} is {new[bound]}, was {old.get(bound, 'none')}"
    if "enum" in new and (gone := set(old.get("enum", ("anything",))) - set(new["enum"])):
        yield f"{place}: not {', '.join(map(str, sorted(gone)))} any more"
    if new.get("pattern", old.get("pattern")) != old.get("pattern"):
        yield f"{place}: the pattern is {new['pattern']}, was {old.get('pattern', 'none')}"


def main() -> int:
    """Compare, or accept."""
    document = openapi()
    if "--accept" in sys.argv:
        FILE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        return 0
    found = breaks(json.loads(FILE.read_text()), document)
    for line in found:
        print(f"{FILE.name}: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
