"""Pipelines as stored, and the numbers of pipeline.v1; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

MAX_VARIABLES = 200
MAX_VARIABLES_SIZE = 256 << 10
"""Characters of the names and values of all variables that a run is given: each run stores them."""


class SpecFormat(IntEnum):
    """pipeline.v1.SpecFormat."""

    JSON = 1
    YAML = 2


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

SAVE_DIRECT, SAVE_PR = 1, 2
"""pipeline.v1.PipelineSaveMode: directly, or by a pull request (not implemented yet)."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline. Times in ms. ``repository``: the key of the repository it belongs to (docs/checkout.md);
    ``head``: the hash of the current spec, empty without one."""

    id: str
    project: str
    name: str
    description: str = ""
    default_branch: str = ""
    file_path: str = ""
    metadata: dict[str, str] | None = field(default_factory=dict)  # None: too large for a list
    enabled: bool = True
    repository: str = ""
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
