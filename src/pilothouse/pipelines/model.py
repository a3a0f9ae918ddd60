"""Pipelines as stored, and the numbers of pipeline.v1; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from pilothouse.wire.specs import SAVE_DIRECT, SpecFormat


class RunStatus(IntEnum):
    """pipeline.v1.PipelineStatus, of runs."""

    PENDING = 1
    RUNNING = 2
    SUCCESS = 3
    FAILED = 4
    CANCELLED = 5
    PAUSED = 6


RUN_STATUS = {
    "pending": RunStatus.PENDING,
    "queued": RunStatus.PENDING,
    "running": RunStatus.RUNNING,
    "paused": RunStatus.PAUSED,
    "succeeded": RunStatus.SUCCESS,
    "failed": RunStatus.FAILED,
    "timed_out": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
}

TRIGGER_TYPE = {"manual": 1, "cron": 2, "event": 3, "run": 3}
"""pipeline.v1.TriggerType; ``run``: a gate of another run."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline. Times in ms. ``repository``: the key of the repository it belongs to (docs/checkout.md);
    ``head``: the commit of the current spec, without a git repository its hash; empty without one.

    ``repo_url``: the git repository with the spec, empty if that is in the database; ``repo_secret``: the name of the
    project's secret with which it is read and written; ``synced_at``, ``sync_message``: when the repository was last
    read, and why that failed, if it did.
    """

    id: str
    project: str
    name: str
    description: str = ""
    default_branch: str = ""
    file_path: str = ""
    metadata: dict[str, str] | None = field(default_factory=dict)  # None: too large for a list
    enabled: bool = True
    repository: str = ""
    repo_url: str = ""
    repo_secret: str = ""
    save_mode: int = SAVE_DIRECT
    pr_target: str = ""
    synced_at: int = 0
    sync_message: str = ""
    head: str = ""
    last_editor: str = ""
    created_by: str = ""
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class SavedSpec:
    """A saved spec: its source text and format.

    ``spec``, ``graph``, ``names`` and ``triggers``: its compiled form (``CompiledSpec``), empty if an older release
    has saved it.
    """

    text: str
    format: SpecFormat
    head: str
    editor: str
    message: str
    created_at: int
    spec: str = ""
    graph: str = ""
    names: str = ""
    triggers: str = ""
