"""The ids of what a run consists of, worked out from the run's own id; pure.

A step to which nothing has happened yet has no row, but an id and a step run that clients may name. All are UUIDs of
version 7: after the time of their run come the indices of job and step, so that they sort in the order of the graph,
and 48 bits of a hash.
"""

from __future__ import annotations

from hashlib import blake2b

_TIME = 13
"""Characters at the beginning of a UUID of version 7 that hold its time in milliseconds."""


def job_id(run_id: str, job: int) -> str:
    """The id of the job at this index."""
    return _derived(run_id, job, 0, "job")


def step_id(run_id: str, job: int, step: int) -> str:
    """The id of the step at this index of the job."""
    return _derived(run_id, job, step, "step")


def first_step_run_id(run_id: str, job: int, step: int) -> str:
    """The id of the step's first attempt, or of its gate when that is opened for the first time."""
    return _derived(run_id, job, step, "attempt")


def run_ids_around(id: str) -> tuple[str, str]:
    """The bounds (inclusive) between which the id of the run lies from which this id was derived."""
    time = id[:_TIME].ljust(_TIME, "0")
    return f"{time}-7000-8000-000000000000", f"{time}-7fff-bfff-ffffffffffff"


def _derived(run_id: str, job: int, step: int, what: str) -> str:
    digest = blake2b(f"{run_id}/{job}/{step}/{what}".encode(), digest_size=6).hexdigest()
    return f"{run_id[:_TIME]}-7{min(job, 0xFFF):03x}-{0x8000 + min(step, 0x3FFF):04x}-{digest}"
