"""Notifications and their deliveries; pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

WEBHOOK, EMAIL, CHAT = "webhook", "email", "chat"

MAX_REASON = 500
"""Characters of the reason why a delivery failed."""

MAX_RESPONSE = 1024
"""Bytes that are read of the answer of a receiver, and kept of the last one."""

KEPT = 200
"""So many deliveries of a pipeline that have ended are kept."""

MAX_WAITING = 1000
"""So many deliveries of a pipeline wait at most; further ones fail at once."""

MAX_AGE = 24 * 3600 * 1000
"""Milliseconds after which no attempt begins any more."""

LONGEST_DELAY = 3600 * 1000
"""Milliseconds between two attempts at most."""

CLAIM = 45_000
"""Milliseconds for which a server has a delivery for itself. An attempt takes less."""

SUCCEEDED = ("succeeded",)
FAILED = ("failed", "timed_out")


class DeliveryStatus(StrEnum):
    """``waiting``: for its next attempt, or an answer."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A notification that a run asks for. ``job`` empty: about the run; ``on``: ``success`` or ``failure``."""

    job: str
    on: str
    plugin: str
    params: Mapping[str, Any]

    def due(self, job: str, status: str) -> bool:
        """Whether it is due when this job (empty: the run) has ended with this status."""
        return self.job == job and status in (SUCCEEDED if self.on == "success" else FAILED)


@dataclass(frozen=True, slots=True)
class Ended:
    """An entry of the journal: a run, or a job of it, has ended. ``at`` in ms; ``duration``: ms."""

    offset: int
    at: int
    run_id: str
    project: str
    pipeline_id: str
    pipeline: str
    status: str
    reason: str
    duration: int
    job: str = ""
    job_id: str = ""

    @property
    def event(self) -> str:
        """Its name in messages, such as ``run.failed``; what has timed out has failed."""
        outcome = "succeeded" if self.status in SUCCEEDED else "failed"
        return f"{'job' if self.job_id else 'run'}.{outcome}"


@dataclass(slots=True)
class Delivery:
    """One notification to one receiver. Times in ms, 0: none.

    ``number``: of the notification among those of the run; with ``run_id`` and ``offset`` (of the entry) unique.
    ``target``: where it goes, without anything secret. ``queue``: deliveries to the same receiver share it.
    ``body``: the JSON document that is sent. ``next_at``: when it is tried (again), or, while ``claimed_by`` a
    server, when it is free again; 0 when it has ended. ``since``: when it was created or delivered again. ``code``,
    ``reason``, ``response``: of the last attempt.
    """

    id: str
    run_id: str
    offset: int
    number: int
    project: str
    pipeline_id: str
    event: str
    job: str
    plugin: str
    params: Mapping[str, Any]
    target: str
    queue: str
    body: str
    status: DeliveryStatus
    created_at: int
    since: int
    next_at: int
    attempts: int = 0
    claimed_by: str = ""
    last_at: int = 0
    ended_at: int = 0
    code: int = 0
    reason: str = ""
    response: str = ""

    @property
    def share(self) -> str:
        """The deliveries of its kind and its project; the query of those that are due makes the same text."""
        return f"{self.plugin} {self.project}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt. ``again``: another one may succeed; ``code``: of the receiver's answer, 0: none."""

    delivered: bool = False
    again: bool = True
    code: int = 0
    reason: str = ""
    response: str = ""


@dataclass(frozen=True, slots=True)
class Retries:
    """``first``: seconds before the second attempt, doubled from then on; ``attempts``: how many in all."""

    first: float = 10.0
    attempts: int = 10

    def delay(self, attempts: int) -> int:
        """Milliseconds until the next attempt after so many, up to a fifth more by chance."""
        length = min(self.first * 1000 * 2 ** min(attempts - 1, 30), LONGEST_DELAY)
        return int(length * (1 + random.random() / 5))  # noqa: S311  to spread load


@dataclass(frozen=True, slots=True)
class Busy:
    """What takes no further attempts now."""

    plugins: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()
    queues: frozenset[str] = field(default_factory=frozenset)


def target_of(plugin: str, params: Mapping[str, Any]) -> str:
    """Where a notification goes, without paths and queries, which may hold keys."""
    if plugin == WEBHOOK:
        return _origin(params["url"])
    if plugin == EMAIL:
        return ", ".join(params["to"])
    return f"secret {params['secret']}"


def queue_of(plugin: str, params: Mapping[str, Any], project: str) -> str:
    """The queue of a delivery: one for each host, for the e-mail of a project, and for each address of a chat."""
    if plugin == WEBHOOK:
        return f"webhook {_origin(params['url']).lower()}"
    return f"{plugin} {project} {params.get('secret', '')}"


def _origin(url: str) -> str:
    """Scheme, host and port of an address that the check of specs has accepted."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?]', rest, maxsplit=1)[0]}"


def one_line(text: str, most: int) -> str:
    """A text without control characters and line breaks, cut to ``most`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
