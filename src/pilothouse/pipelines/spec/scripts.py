"""Warnings for variables of other products in commands: nothing sets them here, so they would be empty."""

from __future__ import annotations

from pilothouse.pipelines.spec import foreign
from pilothouse.pipelines.spec.checks import mark_at
from pilothouse.pipelines.spec.model import Spec, Step
from pilothouse.pipelines.spec.nodes import Node
from pilothouse.pipelines.spec.problems import Mark, Problems


def check_scripts(spec: Spec, root: Node, problems: Problems) -> None:
    """Warn of variables of other products that a command or script uses and that no env declares."""
    for index, job in enumerate(spec.jobs):
        for number, step in enumerate(job.steps):
            if step.uses != "shell" or not isinstance(text := step.args.get(step.action), str):
                continue
            declared = {*spec.runtime.env, *job.env, *step.env}
            for name, ours in foreign.variables(text).items():
                if name not in declared:
                    mark, path = _place(root, index, number, step)
                    message = f"${name} is a variable of another product, and nothing sets it here"
                    problems.warn(mark, path, message, ours or "an env of yours that sets it")


def _place(root: Node, job: int, number: int, step: Step) -> tuple[Mark, str]:
    base, at = f"jobs[{job}].steps[{number}]", ("jobs", job, "steps", number)
    written = mark_at(root, *at, "run")
    if written != mark_at(root, *at):
        return written, f"{base}.run"
    return mark_at(root, *at, "args", step.action), f"{base}.args.{step.action}"
