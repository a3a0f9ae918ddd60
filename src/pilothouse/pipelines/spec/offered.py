"""Parts of the contract that this release does not implement: refused if they change what a run does, otherwise
reported as warnings. No field is ignored silently.
"""

from __future__ import annotations

from pilothouse.pipelines.spec.checks import mark_at
from pilothouse.pipelines.spec.messages import APPROVAL_TYPES, RUNTIMES, SOURCES
from pilothouse.pipelines.spec.model import Spec
from pilothouse.pipelines.spec.nodes import Node
from pilothouse.pipelines.spec.problems import Problems, shown


def check_offered(spec: Spec, root: Node, problems: Problems) -> None:
    """Problems for fields that would change what a run does, warnings for fields without effect."""
    if spec.runtime.type not in RUNTIMES:
        message = f"runtime type {spec.runtime.type!r} is not part of this release"
        problems.add(mark_at(root, "runtime", "type"), "runtime.type", message, "process, or no type")
    if spec.runtime.image:
        message = "container images are not part of this release; steps run as processes of the agent"
        problems.add(mark_at(root, "runtime", "image"), "runtime.image", message, "no image")
    for name, value in spec.variables.items():
        if "${{" in value:
            message = f"variable {name!r} holds an expression; variables are plain texts in this release"
            problems.add(mark_at(root, "variables", name), f"variables.{name}", message, "a plain text")
    for index, job in enumerate(spec.jobs):
        if job.source is not None and job.source.type not in SOURCES:
            mark = mark_at(root, "jobs", index, "source", "type")
            message = f"source type {shown(job.source.type)} is not part of this release"
            problems.add(mark, f"jobs[{index}].source.type", message, "git, or no type")
        if job.approval is None or not job.approval.required:
            continue
        path, type = f"jobs[{index}].approval", job.approval.type
        if type not in APPROVAL_TYPES:
            mark = mark_at(root, "jobs", index, "approval", "type")
            message = f"approval type {type!r} is not part of this release"
            problems.add(mark, f"{path}.type", message, "manual, or no type")
        if job.approval.plugin:
            mark = mark_at(root, "jobs", index, "approval", "plugin")
            message = "plugins of approvals are not part of this release; users approve here"
            problems.add(mark, f"{path}.plugin", message, "no plugin")
    _warn(spec, root, problems)


def _warn(spec: Spec, root: Node, problems: Problems) -> None:
    for index, trigger in enumerate(spec.triggers):
        if trigger.type == "webhook":
            message = "triggers of type webhook have no effect in this release"
            problems.warn(mark_at(root, "triggers", index), f"triggers[{index}]", message)
    if spec.runtime.resources is not None:
        message = "runtime.resources are not enforced on process agents"
        problems.warn(mark_at(root, "runtime", "resources"), "runtime.resources", message)
    if spec.runtime.config:
        message = "runtime.config has no effect in this release"
        problems.warn(mark_at(root, "runtime", "config"), "runtime.config", message)
    for index, job in enumerate(spec.jobs):
        for number, step in enumerate(job.steps):
            if step.uses == "approval" and step.retry is not None:
                path = f"jobs[{index}].steps[{number}].retry"
                message = "an approval is not tried again: what was decided is final"
                problems.warn(mark_at(root, "jobs", index, "steps", number, "retry"), path, message)
        if job.triggers:
            message = f"triggers of job {job.name!r} have no effect in this release"
            problems.warn(mark_at(root, "jobs", index, "triggers"), f"jobs[{index}].triggers", message)
