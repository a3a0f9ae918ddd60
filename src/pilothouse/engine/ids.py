"""The ids of what a run consists of, worked out from the run's own id; pure.

A step to which nothing has happened yet has no row, but an id and a step run that clients may name. All are UUIDs of
version 7. After the time of their run come the indices of job and step, 13 bits each, so that they sort in the order
of the graph, and 48 bits of a hash of the run's id and of what kind of part it is.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

_TIME = 13
"""Characters at the beginning of a UUID of version 7 that hold its time in milliseconds."""

_MOST = 1 << 13
"""Jobs of a run, and steps of a job, that can be told apart; ``growth.MAX_STEPS`` is less."""


def job_id(run_id: str, job: int) -> str:
    """The id of the job at this index."""
    return _derived(run_id, job, 0, "job")


def step_id(run_id: str, job: int, step: int) -> str:
    """The id of the step at this index of the job."""
    return _derived(run_id, job, step, "step")


def first_step_run_id(run_id: str, job: int, step: int) -> str:
    """The id of the step's first attempt, or of its gate when that is opened for the first time."""
    return _derived(run_id, job, step, "attempt")


def place_of(id: str) -> tuple[int, int] | None:
    """The indices of job and step in an id; ``None`` for what cannot be one."""
    try:
        place = int(id[15:18], 16) << 14 | int(id[19:23], 16) & 0x3FFF
    except ValueError:
        return None
    return place // _MOST, place % _MOST


def is_of(id: str, run_id: str) -> bool:
    """Whether it is the id of a job, or of the first step run of a step, that this run might have."""
    place = place_of(id)
    return place is not None and id in (first_step_run_id(run_id, *place), job_id(run_id, place[0]))


def run_ids_around(id: str) -> tuple[str, str]:
    """The bounds (inclusive) between which the id of the run lies from which this id was derived."""
    time = id[:_TIME].ljust(_TIME, "0")
    return f"{time}-7000-8000-000000000000", f"{time}-7fff-bfff-ffffffffffff"


def _derived(run_id: str, job: int, step: int, what: str) -> str:
    place = job * _MOST + step
    return f"{run_id[:_TIME]}-7{place >> 14:03x}-{0x8000 | place & 0x3FFF:04x}-{_digest(run_id, what)}"


@lru_cache(maxsize=4096)
def _digest(run_id: str, what: str) -> str:
    return blake2b(f"{what}/{run_id}".encode(), digest_size=6).hexdigest()
