"""Compiled specs: checked and compiled once, stored as JSON texts, and not checked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from pilothouse.engine.graph_json import encoded
from pilothouse.engine.growth import check_graph
from pilothouse.engine.names import NamesUsed, NameUse, names_from_json, names_of, names_to_json
from pilothouse.pipelines.compile import compile_spec
from pilothouse.pipelines.spec import ParsedSpec, parse_spec, spec_from_json, spec_to_json
from pilothouse.pipelines.spec.canonical import triggers_to_json
from pilothouse.pipelines.spec.inputs import Input, inputs_of
from pilothouse.wire.specs import EncodedSpec

SpecSource = str | dict[str, Any]
"""A spec as text (YAML or JSON; errors then name line and column) or as a decoded object."""


Spec = SpecSource | EncodedSpec
"""A spec as a server receives it."""


@dataclass(frozen=True, slots=True)
class CompiledSpec:
    """``text``: the source, of an object its indented JSON, which the caller has not ``written``.

    JSON texts: ``spec`` the canonical spec, ``graph`` the engine's graph, ``names`` the names in expressions,
    ``triggers`` the canonical triggers; empty if an older release has compiled it.
    """

    text: str
    spec: str
    graph: str
    names: str
    written: bool = True
    triggers: str = ""

    @property
    def inputs(self) -> tuple[Input, ...] | None:
        """The declared inputs; None if the spec declares none."""
        return inputs_of(orjson.loads(self.triggers)) if self.triggers else None

    def names_used(self) -> NamesUsed:
        """The secrets and variables that its expressions name."""
        return names_from_json(orjson.loads(self.names))


def read_spec(source: SpecSource, file: str = "") -> ParsedSpec:
    """Parse and check a spec in either form. Raises ``SpecError`` with every problem found."""
    if isinstance(source, str):
        return parse_spec(source, file=file or "<spec>")
    return spec_from_json(source)


def compile_source(source: SpecSource, file: str = "") -> CompiledSpec:
    """Check and compile a spec. Raises ``SpecError``.

    Takes seconds for the largest specs: servers call it in the worker pool (:mod:`pilothouse.pipelines.jobs`).
    """
    spec = read_spec(source, file).spec
    graph = compile_spec(spec)
    check_graph(graph)
    triggers = triggers_to_json(spec)
    names = names_to_json(names_with(names_of(graph), triggers))
    written = isinstance(source, str)
    text = source if isinstance(source, str) else orjson.dumps(source, option=orjson.OPT_INDENT_2).decode()
    return CompiledSpec(
        text, _text(spec_to_json(spec)), encoded(graph), _text(names), written, _text(triggers)
    )


def names_in(parsed: ParsedSpec) -> NamesUsed:
    """The secrets and variables that a checked spec names; takes as long as checking it."""
    return names_with(names_of(compile_spec(parsed.spec)), triggers_to_json(parsed.spec))


def names_with(names: NamesUsed, triggers: list[dict[str, Any]]) -> NamesUsed:
    """The names, with all declared inputs among them, whether an expression uses them or not."""
    for one in inputs_of(triggers) or ():
        names.optional_variables.setdefault(one.name, NameUse("triggers"))
    return names


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
