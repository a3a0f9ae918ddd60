"""How specs are written and sent, for request models and for the workers; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

SAVE_DIRECT, SAVE_PR = 1, 2
"""pipeline.v1.PipelineSaveMode: onto the branch, or onto a new one, from which a pull request can be made."""


class SpecFormat(IntEnum):
    """pipeline.v1.SpecFormat."""

    JSON = 1
    YAML = 2


@dataclass(frozen=True, slots=True)
class EncodedSpec:
    """A spec of a large body, which a worker has split (``pipelines.jobs.split_job``): ``form`` and ``data`` of a
    source as in ``pipelines.jobs.encoded_source``."""

    form: str
    data: bytes
