"""Parsing and checking specs of pipelines: from YAML, JSON or an object to a Spec, or to a list of problems.

The fields are those of ``pipeline.v1.Spec`` in arcentra-wire.txt; decisions.md lists our additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilothouse.pipelines.spec.actions import BUILTIN_ACTIONS, ActionRegistry, ActionSchema, Argument
from pilothouse.pipelines.spec.build import Builder
from pilothouse.pipelines.spec.canonical import spec_to_json
from pilothouse.pipelines.spec.checks import check_dependencies, check_expressions, check_names
from pilothouse.pipelines.spec.model import (
    AgentSelector,
    Approval,
    Job,
    LabelExpression,
    Notify,
    NotifyItem,
    OnLost,
    Resources,
    Retry,
    Runtime,
    Source,
    SourceAuth,
    Spec,
    Step,
    Target,
    Trigger,
)
from pilothouse.pipelines.spec.nodes import Node, NodeError, from_object
from pilothouse.pipelines.spec.offered import check_offered
from pilothouse.pipelines.spec.problems import Problems, SpecError, SpecProblem, TooManyProblems
from pilothouse.pipelines.spec.reader import Reading
from pilothouse.pipelines.spec.references import check_references
from pilothouse.pipelines.spec.schema import json_schema
from pilothouse.pipelines.spec.scripts import check_scripts

__all__ = [
    "BUILTIN_ACTIONS",
    "ActionRegistry",
    "ActionSchema",
    "AgentSelector",
    "Approval",
    "Argument",
    "Job",
    "LabelExpression",
    "Notify",
    "NotifyItem",
    "OnLost",
    "ParsedSpec",
    "Resources",
    "Retry",
    "Runtime",
    "Source",
    "SourceAuth",
    "Spec",
    "SpecError",
    "SpecProblem",
    "Step",
    "Target",
    "Trigger",
    "json_schema",
    "parse_spec",
    "spec_from_json",
    "spec_to_json",
]


@dataclass(frozen=True, slots=True)
class ParsedSpec:
    """``warnings``: valid parts that look like mistakes, in the order of the text."""

    spec: Spec
    warnings: tuple[SpecProblem, ...]


def parse_spec(
    text: str,
    *,
    file: str = "<spec>",
    known_actions: ActionRegistry | None = BUILTIN_ACTIONS,
    only_offered: bool = True,
) -> ParsedSpec:
    """Parse a spec from YAML or JSON text. Raises SpecError with all problems found, with line and column.

    ``known_actions`` None: what steps use is not checked, as for a spec that was checked when it was stored.
    ``only_offered``: refuse parts of the contract that this release does not implement.
    """
    # The parser is loaded with the first text: a server checks specs in its workers.
    from pilothouse.pipelines.spec.yaml_nodes import read_nodes

    problems = Problems()
    try:
        root = read_nodes(text, problems)
    except NodeError as error:
        raise _refused(error, problems, file) from None
    except TooManyProblems:
        raise SpecError(problems.ordered(), file) from None
    return _checked(root, problems, file, known_actions, only_offered)


def spec_from_json(
    obj: Mapping[str, Any],
    *,
    known_actions: ActionRegistry | None = BUILTIN_ACTIONS,
    only_offered: bool = True,
) -> ParsedSpec:
    """The same for a decoded object; line and column of problems are 0. Raises SpecError."""
    problems = Problems()
    try:
        root = from_object(obj)
    except NodeError as error:
        raise _refused(error, problems, "<spec>") from None
    return _checked(root, problems, "<spec>", known_actions, only_offered)


def _refused(error: NodeError, problems: Problems, file: str) -> SpecError:
    """The error that stopped parsing is the last problem: it may be a consequence of the others."""
    last = SpecProblem(error.message, error.mark.line, error.mark.column, error.expected, "")
    return SpecError([*problems.ordered(), last], file)


def _checked(
    root: Node, problems: Problems, file: str, actions: ActionRegistry | None, only_offered: bool
) -> ParsedSpec:
    reading = Reading(problems, stored=actions is None)
    try:
        builder = Builder(actions)
        fields = reading.fields(root, "", builder.message)
        if fields is not None:
            spec = builder.spec(fields)
            check_names(spec, root, problems)
            depends = check_dependencies(spec, root, problems)
            compiled = check_expressions(spec, depends, reading)
            if not reading.stored:
                check_references(spec, compiled, problems)
                check_scripts(spec, root, problems)
            if only_offered:
                check_offered(spec, root, problems)
            if not problems.ordered():
                return ParsedSpec(spec, problems.warnings())
    except TooManyProblems:
        pass  # the problems found so far are reported below
    raise SpecError(problems.ordered(), file) from None
