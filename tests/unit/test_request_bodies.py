"""Request bodies: models in ``wire/rest``, each with an example that is valid and in the OpenAPI document."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

import pilothouse.wire.rest
from pilothouse.wire.rest.bodies import Body
from support import answers

HOME = pilothouse.wire.rest.__name__


def models(base: type[Body] = Body) -> Iterator[type[Body]]:
    for model in base.__subclasses__():
        yield model
        yield from models(model)


def known() -> list[type[Body]]:
    answers.document()  # imports all routes
    for module in pkgutil.iter_modules(pilothouse.wire.rest.__path__, f"{HOME}."):
        import_module(module.name)
    return sorted((m for m in models() if m.__module__.startswith("pilothouse.")), key=lambda m: m.__name__)


def schemas_of_bodies() -> dict[str, Any]:
    """The schemas of the document's request bodies, by name."""
    found = {}
    for operations in answers.document()["paths"].values():
        for operation in operations.values():
            schema = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            )
            for each in (schema or {}).get("anyOf", [schema or {}]):
                if "$ref" in each:
                    name = each["$ref"].rpartition("/")[2]
                    found[name] = answers.document()["components"]["schemas"][name]
    return found


def test_all_are_in_one_place() -> None:
    assert {model.__module__.rpartition(".")[0] for model in known()} == {HOME}
    assert schemas_of_bodies().keys() <= {model.__name__ for model in known()}
    assert len(schemas_of_bodies()) > 15


@pytest.mark.parametrize("model", known(), ids=lambda model: model.__name__)
def test_examples(model: type[Body]) -> None:
    assert model.example is not None
    model.model_validate(model.example)
    assert model.model_json_schema()["example"] == model.example


def test_examples_are_in_the_document() -> None:
    examples = {model.__name__: model.example for model in known()}
    for name, schema in schemas_of_bodies().items():
        assert schema["example"] == examples[name]
