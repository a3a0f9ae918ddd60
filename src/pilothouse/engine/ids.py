"""The ids of jobs, steps and first step runs, derived from the run's id; pure.

A step that has not changed yet has no row, but has an id and a step run that clients can refer to. All ids are UUIDs
of version 7: the time of the run, the indices of job and step (13 bits each, so that ids sort in the order of the
graph), and 48 bits of a hash of the run's id and the kind of part.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

_TIME = 13
"""Characters at the beginning of a UUID of version 7 that hold its time in milliseconds."""

_MOST = 1 << 13
"""The maximum number of jobs of a run and of steps of a job; ``growth.MAX_STEPS`` is less."""


def job_id(run_id: str, job: int) -> str:
    """The id of the job at this index."""
    return _derived(run_id, job, 0, "job")


def step_id(run_id: str, job: int, step: int) -> str:
    """The id of the step at this index of the job."""
    return _derived(run_id, job, step, "step")


def first_step_run_id(run_id: str, job: int, step: int) -> str:
    """The id of the step's first attempt, or of its gate when it is opened for the first time."""
    return _derived(run_id, job, step, "attempt")


def place_of(id: str) -> tuple[int, int] | None:
    """The indices of job and step in an id; ``None`` if it is not such an id."""
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
    """The inclusive range of run ids from which this id can have been derived."""
    time = id[:_TIME].ljust(_TIME, "0")
    return f"{time}-7000-8000-000000000000", f"{time}-7fff-bfff-ffffffffffff"


def _derived(run_id: str, job: int, step: int, what: str) -> str:
    place = job * _MOST + step
    return f"{run_id[:_TIME]}-7{place >> 14:03x}-{0x8000 | place & 0x3FFF:04x}-{_digest(run_id, what)}"


@lru_cache(maxsize=4096)
def _digest(run_id: str, what: str) -> str:
    return blake2b(f"{what}/{run_id}".encode(), digest_size=6).hexdigest()
