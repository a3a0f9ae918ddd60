"""Checks of approvals: those of jobs, and the action ``approval/wait``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilothouse.pipelines.spec.messages import APPROVER_ROLES
from pilothouse.pipelines.spec.model import Job
from pilothouse.pipelines.spec.problems import did_you_mean, shown
from pilothouse.pipelines.spec.reader import Fields
from pilothouse.wire.bounds import MAX_APPROVERS


def check_params(params: Fields, values: Mapping[str, Any]) -> None:
    """Check the params of a required approval."""
    for role in values["roles"]:
        if role not in APPROVER_ROLES:
            said = f"roles cannot be {shown(role)}{did_you_mean(role, APPROVER_ROLES)}"
            params.problem(params.mark_of("roles"), "roles", said, _one_of_roles())
    for name in ("roles", "users"):
        if (count := len(values[name])) > MAX_APPROVERS:
            said = f"the approval has {count} {name}"
            params.problem(params.mark_of(name), name, said, f"at most {MAX_APPROVERS}")
    if said := too_few(values["count"], values["roles"], values["users"]):
        params.problem(params.mark_of("count"), "count", said, "roles, or more users")


def too_few(count: Any, roles: Any, users: Any) -> str:
    """Why so many approvals cannot be given; "" if they can, or if it is not known yet."""
    named = [users] if isinstance(users, str) else users or []
    if roles or not named or not isinstance(count, int | float) or not isinstance(named, list | tuple):
        return ""
    if any("${{" in user for user in named if isinstance(user, str)) or count <= len(set(map(str, named))):
        return ""
    return f"{count:g} approvals are needed, and it names fewer users"


def name_of_step(job: Job) -> str:
    """The name of the step that waits for the approval of a job: ``approval``, or ``approval-2`` and so on if a step
    of the job has that name."""
    taken = {step.name for step in job.steps}
    names = ("approval", *(f"approval-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def is_required(job: Job) -> bool:
    """Whether the job waits for approval before its first step."""
    return job.approval is not None and job.approval.required


def _one_of_roles() -> str:
    return "one of " + ", ".join(APPROVER_ROLES)
