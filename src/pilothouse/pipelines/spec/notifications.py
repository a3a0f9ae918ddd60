"""Checks of notifications, and the list of all that a spec asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pilothouse.pipelines.spec.model import NotifyItem, Spec
from pilothouse.pipelines.spec.notify_fields import MAX_RECIPIENTS
from pilothouse.pipelines.spec.problems import shown
from pilothouse.pipelines.spec.reader import Fields

PARAMS = {"webhook": "WebhookParams", "email": "EmailParams", "chat": "ChatParams"}
"""The message of the parameters, by plugin."""

ACTION = "send"


def check_item(item: Fields) -> None:
    """Check the action of a notification."""
    action = item.scalar("action")
    if action not in ("", ACTION):
        said = f"the action of a notification cannot be {shown(action)}"
        item.problem(item.mark_of("action"), "action", said, f"{ACTION}, or none")


def check_params(params: Fields, values: Mapping[str, Any]) -> None:
    """Check the parameters of one notification, beyond their patterns."""
    if params.message.name != "EmailParams":
        return
    count, mark = len(values["to"]), params.mark_of("to")
    if not count:
        params.problem(mark, "to", "the e-mail has no recipients", "a list of addresses")
    elif count > MAX_RECIPIENTS:
        params.problem(mark, "to", f"the e-mail has {count} recipients", f"at most {MAX_RECIPIENTS}")


def notifications_of(spec: Spec) -> tuple[dict[str, Any], ...]:
    """What a spec asks for: ``job`` (empty: the run), ``on`` (``success`` or ``failure``), ``plugin``, ``params``
    and ``path`` (where it is in the spec)."""
    return tuple(_all(spec))


def _all(spec: Spec) -> Iterator[dict[str, Any]]:
    owners = [("", "notify", spec.notify)]
    owners += [(job.name, f"jobs[{index}].notify", job.notify) for index, job in enumerate(spec.jobs)]
    for job, path, notify in owners:
        if notify is not None:
            if notify.on_success is not None:
                yield _one(job, "success", f"{path}.onSuccess", notify.on_success)
            if notify.on_failure is not None:
                yield _one(job, "failure", f"{path}.onFailure", notify.on_failure)


def _one(job: str, on: str, path: str, item: NotifyItem) -> dict[str, Any]:
    return {"job": job, "on": on, "plugin": item.plugin, "params": dict(item.params), "path": path}
