"""Finds the secrets and variables that a graph's expressions name literally, to check them before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pilothouse.engine.graph import Graph, Job
from pilothouse.engine.problems import child_path
from pilothouse.expressions import (
    Expression,
    ExpressionError,
    compile_condition,
    compile_expression,
    secret_names,
)
from pilothouse.expressions.templates import split_template

Tested = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class NameUse:
    """The place where a name is used: ``path`` as in SpecProblem; ``job`` and ``step`` are empty outside of them."""

    path: str
    job: str = ""
    step: str = ""


@dataclass(slots=True)
class NamesUsed:
    """By name, the first place that requires it; ``optional_…``: names that are only used where they are tested for.

    A use is tested if its expression, its step's ``when`` or its job's ``when`` contains ``has(variables.NAME)`` or
    ``"NAME" in variables``; for secrets only if its expression does. ``computed``: an expression uses ``variables``
    in a way that is only known when it is evaluated, such as ``variables[env.WHICH]``.
    """

    secrets: dict[str, NameUse] = field(default_factory=dict)
    variables: dict[str, NameUse] = field(default_factory=dict)
    optional_secrets: dict[str, NameUse] = field(default_factory=dict)
    optional_variables: dict[str, NameUse] = field(default_factory=dict)
    computed: bool = False


def names_of(graph: Graph) -> NamesUsed:
    """The names in all expressions of a graph, and the secrets of its jobs' sources and of its notifications."""
    found = names_used(graph.env, graph.jobs, graph.concurrency)
    for index, job in enumerate(graph.jobs):
        if job.source is not None and job.source.secret:
            found.secrets.setdefault(job.source.secret, NameUse(f"jobs[{index}].source.auth", job.name))
    for one in graph.notify:
        if secret := one["params"].get("secret"):
            found.secrets.setdefault(secret, NameUse(f"{one['path']}.params.secret", one["job"]))
    return found


def secrets_of(part: Graph | Job) -> frozenset[str]:
    """The secrets that a graph or a job of it names. Raises ExpressionError for a text that does not compile."""
    jobs = part.jobs if isinstance(part, Graph) else (part,)
    found: set[str] = set()
    for tree in (part.env, *(tree for job in jobs for tree in _trees(job))):
        if tree:
            found |= secret_names(tree)
    return frozenset(found)


def _trees(job: Job) -> Iterator[Any]:
    yield job.env
    for step in job.steps:
        yield step.env
        yield step.args


class _Step(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def when(self) -> str: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def args(self) -> Mapping[str, Any]: ...


class _Job(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def concurrency(self) -> str: ...
    @property
    def when(self) -> str: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def steps(self) -> Sequence[_Step]: ...


def names_used(env: Mapping[str, str], jobs: Sequence[_Job], group: str = "") -> NamesUsed:
    """The names in the common ``env`` and in the ``env``, ``args`` and ``when`` of jobs and steps, and in
    concurrency groups (``group``: that of the run).

    Invalid expressions are ignored.
    """
    found = NamesUsed()
    _texts(found, env, NameUse("runtime.env"), frozenset())
    _texts(found, group, NameUse("concurrency.group"), frozenset())
    for index, job in enumerate(jobs):
        _job(found, job, f"jobs[{index}]")
    return found


def _job(found: NamesUsed, job: _Job, path: str) -> None:
    guards = _condition(found, job.when, NameUse(f"{path}.when", job.name), frozenset())
    _texts(found, job.env, NameUse(f"{path}.env", job.name), guards)
    _texts(found, job.concurrency, NameUse(f"{path}.concurrency", job.name), guards)
    steps = list(job.steps)
    if steps and getattr(steps[0], "guards", False):  # a graph's step that the spec has as the job's approval
        guard = steps.pop(0)
        _texts(found, guard.args, NameUse(f"{path}.approval.params", job.name, guard.name), guards)
    for index, step in enumerate(steps):
        _step(found, job, step, f"{path}.steps[{index}]", guards)


def _step(found: NamesUsed, job: _Job, step: _Step, path: str, guards: Tested) -> None:
    guards |= _condition(found, step.when, NameUse(f"{path}.when", job.name, step.name), guards)
    _texts(found, step.env, NameUse(f"{path}.env", job.name, step.name), guards)
    _texts(found, step.args, NameUse(f"{path}.args", job.name, step.name), guards)


def _condition(found: NamesUsed, when: str, use: NameUse, guards: Tested) -> Tested:
    """Add the names in a ``when``; returns the variables that it tests for."""
    if not when.strip():
        return frozenset()
    try:
        expression = compile_condition(when)
    except ExpressionError:
        return frozenset()
    _expression(found, expression, use, guards)
    return expression.tested


def _texts(found: NamesUsed, tree: Any, use: NameUse, guards: Tested) -> None:
    for text, path in _with_expressions(tree, use.path):
        try:
            parts = split_template(text)
            expressions = [compile_expression(part.source) for part in parts if not isinstance(part, str)]
        except ExpressionError:
            continue
        for expression in expressions:
            _expression(found, expression, NameUse(path, use.job, use.step), guards)


def _with_expressions(tree: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        if "${{" in tree:
            yield tree, path
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _with_expressions(value, child_path(path, str(key)))
    elif isinstance(tree, list | tuple):
        for index, item in enumerate(tree):
            yield from _with_expressions(item, f"{path}[{index}]")


def _expression(found: NamesUsed, expression: Expression, use: NameUse, guards: Tested) -> None:
    for reference in expression.references:
        match reference.root, reference.key:
            case "variables", None:
                found.computed = True
            case "variables", str(name):
                tested = ("variables", name) in expression.tested | guards
                (found.optional_variables if tested else found.variables).setdefault(name, use)
            case "secrets", str(name):
                tested = ("secrets", name) in expression.tested
                (found.optional_secrets if tested else found.secrets).setdefault(name, use)


def names_to_json(names: NamesUsed) -> dict[str, Any]:
    """Encode as JSON values; :func:`names_from_json` is the inverse."""
    found: dict[str, Any] = {
        group: {name: [use.path, use.job, use.step] for name, use in getattr(names, group).items()}
        for group in _GROUPS
    }
    return {**found, "computed": names.computed}


def names_from_json(obj: Mapping[str, Any]) -> NamesUsed:
    """Decode the result of :func:`names_to_json`."""
    groups = {group: {name: NameUse(*use) for name, use in obj[group].items()} for group in _GROUPS}
    return NamesUsed(**groups, computed=obj["computed"])


_GROUPS = ("secrets", "variables", "optional_secrets", "optional_variables")
