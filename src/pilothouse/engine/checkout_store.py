"""SQL of checkouts: known commits of repositories, and the blobs that runs refer to."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from pilothouse.engine.store import attempts, repository_commits, runs

_KEY = ("project", "repository", "commit_sha", "depth")
_BY_USE = (repository_commits.c.used_at.desc(), repository_commits.c.commit_sha, repository_commits.c.depth)


def _of(project: str, repository: str) -> Any:
    return and_(repository_commits.c.project == project, repository_commits.c.repository == repository)


# -- known commits --------------------------------------------------------------------------------------


def put_commit(conn: Connection, **values: Any) -> None:
    """Insert a known commit, or update its packs and the time of its last use."""
    same = and_(*(repository_commits.c[name] == values[name] for name in _KEY))
    changed = conn.execute(
        update(repository_commits).where(same).values(packs=values["packs"], used_at=values["used_at"])
    )
    if not changed.rowcount:
        conn.execute(insert(repository_commits).values(**values))


def commits_of(conn: Connection, project: str, repository: str, limit: int) -> list[Row[Any]]:
    """A repository's known commits, most recently used first."""
    query = select(repository_commits).where(_of(project, repository)).order_by(*_BY_USE).limit(limit)
    return list(conn.execute(query))


def forget_old_commits(conn: Connection, project: str, repository: str, keep: int) -> None:
    """Delete all but the ``keep`` most recently used commits of a repository."""
    old = select(repository_commits.c.commit_sha, repository_commits.c.depth)
    old = old.where(_of(project, repository)).order_by(*_BY_USE).offset(keep).limit(1000)
    for row in conn.execute(old).all():
        one = (repository_commits.c.commit_sha == row.commit_sha) & (repository_commits.c.depth == row.depth)
        conn.execute(delete(repository_commits).where(_of(project, repository), one))


def forget_unused_commits(conn: Connection, before: int, limit: int) -> int:
    """Delete commits that no run has used since ``before`` (ms); returns their number."""
    old = select(*(repository_commits.c[name] for name in _KEY)).where(repository_commits.c.used_at < before)
    rows = conn.execute(old.limit(limit)).all()
    for row in rows:
        one = and_(*(repository_commits.c[name] == getattr(row, name) for name in _KEY))
        conn.execute(delete(repository_commits).where(one, repository_commits.c.used_at < before))
    return len(rows)


def forget_commits_with(conn: Connection, project: str, packs: set[str]) -> int:
    """Delete the project's commits that need any of these packs; returns their number."""
    query = select(repository_commits).where(repository_commits.c.project == project)
    affected = [row for row in conn.execute(query).all() if packs.intersection(orjson.loads(row.packs))]
    for row in affected:
        conn.execute(
            delete(repository_commits).where(
                *(repository_commits.c[name] == getattr(row, name) for name in _KEY)
            )
        )
    return len(affected)


def packs_of_commits(conn: Connection, project: str) -> set[str]:
    """The packs that a project's known commits need."""
    query = select(repository_commits.c.packs).where(repository_commits.c.project == project)
    return {pack for text in conn.execute(query).scalars() for pack in orjson.loads(text)}


# -- checkouts of runs ----------------------------------------------------------------------------------


def checkouts_of_attempts(conn: Connection, attempt_ids: list[str]) -> list[dict[str, Any]]:
    """The checkouts of these attempts' runs."""
    query = (
        select(runs.c.checkout)
        .join(attempts, attempts.c.run_id == runs.c.id)
        .where(attempts.c.id.in_(attempt_ids), runs.c.checkout.is_not(None))
        .distinct()
    )
    return [orjson.loads(str(text)) for text in conn.execute(query).scalars()]


def checkout_of_commit(conn: Connection, pipeline_id: str, commit: str) -> dict[str, Any] | None:
    """The checkout of the newest run of a pipeline at a commit without changes; ``None`` if there is none."""
    of = (runs.c.pipeline_id == pipeline_id) & (runs.c.commit_sha == commit) & runs.c.checkout.is_not(None)
    for found in conn.execute(
        select(runs.c.checkout).where(of).order_by(runs.c.id.desc()).limit(20)
    ).scalars():
        checkout: dict[str, Any] = orjson.loads(found)
        if not checkout.get("dirty"):
            return checkout
    return None


def checkouts_of_runs(
    conn: Connection, project: str, after: str, limit: int
) -> list[tuple[str, dict[str, Any]]]:
    """A page of a project's runs with a checkout that are not pruned, by id, and their checkouts."""
    query = select(runs.c.id, runs.c.checkout).where(
        runs.c.project == project,
        runs.c.id > after,
        runs.c.pruned.is_(False),
        runs.c.checkout.is_not(None),
    )
    rows = conn.execute(query.order_by(runs.c.id).limit(limit))
    return [(row.id, orjson.loads(row.checkout)) for row in rows]
