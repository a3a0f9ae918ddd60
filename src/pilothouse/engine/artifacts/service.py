"""Artifacts: announced by the agent of a step, sent in parts, and complete once their checksum is verified.

A part is stored before the database counts it, and parts are deleted before their artifact's row is; so what a
crash leaves behind is known, and is deleted by :mod:`pilothouse.engine.artifacts.retention`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.access.quotas import Quotas, check_quota
from pilothouse.engine import store as engine_store
from pilothouse.engine.artifacts import store
from pilothouse.engine.artifacts.errors import (
    ArtifactExists,
    ArtifactInvalid,
    ArtifactNotFound,
    ArtifactTooLarge,
    StepRunNotFound,
    UploadOffset,
)
from pilothouse.engine.artifacts.lineage import artifacts_of
from pilothouse.engine.artifacts.model import MAX_OF_RUN, PART_SIZE, Artifact, Format, State, good_name
from pilothouse.engine.runs import Place, RunCache
from pilothouse.engine.transitions import Transitions
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.model import Lease, LeaseState
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx
from pilothouse.wire import entries

DAY_MS = 86_400_000
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of nothing."""


@dataclass(frozen=True, slots=True)
class ArtifactSettings:
    """``max_size``: bytes of one artifact; ``retention``: days that it is kept at most, 0: as long as its run's log;
    ``part_size``: bytes of a part."""

    max_size: int = 5 << 30
    retention: float = 90.0
    part_size: int = PART_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What an agent says of an artifact that it is going to send (:class:`Artifact`). ``retention``: days, 0: as long
    as the server keeps it; ``overwrite``: replace the artifact of another step."""

    name: str
    file_name: str
    format: Format
    size: int
    sha256: str
    files: int = 1
    unpacked: int = 0
    retention: float = 0
    overwrite: bool = False


class Artifacts:
    """The use cases of artifacts. ``settings`` may be replaced."""

    def __init__(
        self,
        runs: RunCache,
        transitions: Transitions,
        identity: Identity,
        quotas: Quotas,
        settings: ArtifactSettings,
    ) -> None:
        self._runs = runs
        self._transitions = transitions
        self._identity = identity
        self._quotas = quotas
        self.settings = settings

    # -- what agents send -------------------------------------------------------------------------------

    def begin(self, tx: Tx, by: Principal, step_run_id: str, wanted: Announced) -> Artifact:
        """A new artifact, or the same one of an upload that was interrupted, to be continued at ``received``.

        Raises :class:`StepRunNotFound`, :class:`ArtifactInvalid`, :class:`ArtifactTooLarge`,
        :class:`ArtifactExists`, :class:`QuotaExceeded`.
        """
        at = self._held(tx, by, step_run_id)
        self._check(wanted)
        same = store.named(tx.conn, at.run.id, wanted.name)
        for known in same:
            if known.step_run_id == step_run_id and _unchanged(known, wanted):
                return known
        _refuse_taken(same, at, wanted)
        for stale in same:
            if stale.step_run_id == step_run_id and stale.state is State.UPLOADING:
                store.change(tx.conn, stale.id, state=State.DELETING)
        self._check_quotas(tx.conn, at, wanted.size)
        artifact = self._new(tx, at, wanted)
        store.add(tx.conn, artifact)
        return self.complete(tx, artifact) if not artifact.size else artifact

    def _held(self, tx: Tx, by: Principal, step_run_id: str) -> Place:
        if not runs_here(tx.conn, by, step_run_id):
            raise StepRunNotFound(step_run_id)
        at = self._runs.place(tx, step_run_id, changes=False)
        if at is None or at.step.current != step_run_id:
            raise StepRunNotFound(step_run_id)
        return at

    def _check(self, wanted: Announced) -> None:
        for name in (wanted.name, wanted.file_name):
            if not good_name(name):
                raise ArtifactInvalid(
                    "the name of an artifact is that of a file: it is not empty, does not begin with a space or end "
                    'with a space or dot, and has none of " / \\ : < > | * ?'
                )
        if wanted.size > self.settings.max_size:
            raise ArtifactTooLarge(
                f"the artifact {wanted.name} has {wanted.size} bytes, at most {self.settings.max_size} are "
                "allowed (PILOT_MAX_ARTIFACT)"
            )
        if not wanted.size and wanted.sha256 != EMPTY:
            raise ArtifactInvalid("the sha256 is not that of an empty file")

    def _check_quotas(self, conn: Connection, at: Place, size: int) -> None:
        use = store.use_of(conn, at.run.project)
        check_quota("artifacts of this project", use.number, self._quotas.artifact_count, "artifact_count")
        check_quota("bytes of artifacts of this project", use.size, self._quotas.artifacts, "artifacts", size)
        if len(store.of_run(conn, at.run.id)) >= MAX_OF_RUN:
            raise ArtifactInvalid(f"a run has at most {MAX_OF_RUN} artifacts")

    def _new(self, tx: Tx, at: Place, wanted: Announced, url: str = "") -> Artifact:
        return Artifact(
            id=str(uuid7()),
            project=at.run.project,
            run_id=at.run.id,
            job=at.job.name,
            step=at.step.name,
            step_run_id=at.attempt.id,
            agent_id=at.attempt.agent_id,
            name=wanted.name,
            file_name=wanted.file_name,
            format=wanted.format,
            url=url,
            state=State.UPLOADING,
            size=wanted.size,
            sha256=wanted.sha256,
            files=wanted.files,
            unpacked=wanted.unpacked,
            part_size=self.settings.part_size,
            received=0,
            created_at=tx.now,
            ready_at=0,
            expire_at=self._expiry(tx.now, wanted.retention),
        )

    def _expiry(self, now: int, days: float) -> int:
        most = self.settings.retention
        kept = min(days, most) if days and most else days or most
        return now + int(kept * DAY_MS) if kept else 0

    def uploading(self, conn: Connection, by: Principal, artifact_id: str) -> Artifact:
        """An artifact of a step that the agent runs. Raises :class:`ArtifactNotFound`."""
        artifact = store.find(conn, artifact_id)
        if artifact is None or not runs_here(conn, by, artifact.step_run_id):
            raise ArtifactNotFound(artifact_id)
        return artifact

    def received(self, tx: Tx, by: Principal, part: Artifact, length: int) -> Artifact:
        """Count a part that is stored. ``part``: the artifact as it was before.

        Raises :class:`ArtifactNotFound`, :class:`UploadOffset`.
        """
        artifact = self.uploading(tx.conn, by, part.id)
        if artifact.received != part.received or artifact.state is not State.UPLOADING:
            raise UploadOffset(artifact.received)
        store.change(tx.conn, artifact.id, received=artifact.received + length)
        return replace(artifact, received=artifact.received + length)

    def complete(self, tx: Tx, artifact: Artifact) -> Artifact:
        """An artifact whose parts are all stored, and whose checksum is right. Raises :class:`ArtifactNotFound`,
        :class:`ArtifactExists`."""
        known = store.find(tx.conn, artifact.id)
        at = self._runs.place(tx, artifact.step_run_id, changes=False)
        if known is None or at is None:
            raise ArtifactNotFound(artifact.id)
        if known.state is State.READY:
            return known
        for other in store.named(tx.conn, known.run_id, known.name):
            if other.id != known.id and other.state is State.READY:
                store.change(tx.conn, other.id, state=State.DELETING)  # of an earlier attempt, or overwritten
        store.change(tx.conn, known.id, state=State.READY, ready_at=tx.now)
        done = replace(known, state=State.READY, ready_at=tx.now)
        self._record(tx, at, done)
        return done

    def link(self, tx: Tx, at: Place, wanted: Announced, url: str) -> str:
        """Record an artifact that an agent keeps elsewhere; returns why it is refused, or ``""``."""
        if not good_name(wanted.name) or not good_name(wanted.file_name):
            return "the name of an artifact is that of a file"
        same = store.named(tx.conn, at.run.id, wanted.name)
        try:
            _refuse_taken(same, at, wanted)
            self._check_quotas(tx.conn, at, 0)
        except Refusal as refused:
            return refused.message
        artifact = self._new(tx, at, wanted, url)
        store.add(tx.conn, artifact)
        self.complete(tx, artifact)
        return ""

    def _record(self, tx: Tx, at: Place, artifact: Artifact) -> None:
        self._transitions.records.append(
            tx,
            at.run,
            entries.STEP_ARTIFACT,
            at.job,
            at.step,
            at.attempt,
            agent_id=artifact.agent_id,
            artifact_id=artifact.id,
            artifact=artifact.name,
            format=artifact.format,
            size=artifact.size,
            sha256=artifact.sha256,
            files=artifact.files,
            expire_at=artifact.expire_at,
        )

    def abandon(self, tx: Tx, artifact: Artifact) -> None:
        """Have what was received of an unfinished artifact deleted."""
        known = store.find(tx.conn, artifact.id)
        if known is not None and known.state is State.UPLOADING:
            store.change(tx.conn, artifact.id, state=State.DELETING)

    # -- who may read them ------------------------------------------------------------------------------

    def readable(self, conn: Connection, by: Principal, artifact_id: str) -> Artifact:
        """A finished artifact: for users of its project, and for agents that run a step of its run, or of a run that
        has kept its step. Raises :class:`ArtifactNotFound`."""
        artifact = store.find(conn, artifact_id)
        if artifact is None or artifact.state is not State.READY:
            raise ArtifactNotFound(artifact_id)
        if by.kind == "agent":
            allowed = any(artifact_id in readable_by(conn, lease.id) for lease in _started(conn, by))
        else:
            allowed = by.may("run.read", artifact.project)
        if not allowed:
            raise ArtifactNotFound(artifact_id)
        return artifact

    def delete(self, tx: Tx, by: Principal, artifact_id: str) -> dict[str, Any]:
        """Delete an artifact; its parts are deleted in the background. Raises :class:`ArtifactNotFound`."""
        artifact = self.deletable(tx.conn, by, artifact_id)
        store.change(tx.conn, artifact.id, state=State.DELETING)
        detail = {"name": artifact.name, "run_id": artifact.run_id, "size": artifact.size}
        self._identity.audit(tx, by, "artifact.delete", artifact.id, detail)
        return {"message": f"Artifact {artifact.name} deleted"}

    def deletable(self, conn: Connection, by: Principal, artifact_id: str) -> Artifact:
        """Raises :class:`ArtifactNotFound`, ``AUTH_INSUFFICIENT_PERMISSIONS``."""
        artifact = self.readable(conn, by, artifact_id)
        require(by, "artifact.delete", artifact.project)
        return artifact


def runs_here(conn: Connection, by: Principal, step_run_id: str) -> bool:
    """Whether this agent has started the attempt, and it has not ended."""
    lease = fleet_store.lease(conn, step_run_id)
    return (
        by.kind == "agent"
        and lease is not None
        and lease.agent_id == by.id
        and lease.state is LeaseState.STARTED
    )


def _started(conn: Connection, by: Principal) -> list[Lease]:
    return [lease for lease in fleet_store.leases_of(conn, by.id) if lease.state is LeaseState.STARTED]


def readable_by(conn: Connection, step_run_id: str) -> dict[str, Artifact]:
    """The finished artifacts that a step run may download, by id."""
    found = engine_store.attempt(conn, step_run_id)
    return {} if found is None else {each.id: each for each in artifacts_of(conn, found[0])}


def _unchanged(known: Artifact, wanted: Announced) -> bool:
    return (known.sha256, known.size, known.file_name) == (wanted.sha256, wanted.size, wanted.file_name)


def _refuse_taken(same: list[Artifact], at: Place, wanted: Announced) -> None:
    """Raises :class:`ArtifactExists`. An attempt may replace what an earlier attempt of its step has made."""
    for known in same:
        own = (known.job, known.step) == (at.job.name, at.step.name) and known.step_run_id != at.attempt.id
        if known.state is State.READY and not own and not wanted.overwrite:
            raise ArtifactExists(known.name, f"{known.job}/{known.step}")
