"""What the contract knows and this release does not do yet: refused where it would matter, else warned of.

A field must never be taken silently for something that then does not happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from pilothouse.engine.spec.checks import mark_at
from pilothouse.engine.spec.model import Job, Spec
from pilothouse.engine.spec.nodes import Node
from pilothouse.engine.spec.problems import Problems

RUNTIMES = ("", "process")


def check_offered(spec: Spec, root: Node, problems: Problems) -> tuple[str, ...]:
    """Problems for what would change what a run means; returns warnings for what is merely not acted on."""
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
        if job.approval is not None and job.approval.required:
            mark = mark_at(root, "jobs", index, "approval")
            message = f"job {job.name!r} asks for approval, which is not part of this release"
            problems.add(mark, f"jobs[{index}].approval", message, "no approval, or required: false")
        if job.concurrency:
            mark = mark_at(root, "jobs", index, "concurrency")
            message = "concurrency groups are not part of this release"
            problems.add(mark, f"jobs[{index}].concurrency", message, "no concurrency")
    return tuple(_warnings(spec))


def _warnings(spec: Spec) -> Iterator[str]:
    if spec.triggers:
        yield "triggers are kept but not acted on in this release: start runs by hand or through the API"
    if spec.runtime.resources is not None:
        yield "runtime.resources are not enforced on process agents"
    if spec.runtime.config:
        yield "runtime.config is not acted on in this release"
    for job in spec.jobs:
        ignored = [name for name in ("source", "target", "notify", "triggers") if _given(job, name)]
        if ignored:
            yield f"job {job.name!r}: {', '.join(ignored)} not acted on in this release"


def _given(job: Job, name: str) -> bool:
    return bool(getattr(job, name))
