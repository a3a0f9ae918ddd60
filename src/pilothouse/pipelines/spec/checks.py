"""Checks that need the whole spec: unique names, jobs that exist, no cycles, expressions that compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pilothouse.engine.order import Upstream, find_cycle
from pilothouse.expressions import Expression, compile_condition, compile_expression
from pilothouse.expressions.errors import ExpressionError
from pilothouse.expressions.templates import CLOSING, OPENING, split_template
from pilothouse.pipelines.spec import foreign
from pilothouse.pipelines.spec.model import Spec
from pilothouse.pipelines.spec.nodes import Dictionary, Node, Sequence
from pilothouse.pipelines.spec.problems import Mark, Problems, TooManyProblems, did_you_mean, shown
from pilothouse.pipelines.spec.reader import Reading, Site

MAX_CYCLES = 5
MAX_EXPRESSIONS = 5000  # of a spec, after expanding aliases
MAX_EXPRESSION_TEXT = 256 * 1024  # characters in total


def check_names(spec: Spec, root: Node, problems: Problems) -> None:
    """Job names are unique, and step names within their job."""
    first: dict[str, str] = {}
    for index, job in enumerate(spec.jobs):
        path = f"jobs[{index}]"
        if job.name and first.setdefault(job.name, path) != path:
            message = f"two jobs are named {shown(job.name)}"
            problems.add(mark_at(root, "jobs", index, "name"), f"{path}.name", message, "a name of its own")
        seen: set[str] = set()
        for number, step in enumerate(job.steps):
            if step.name and step.name in seen:
                mark = mark_at(root, "jobs", index, "steps", number, "name")
                message = f"two steps of job {shown(job.name)} are named {shown(step.name)}"
                problems.add(mark, f"{path}.steps[{number}].name", message, "a name of its own")
            seen.add(step.name)


def check_dependencies(spec: Spec, root: Node, problems: Problems) -> dict[str, list[str]]:
    """Every dependsOn names another job, and there is no cycle. Returns the valid edges."""
    depends: dict[str, list[str]] = {job.name: [] for job in spec.jobs}
    place: dict[tuple[str, str], tuple[Mark, str]] = {}
    for index, job in enumerate(spec.jobs):
        for number, need in enumerate(job.depends_on):
            mark, path = (
                mark_at(root, "jobs", index, "dependsOn", number),
                f"jobs[{index}].dependsOn[{number}]",
            )
            if need == job.name:
                problems.add(mark, path, f"job {shown(job.name)} depends on itself", "another job")
            elif need not in depends:
                others = [name for name in depends if name and name != job.name]
                message = f"there is no job {shown(need)}{did_you_mean(need, others)}"
                problems.add(mark, path, message, _one_of(others))
            elif (job.name, need) not in place:
                depends[job.name].append(need)
                place[job.name, need] = mark, path
    _check_cycles(depends, place, problems)
    return depends


def _check_cycles(
    depends: dict[str, list[str]], place: Mapping[tuple[str, str], tuple[Mark, str]], problems: Problems
) -> None:
    """One problem per cycle, at its last edge, which is then removed so that further cycles are found."""
    for _ in range(MAX_CYCLES):
        if not (cycle := find_cycle(depends)):
            return
        mark, path = place[cycle[-1], cycle[0]]
        route = [*cycle, cycle[0]]
        if len(route) > 12:
            route = [*route[:6], "...", *route[-5:]]
        message = "jobs depend on each other in a cycle: " + " -> ".join(route)
        problems.add(mark, path, message, "one of these dependencies left out")
        depends[cycle[-1]].remove(cycle[0])


@dataclass(frozen=True, slots=True)
class Compiled:
    """One expression of a spec, with the text that holds it and its place."""

    expression: Expression
    mark: Mark
    site: Site


def check_expressions(spec: Spec, depends: Mapping[str, list[str]], reading: Reading) -> list[Compiled]:
    """Every expression compiles and refers to jobs that exist. Returns the valid ones."""
    upstream, problems = Upstream(depends), reading.problems
    found: list[Compiled] = []
    if not reading.stored:
        _check_bounds(reading)
    for site in reading.sites:
        for expression, mark in _compiled(site, problems):
            found.append(Compiled(expression, mark, site))
            for job in sorted(expression.jobs):
                if job not in depends:
                    names = [job.name for job in spec.jobs]
                    message = f"there is no job {shown(job)}{did_you_mean(job, names)}"
                    problems.add(mark, site.path, message, _one_of(names))
                elif site.job and not upstream.holds(job, site.job):
                    hint = "refers to itself" if job == site.job else f"does not depend on job {shown(job)}"
                    message = f"job {shown(site.job)} {hint}, so its outputs may not be there yet"
                    problems.warn(mark, site.path, message)
    return found


def _check_bounds(reading: Reading) -> None:
    """A bound on the time of compiling: over it a problem, and TooManyProblems ends the check."""
    count = size = 0
    for site in reading.sites:
        texts = [site.node.text] if site.condition else site.node.text.split(OPENING)[1:]
        count += len(texts)
        size += sum(text.rfind(CLOSING) % (len(text) + 1) for text in texts)
        if count > MAX_EXPRESSIONS or size > MAX_EXPRESSION_TEXT:
            bounds = f"{MAX_EXPRESSIONS} expressions, or {MAX_EXPRESSION_TEXT} characters of them"
            message = f"the spec holds more than {bounds}, with every alias expanded"
            reading.problems.add(
                site.node.mark, site.path, message, "fewer, or some in scripts of the repository"
            )
            raise TooManyProblems


def _compiled(site: Site, problems: Problems) -> list[tuple[Expression, Mark]]:
    """The expressions of one text, with their places; a problem for each that does not compile."""
    text = site.node.text
    if site.condition:
        mark = next(iter(site.node.places(text.strip()[:20].splitlines()[0])), site.node.mark)
        try:
            return [(compile_condition(text), mark)]
        except ExpressionError as error:
            _add(problems, site, mark, text, error)
            return []
    places = site.node.places(OPENING)
    # An escape such as \x24 can hide a ${{; then the place is the start of the text.
    exact = len(places) == text.count(OPENING)
    found: list[tuple[Expression, Mark]] = []
    try:
        parts = split_template(text)
    except ExpressionError as error:
        mark = places[text.count(OPENING, 0, error.offset)] if exact else site.node.mark
        _add(problems, site, mark, text[error.offset :], error)
        return []
    for part in parts:
        if isinstance(part, str):
            continue
        mark = places[part.ordinal] if exact else site.node.mark
        try:
            found.append((compile_expression(part.source), mark))
        except ExpressionError as error:
            _add(problems, site, mark, part.source, error)
    return found


def _add(problems: Problems, site: Site, mark: Mark, source: str, error: ExpressionError) -> None:
    message, expected = error.message, error.expected
    if error.code == "EXPRESSION_UNKNOWN_NAME" and (ours := foreign.expression(source[error.offset :])):
        message, expected = f"{message.partition(';')[0]}, which other products have", ours
    if site.condition and (ours := foreign.condition(source)):
        message, expected = "this is how other products write it", ours
    problems.add(mark, site.path, f"in `{shown(source)[1:-1]}`: {message}", expected)


def _one_of(names: list[str]) -> str:
    shortened = [*names[:8], "..."] if len(names) > 8 else names
    return "one of " + ", ".join(shortened) if shortened else "a job of this spec"


def mark_at(root: Node, *steps: str | int) -> Mark:
    """The place of the value at the path ``steps``, or of its last ancestor that exists."""
    node = root
    for step in steps:
        following: Node | None = None
        if isinstance(step, int) and isinstance(node, Sequence):
            following = node.items[step] if step < len(node.items) else None
        elif isinstance(node, Dictionary):
            keys = (step, "depends_on") if step == "dependsOn" else (step,)
            following = next((value for key, value in node.entries if key.text in keys), None)
        if following is None:
            break
        node = following
    return node.mark
