"""The places in a spec's text of problems that were found later, in the compiled spec."""

from __future__ import annotations

import re
from dataclasses import replace

from pilothouse.pipelines.spec.checks import mark_at
from pilothouse.pipelines.spec.nodes import Node, NodeError
from pilothouse.pipelines.spec.problems import Mark, Problems, SpecError, SpecProblem, TooManyProblems

_STEP = re.compile(r"\.?(?P<word>[A-Za-z0-9_-]+)|\[(?P<index>[0-9]+)\]|\[\"(?P<key>[^\"]*)\"\]")


def located(error: SpecError, text: str, file: str) -> SpecError:
    """The same problems with line and column, where their paths exist in the text."""
    from pilothouse.pipelines.spec.yaml_nodes import read_nodes  # see parse_spec

    try:
        root = read_nodes(text, Problems())
    except (NodeError, TooManyProblems):  # it was parsed before; the problems are reported in any case
        return SpecError(error.problems, file)

    def place(problem: SpecProblem) -> SpecProblem:
        if problem.line or not problem.path.startswith(("jobs[", "runtime.")):
            return problem
        mark = _mark(root, _steps(problem.path))
        return replace(problem, line=mark.line, column=mark.column)

    return SpecError([place(problem) for problem in error.problems], file)


def _mark(root: Node, steps: list[str | int]) -> Mark:
    if steps[-2:] == ["args", "command"]:
        run = mark_at(root, *steps[:-2], "run")  # how a step may write it
        if run != mark_at(root, *steps[:-2]):
            return run
    return mark_at(root, *steps)


def _steps(path: str) -> list[str | int]:
    found = _STEP.finditer(path)
    return [int(m["index"]) if m["index"] else m["word"] or m["key"] or "" for m in found]
