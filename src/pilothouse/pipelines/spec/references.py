"""Finds names in expressions that cannot exist when the expression is evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pilothouse.engine.names import names_used
from pilothouse.expressions.nodes import Index, Literal, Name, Node, Select, walk
from pilothouse.pipelines.spec.approvals import is_required, name_of_step
from pilothouse.pipelines.spec.canonical import triggers_to_json
from pilothouse.pipelines.spec.checks import Compiled
from pilothouse.pipelines.spec.inputs import inputs_of
from pilothouse.pipelines.spec.model import Job, Spec
from pilothouse.pipelines.spec.problems import Problems, did_you_mean, shown

# The keys of roots that have the same ones in every run; the engine fills them, and a test compares.
CONTEXT_KEYS: Mapping[str, tuple[str, ...]] = {
    "run": ("id", "name", "kind", "trigger", "triggered_by", "branch", "commit", "tag"),
    "job": ("id", "name", "round", "outputs"),
    "step": ("id", "name", "attempt"),
}
GROUP_ROOTS = frozenset({"variables", "run"})
_GROUP = re.compile(r"(jobs\[\d+\]\.concurrency|concurrency\.group)")
JOB_KEYS = ("status", "outputs", "steps")
"""The keys of ``jobs.NAME``."""


def check_references(spec: Spec, compiled: Iterable[Compiled], problems: Problems) -> None:
    """Unknown keys of run, job and step are problems; undeclared variables and env are warnings."""
    found = list(compiled)
    environments = _environments(spec)
    steps = {job.name: _steps_of(job) for job in spec.jobs}
    for one in found:
        if _GROUP.fullmatch(one.site.path):
            _check_group(one, problems)
            continue
        if not one.site.rendered:
            message = "expressions are evaluated in env, args and run only; this text is used as it is"
            problems.warn(one.mark, one.site.path, message)
            continue
        for reference in one.expression.references:
            known = CONTEXT_KEYS.get(reference.root)
            if reference.key is None or (reference.root, reference.key) in one.expression.tested:
                continue
            if known is not None and reference.key not in known:
                message = (
                    f"{reference.root} has no {shown(reference.key)}{did_you_mean(reference.key, known)}"
                )
                problems.add(one.mark, one.site.path, message, "one of " + ", ".join(known))
            if reference.root == "env":
                _check_env(reference.key, one, environments, problems)
        if one.expression.jobs:
            _check_jobs(one, steps, problems)
    _check_variables(spec, found, problems)


def _steps_of(job: Job) -> tuple[str, ...]:
    """The names of its steps, and of the one that waits for its approval."""
    return (*((name_of_step(job),) if is_required(job) else ()), *(step.name for step in job.steps))


def _check_group(one: Compiled, problems: Problems) -> None:
    """A concurrency group is worked out before anything runs, and its name is shown."""
    for root in sorted(one.expression.roots - GROUP_ROOTS):
        message = f"a concurrency group cannot use {shown(root)}"
        problems.add(one.mark, one.site.path, message, "variables or run")
    for reference in one.expression.references:
        keys = CONTEXT_KEYS["run"]
        if reference.root == "run" and reference.key is not None and reference.key not in keys:
            message = f"run has no {shown(reference.key)}{did_you_mean(reference.key, keys)}"
            problems.add(one.mark, one.site.path, message, "one of " + ", ".join(keys))


def _check_jobs(one: Compiled, steps: Mapping[str, tuple[str, ...]], problems: Problems) -> None:
    """What follows ``jobs.NAME`` is one of its keys, and a step that is named there is one of the job's."""
    for visit in walk(one.expression.root):
        known: tuple[str, ...] = ()
        match _keys(visit.node):
            case ("jobs", job, key) if job in steps:
                known, what = JOB_KEYS, f"jobs.{job}"
            case ("jobs", job, "steps", key) if job in steps:
                known, what = steps[job], f"job {shown(job)}"
        if known and key not in known:
            message = f"{what} has no {shown(key)}{did_you_mean(key, known)}"
            problems.add(one.mark, one.site.path, message, "one of " + ", ".join(known[:10]))


def _keys(node: Node) -> tuple[str, ...]:
    """``jobs["a"].outputs`` as its names; () for what is asked with has(), or known only when evaluated."""
    found: list[str] = []
    while len(found) < 4:
        match node:
            case Select(_, node, field, False):
                found.append(field)
            case Index(_, node, Literal(_, str() as field)):
                found.append(field)
            case Name(_, name):
                return (name, *reversed(found))
            case _:
                return ()
    return ()


def _environments(spec: Spec) -> dict[str, frozenset[str]]:
    """By the path of a job or step ("" for the runtime), the names of env that its expressions may find.

    What the env of a job refers to is put in for each of its steps, so the names of all of them count there.
    """
    found: dict[str, frozenset[str]] = {}
    every = set(spec.runtime.env)
    for index, job in enumerate(spec.jobs):
        path, common = f"jobs[{index}]", frozenset(spec.runtime.env) | frozenset(job.env)
        for number, step in enumerate(job.steps):
            found[f"{path}.steps[{number}]"] = common | frozenset(step.env)
        found[path] = common.union(*(step.env for step in job.steps))
        every |= found[path]
    found[""] = frozenset(every)
    return found


def _check_env(
    name: str, one: Compiled, environments: Mapping[str, frozenset[str]], problems: Problems
) -> None:
    parts = one.site.path.split(".")[:2]
    declared = environments.get(".".join(parts)) or environments.get(parts[0]) or environments[""]
    if name not in declared and problems.room_for_warnings:
        message = f"env.{name[:80]} is declared in no env of this step, its job or the runtime"
        expected = "a name of env; the agent's own variables are not among them"
        problems.warn(one.mark, one.site.path, message + did_you_mean(name, declared), expected)


def _check_variables(spec: Spec, compiled: list[Compiled], problems: Problems) -> None:
    first: dict[str, Compiled] = {}
    for one in compiled:
        first.setdefault(one.site.path, one)
    inputs = inputs_of(triggers_to_json(spec)) or ()
    declared = {*spec.variables, *(one.name for one in inputs)}
    group = spec.concurrency.group if spec.concurrency else ""
    for name, use in names_used(spec.runtime.env, spec.jobs, group).variables.items():
        if name in declared or not problems.room_for_warnings:
            continue
        # The key ``run`` is args.command in the canonical spec.
        paths = (use.path, use.path.removesuffix("args.command") + "run")
        place = next((first[path] for path in paths if path in first), None)
        if place is not None:
            message = f"variables.{name[:80]} has no value in the spec{did_you_mean(name, declared)}"
            expected = f"every run to be given it (--var {name[:80]}=…), or a test for it: has(variables.{name[:80]})"
            problems.warn(place.mark, place.site.path, message, expected)
