"""What routes say of themselves in the OpenAPI document: their answers, errors and required actions.

The models of answers (``wire/rest``) are only turned into schemas when the document is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from pilothouse.access.errors import CODES
from pilothouse.edge.parameters import describe_bounds
from pilothouse.wire.rest.base import Answer
from pilothouse.wire.rest.errors import EnvelopeError, Error


class Responses(dict[int | str, dict[str, Any]]):
    """The answers of a route, by status: FastAPI's ``responses=``. ``|`` keeps the error codes of both sides."""

    def __or__(self, other: Mapping[int | str, dict[str, Any]], /) -> Responses:  # type: ignore[override]
        merged = Responses({**self, **other})
        for status in self.keys() & other.keys():
            if CODES_KEY in self[status] and CODES_KEY in other[status]:
                codes = [*self[status][CODES_KEY], *other[status][CODES_KEY]]
                merged[status] = {**other[status], CODES_KEY: codes}
        return merged


PUBLIC = "public"
CODES_KEY = "x-codes"
"""Lists the error codes of a response."""
_MARK = "__pilothouse_action__"
_SCHEMES: list[dict[str, list[str]]] = [{"bearer": []}, {"cookie": []}]
REF = "#/components/schemas/{model}"
_CHANGES = frozenset({"post", "put", "patch", "delete"})


class SchemaOf(dict[str, Any]):
    """A schema that refers to ``model``, so that the document can include it."""

    def __init__(self, model: type[Answer], schema: dict[str, Any]) -> None:
        super().__init__(schema)
        self.model = model


def answer(model: type[Answer], status: int = 200, *, example: Any = None) -> Responses:
    """A successful JSON answer of this model; ``example`` replaces the model's own."""
    shown = model.example if example is None else example
    return _json(SchemaOf(model, _ref(model)), shown, title_of(model), status)


def enveloped(model: type[Answer], status: int = 200, *, example: Any = None) -> Responses:
    """The same in the Arcentra envelope, as its ``detail``."""
    shown = model.example if example is None else example
    return _in_envelope(model, _ref(model), shown, title_of(model), status)


def enveloped_list(model: type[Answer]) -> Responses:
    """A page of a list in the Arcentra envelope: ``{"list","total","page","pageSize"}``."""
    count = {"type": "integer", "minimum": 0}
    page = {"list": {"type": "array", "items": _ref(model)}, "total": count, "page": count, "pageSize": count}
    detail = {"type": "object", "required": list(page), "properties": page}
    shown = {"list": [model.example], "total": 1, "page": 1, "pageSize": 20}
    return _in_envelope(model, detail, shown, "A page of a list", 200)


def json_lines(model: type[Answer], example: str, *, description: str) -> Responses:
    """A successful answer that is text, or one JSON object of this model per line, as the caller asks."""
    lines = {"schema": SchemaOf(model, _ref(model)), "example": model.example}
    text = {"schema": {"type": "string"}, "example": example}
    shown = {"text/plain": text, "application/x-ndjson": lines}
    return Responses({200: {"description": description, "content": shown}})


def content(example: str, *, media: str = "text/plain", description: str) -> Responses:
    """A successful answer that is not JSON."""
    schema = {"type": "string"}
    if media == "application/octet-stream":
        schema["format"] = "binary"
    shown = {media: {"schema": schema, "example": example}}
    return Responses({200: {"description": description, "content": shown}})


def errors(*codes: str) -> Responses:
    """The errors of an operation beside those that all have (authentication, rights, limits, invalid parameters)."""
    found = Responses()
    for code in codes:
        status, _ = CODES[code]
        response = found.setdefault(status, {"description": "", CODES_KEY: []})
        response[CODES_KEY].append(code)
    return found


def operation_id(route: APIRoute) -> str:
    """The id of an operation: the name of the route's function in camel case, ``listAgents``."""
    first, *others = route.name.split("_")
    return first + "".join(word.capitalize() for word in others)


def mark(dependency: Callable[..., Any], action: str) -> None:
    """Store the required action on a dependency."""
    setattr(dependency, _MARK, action)


def required_action(route: Any) -> str | None:
    """The action that a route requires, :data:`PUBLIC`, or ``None`` if it declares nothing."""
    dependant = getattr(route, "dependant", None)
    return None if dependant is None else _marked(dependant)


def required_checks(route: Any) -> Iterator[Callable[..., Any]]:
    """The dependencies of a route that were marked: each takes the request and its caller, and may refuse."""
    dependant = getattr(route, "dependant", None)
    waiting = [] if dependant is None else list(dependant.dependencies)
    while waiting:
        dependency = waiting.pop(0)
        if getattr(dependency.call, _MARK, PUBLIC) != PUBLIC:
            yield dependency.call
        waiting.extend(dependency.dependencies)


def route_actions(route: Any) -> Iterator[str]:
    """The actions that a route requires; none if it is public."""
    for check in required_checks(route):
        yield str(getattr(check, _MARK))


def required_actions(app: FastAPI) -> Iterator[tuple[str, str, str | None]]:
    """Every route of the app: method (``WEBSOCKET`` for a socket), path, and required action."""
    for route in iter_route_contexts(app.routes):
        if route.path is None:
            continue
        for method in sorted(route.methods or {"WEBSOCKET"}):
            yield method, route.path, required_action(route)


def describe(app: FastAPI, in_envelope: Callable[[str], bool]) -> None:
    """Add ``x-required-action``, security, errors, models and complete examples to the document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate(), app, in_envelope)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _complete(document: dict[str, Any], app: FastAPI, in_envelope: Callable[[str], bool]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= schemas_of({Error, EnvelopeError, *_models(app)})
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "pilot_token"},
    }
    actions = {(method.lower(), path): action for method, path, action in required_actions(app)}
    paths = document.get("paths", {})
    for path, operations in paths.items():
        model = EnvelopeError if in_envelope(path) else Error
        for method, operation in operations.items():
            describe_bounds(operation)
            action = actions.get((method, path))
            if action is not None:
                operation["x-required-action"] = action
                operation["security"] = [] if action == PUBLIC else _SCHEMES
            _add_errors(operation, _common(method, path, operation), model)
    _restore_examples(paths, app)


class _Untitled(GenerateJsonSchema):
    """Without titles that only repeat the names of keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def schemas_of(models: set[type[Answer]]) -> dict[str, Any]:
    """The JSON Schemas of models and of those that they refer to, by name, with the models' examples."""
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "serialization") for model in ordered], ref_template=REF, schema_generator=_Untitled
    )
    found: dict[str, Any] = definitions["$defs"]
    for model in ordered:
        if model.example is not None:
            found[model.__name__]["example"] = model.example
    return found


def _models(app: FastAPI) -> Iterator[type[Answer]]:
    for route in iter_route_contexts(app.routes):
        for response in (getattr(route, "responses", None) or {}).values():
            for content in response.get("content", {}).values():
                if isinstance(content.get("schema"), SchemaOf):
                    yield content["schema"].model


def _common(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    """The codes of errors that the edge itself answers."""
    yield from (
        "HEADER_REPEATED",
        "MALFORMED_REQUEST",
        "REQUEST_TIMEOUT",
        "TOO_MANY_CONNECTIONS",
        "SERVER_BUSY",
    )
    if operation.get("security"):
        yield from ("AUTH_TOKEN_MISSING", "AUTH_TOKEN_INVALID", "AUTH_TOKEN_EXPIRED")
        yield "AUTH_INSUFFICIENT_PERMISSIONS"
        if method in _CHANGES:
            yield "ORIGIN_FORBIDDEN"
    parameters = operation.get("parameters", [])
    names = {parameter["name"] for parameter in parameters}
    if names:
        yield "INVALID_PARAMETER"
    if any(parameter["in"] == "query" and parameter.get("required") for parameter in parameters):
        yield "MISSING_REQUIRED_FIELD"
    if "Idempotency-Key" in names:
        yield "IDEMPOTENCY_KEY_REUSED"
    if "requestBody" in operation:
        yield from ("VALIDATION_FAILED", "MISSING_REQUIRED_FIELD", "PAYLOAD_TOO_LARGE")
    if path.startswith("/api/"):
        yield from ("HEADER_REPEATED", "CLIENT_TOO_OLD", "RATE_LIMIT_EXCEEDED", "TOO_MANY_CONNECTIONS")
        yield from ("STORAGE_BUSY", "SERVER_BUSY")


def _add_errors(operation: dict[str, Any], common: Iterator[str], model: type[Answer]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for status, response in errors(*common).items():
        if CODES_KEY not in responses.get(str(status), {CODES_KEY: []}):
            continue  # the route has an answer of its own with this status
        given = responses.setdefault(str(status), {"description": "", CODES_KEY: []})
        given[CODES_KEY] = sorted({*given.get(CODES_KEY, ()), *response[CODES_KEY]})
    shown = {"application/json": {"schema": _ref(model)}}
    for status, response in responses.items():
        if status >= "4" and CODES_KEY in response:
            response["description"] = ", ".join(f"`{code}`" for code in response[CODES_KEY])
            response["content"] = shown
    responses.setdefault("default", {"description": "Another error", "content": shown})
    operation["responses"] = dict(sorted(responses.items()))


def _json(schema: dict[str, Any], example: Any, description: str, status: int) -> Responses:
    shown = {"application/json": {"schema": schema, "example": example}}
    return Responses({status: {"description": description, "content": shown}})


def _in_envelope(
    model: type[Answer], detail: dict[str, Any], example: Any, description: str, status: int
) -> Responses:
    properties = {
        "code": {"type": "integer", "const": status},
        "msg": {"type": "string", "const": "success"},
        "detail": detail,
        "timestamp": {"type": "integer", "description": "Unix seconds."},
    }
    schema = {"type": "object", "required": list(properties), "properties": properties}
    shown = {"code": status, "msg": "success", "detail": example, "timestamp": 1769857800}
    return _json(SchemaOf(model, schema), shown, description, status)


def _ref(model: type[Answer]) -> dict[str, Any]:
    return {"$ref": REF.format(model=model.__name__)}


def title_of(model: type[Answer]) -> str:
    """The first paragraph of a model's docstring, in Markdown."""
    return (model.__doc__ or "").split("\n\n")[0].replace("``", "`").replace("\n    ", " ")


def _restore_examples(paths: dict[str, Any], app: FastAPI) -> None:
    # FastAPI removes all nulls from its document, also in examples; real answers have these keys.
    for route in iter_route_contexts(app.routes):
        operations = paths.get(route.path_format or "", {})
        for method in route.methods or ():
            operation = operations.get(method.lower())
            if operation is not None:
                _put_back(operation["responses"], route.responses)


def _put_back(described: dict[str, Any], given: Responses) -> None:
    for status, response in given.items():
        for media, content in response.get("content", {}).items():
            if "example" in content:
                described[str(status)]["content"][media]["example"] = content["example"]


def _marked(dependant: Dependant) -> str | None:
    for dependency in dependant.dependencies:
        action = getattr(dependency.call, _MARK, None) or _marked(dependency)
        if action is not None:
            return str(action)
    return None
