"""Where ``ListStepRunArtifacts`` gets artifacts from: whoever keeps them registers here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

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
        self._list: Callable[[Connection, str], Iterable[StepArtifact]] = lambda _conn, _step_run_id: ()

    def listed_by(self, find: Callable[[Connection, str], Iterable[StepArtifact]]) -> None:
        """``find`` gives the artifacts of the step run with this id, which the caller may see."""
        self._list = find

    def of(self, conn: Connection, step_run_id: str) -> list[StepArtifact]:
        """The artifacts of a step run."""
        return [
            artifact for artifact, _ in zip(self._list(conn, step_run_id), range(MAX_LISTED), strict=False)
        ]
