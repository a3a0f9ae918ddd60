"""The checkouts of runs: archive, packs of a git work tree, and the commits that clients need not send again.

A run's ``checkout`` is ``{"id", "sha256", "size", "packs": [{"id", "sha256", "size", "repository"}], "dirty"}``;
``repository`` names an object cache on agents (docs/checkout.md). Older runs have neither ``packs`` nor ``dirty``.
``jobs``: by name of a job with a source of its own, the same without ``dirty``; there may be nothing else then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from pilothouse.blobs import store as blob_store
from pilothouse.blobs.errors import BlobNotFound
from pilothouse.engine import checkout_store as store
from pilothouse.engine.step_payload import Checkout, CheckoutPack
from pilothouse.fleet import store as fleet_store
from pilothouse.storage import Tx

KNOWN = 20
"""So many commits of a repository keep their packs for the next run."""

CANNOT_LAY_OUT = "cannot lay out the work tree"
"""How an agent's reason begins where the packs are not what they should be (docs/checkout.md)."""


@dataclass(frozen=True, slots=True)
class RepositoryCommit:
    """One repository of a work tree. ``packs``: blob ids; together they contain ``commit`` (empty: no commit yet)
    with ``depth`` commits of history (0: all)."""

    key: str
    commit: str
    depth: int
    packs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The work tree of a job's own source: the blob id of its archive, and its repositories, the top first."""

    archive: str
    repositories: tuple[RepositoryCommit, ...]


def with_sources(
    conn: Connection, project: str, checkout: dict[str, Any] | None, sources: Mapping[str, SourceTree]
) -> dict[str, Any] | None:
    """The ``checkout`` of a run with those of jobs (by name) that have a source. Raises as :func:`resolve`."""
    if not sources:
        return checkout
    found = {}
    for name, tree in sources.items():
        found[name] = resolve(conn, project, tree.archive, tree.repositories, dirty=False) or {}
        found[name].pop("dirty", None)
    return {**(checkout or {}), "jobs": found}


def resolve(
    conn: Connection,
    project: str,
    archive: str,
    repositories: tuple[RepositoryCommit, ...],
    dirty: bool,
) -> dict[str, Any] | None:
    """The ``checkout`` to store with a run; ``None`` without one.

    Raises :class:`BlobNotFound` for an archive or pack that does not exist in this project.
    """
    if not archive:
        return None
    wanted = {archive, *(pack for repository in repositories for pack in repository.packs)}
    found = {row.id: row for row in blob_store.blobs_of(conn, project, wanted)}
    if missing := sorted(wanted - found.keys()):
        raise BlobNotFound(missing[0])
    blob_store.mark_used(conn, wanted)
    packs = [
        {**_described(found[pack]), "repository": cache_name(project, repository.key)}
        for repository in repositories
        for pack in repository.packs
    ]
    return {**_described(found[archive]), "packs": packs, "dirty": dirty}


def remember(tx: Tx, project: str, repositories: Iterable[RepositoryCommit]) -> None:
    """Record the commits as known for later runs; the oldest ones of each repository are deleted."""
    for repository in repositories:
        if repository.commit and repository.packs:
            store.put_commit(
                tx.conn,
                project=project,
                repository=repository.key,
                commit_sha=repository.commit,
                depth=repository.depth,
                packs=orjson.dumps(repository.packs).decode(),
                used_at=tx.now,
            )
            store.forget_old_commits(tx.conn, project, repository.key, KNOWN)


def doubt(tx: Tx, project: str, checkout: dict[str, Any] | None, error: str) -> None:
    """Delete the known commits that need this run's packs, because an agent could not lay out the work tree.

    The packs may be incomplete; the next run sends all objects again."""
    if checkout is not None and error.startswith(CANNOT_LAY_OUT):
        packs = {pack["id"] for part in _parts(checkout) for pack in part.get("packs", ())}
        if packs:
            store.forget_commits_with(tx.conn, project, packs)


def known(conn: Connection, project: str, key: str) -> list[dict[str, Any]]:
    """The commits that need not be sent again, most recently used first:
    ``{"commit", "depth", "packs": [{"id", "sha256", "size"}]}``."""
    rows = store.commits_of(conn, project, key, KNOWN)
    packs = {row: orjson.loads(row.packs) for row in rows}
    wanted = {pack for named in packs.values() for pack in named}
    found = {row.id: row for row in blob_store.blobs_of(conn, project, wanted)}
    return [
        {
            "commit": row.commit_sha,
            "depth": row.depth,
            "packs": [_described(found[pack]) for pack in packs[row]],
        }
        for row in rows
        if found.keys() >= set(packs[row])
    ]


def for_agent(checkout: dict[str, Any] | None, job: str) -> Checkout | None:
    """The checkout of a run's job as sent to agents."""
    if checkout is not None and "jobs" in checkout:
        checkout = checkout["jobs"].get(job, checkout)
    if checkout is None or "id" not in checkout:
        return None
    packs = tuple(
        CheckoutPack(_url(pack["id"]), pack["sha256"], pack["size"], pack["repository"])
        for pack in checkout.get("packs", ())
    )
    return Checkout(_url(checkout["id"]), checkout["sha256"], checkout["size"], packs)


def blob_ids(checkout: dict[str, Any]) -> set[str]:
    """All blobs that a run's checkout refers to."""
    return {
        id
        for part in _parts(checkout)
        for id in (part["id"], *(pack["id"] for pack in part.get("packs", ())))
    }


def _parts(checkout: dict[str, Any]) -> list[dict[str, Any]]:
    """The checkouts of the run and of its jobs with a source."""
    own = [checkout] if "id" in checkout else []
    return [*own, *checkout.get("jobs", {}).values()]


def cache_name(project: str, key: str) -> str:
    """The name of a repository's object cache on agents. Projects have separate caches, so that they cannot access
    each other's objects."""
    return hashlib.sha256(f"{project}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def _described(blob: Row[Any]) -> dict[str, Any]:
    return {"id": blob.id, "sha256": blob.sha256, "size": blob.size}


def _url(blob_id: str) -> str:
    return f"/api/v1/blobs/{blob_id}"


def needed_by_agent(conn: Connection, agent_id: str, blob_id: str) -> bool:
    """Whether the agent holds a lease for a step of a run whose checkout refers to the blob."""
    held = [lease.id for lease in fleet_store.leases_of(conn, agent_id)]
    checkouts = store.checkouts_of_attempts(conn, held)
    return any(blob_id in blob_ids(checkout) for checkout in checkouts)
