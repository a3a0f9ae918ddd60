"""Where ``ListStepRunArtifacts`` gets artifacts from: who keeps them registers here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection

from pilothouse.access.model import Principal

Find = Callable[[Connection, Principal, str], Iterable["StepArtifact"]]
"""The artifacts of the step run with this id, as this caller may download them."""

MAX_LISTED = 1000
"""Artifacts of one step run that are listed."""


@dataclass(frozen=True, slots=True)
class StepArtifact:
    """One artifact. Times in ms, ``expire_at`` 0: it does not expire; ``size`` in bytes."""

    id: str
    name: str
    path: str
    size: int
    download_url: str
    created_at: int
    expire_at: int = 0


class StepArtifacts:
    """Lists artifacts by a registered function; without one there are none."""

    def __init__(self) -> None:
        self._find: Find = lambda _conn, _by, _step_run_id: ()

    def listed_by(self, find: Find) -> None:
        """``find`` gives the artifacts. Raises :class:`Refusal` if the caller may not see the step run."""
        self._find = find

    def of(self, conn: Connection, by: Principal, step_run_id: str) -> list[StepArtifact]:
        """The artifacts of a step run; what ``find`` raises."""
        return list(islice(self._find(conn, by, step_run_id), MAX_LISTED))
