"""The tables of secrets, and their SQL; values are ciphertexts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    LargeBinary,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from pilothouse.storage import metadata

secrets = Table(
    "secrets",
    metadata,
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

retired_secrets = Table(
    "retired_secrets",
    metadata,
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("retired_at", BigInteger, nullable=False),
    Index("retired_secrets_by_name", "project", "name", "retired_at"),
)

derived_secrets = Table(
    "derived_secrets",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("updated_at", BigInteger, nullable=False, index=True),
)

NAMES_A_QUERY = 500
"""Databases bound the parameters of a statement."""

RETIRED_KEPT = 30 * 86_400_000
"""Milliseconds that a replaced or deleted secret is still masked, and what a run's expressions made of secrets."""


def put_secret(conn: Connection, project: str, name: str, value: bytes, by: str, now: int) -> bool:
    """Store a secret's ciphertext; ``True`` if it is new."""
    s = secrets.c
    _retire(conn, project, name, now)
    known = update(secrets).where(s.project == project, s.name == name).values(value=value, updated_at=now)
    if conn.execute(known).rowcount:
        return False
    fresh = {"value": value, "created_by": by, "created_at": now, "updated_at": now}
    conn.execute(insert(secrets).values(project=project, name=name, **fresh))
    return True


def secret_values(conn: Connection, project: str, names: Iterable[str]) -> dict[str, bytes]:
    """The existing ciphertexts by name."""
    query = select(secrets.c.name, secrets.c.value).where(
        secrets.c.project == project, secrets.c.name.in_(list(names))
    )
    return {row.name: row.value for row in conn.execute(query)}


def known_names(conn: Connection, project: str, names: Iterable[str]) -> set[str]:
    """The names that have a secret in the project."""
    wanted, found = sorted(names), set[str]()
    for start in range(0, len(wanted), NAMES_A_QUERY):
        some = wanted[start : start + NAMES_A_QUERY]
        query = select(secrets.c.name).where(secrets.c.project == project, secrets.c.name.in_(some))
        found.update(conn.execute(query).scalars())
    return found


def count(conn: Connection, project: str) -> int:
    """How many secrets a project has."""
    query = select(func.count()).select_from(secrets).where(secrets.c.project == project)
    return int(conn.execute(query).scalar_one())


def list_secrets(conn: Connection, project: str) -> list[Row[Any]]:
    """Names and times, never values."""
    s = secrets.c
    query = (
        select(s.name, s.created_by, s.created_at, s.updated_at).where(s.project == project).order_by(s.name)
    )
    return list(conn.execute(query))


def _retire(conn: Connection, project: str, name: str, now: int) -> None:
    """Keep a replaced value for masking, as long as work that uses it may run."""
    s, r = secrets.c, retired_secrets.c
    old = select(s.project, s.name, s.value, literal(now)).where(s.project == project, s.name == name)
    conn.execute(insert(retired_secrets).from_select(["project", "name", "value", "retired_at"], old))
    conn.execute(delete(retired_secrets).where(r.retired_at < now - RETIRED_KEPT))


def retired_values(
    conn: Connection, project: str, names: Iterable[str], since: int
) -> list[tuple[str, bytes]]:
    """Ciphertexts of these secrets that were replaced since then."""
    r = retired_secrets.c
    query = select(r.name, r.value).where(
        r.project == project, r.name.in_(list(names)), r.retired_at >= since
    )
    return [(row.name, row.value) for row in conn.execute(query)]


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A stored ciphertext; ``retired_at`` (ms): of a value that was replaced or deleted, else -1.

    What a run's expressions have made of secrets has :data:`OF_RUN` as project and the run's id as name.
    """

    project: str
    name: str
    retired_at: int
    sealed: bytes


Place = tuple[int, tuple[str, str, int] | None]
"""Where a walk through all values is: in which table, and after which row of it."""

START: Place = (0, None)

OF_RUN = "run"
"""Not the id of any project."""

_WALKED: tuple[tuple[Any, Any, Any, Any], ...] = (
    (secrets.c.project, secrets.c.name, literal(-1), secrets.c.value),
    (
        retired_secrets.c.project,
        retired_secrets.c.name,
        retired_secrets.c.retired_at,
        retired_secrets.c.value,
    ),
    (literal(OF_RUN), derived_secrets.c.run_id, literal(-1), derived_secrets.c.value),
)
"""Project, name, time and value of each table."""


@dataclass(slots=True)
class Renewal:
    """A batch of values; ``then``: where the walk goes on, ``None`` at its end; ``changed``: how many were stored."""

    values: list[SealedValue]
    then: Place | None
    changed: int = 0


def outdated_values(conn: Connection, prefix: bytes, place: Place, limit: int) -> Renewal:
    """The next ciphertexts, of secrets, of replaced ones, of runs, that do not begin with ``prefix``."""
    number, after = place
    project, name, at, value = _WALKED[number]
    wanted = select(project.label("project"), name.label("name"), at.label("at"), value.label("value"))
    wanted = wanted.where(func.substr(value, 1, len(prefix)) != prefix)
    if after is not None:
        wanted = wanted.where(tuple_(project, name, at) > tuple_(*(literal(part) for part in after)))
    rows = conn.execute(wanted.order_by(project, name, at).limit(limit))
    found = [SealedValue(row.project, row.name, row.at, bytes(row.value)) for row in rows]
    if len(found) == limit:
        last = found[-1]
        return Renewal(found, (number, (last.project, last.name, last.retired_at)))
    return Renewal(found, (number + 1, None) if number + 1 < len(_WALKED) else None)


def replace_value(conn: Connection, old: SealedValue, sealed: bytes) -> bool:
    """Store the same value encrypted anew, unless another one was set meanwhile."""
    if old.project == OF_RUN:
        d = derived_secrets.c
        mine = update(derived_secrets).where(d.run_id == old.name, d.value == old.sealed)
        return conn.execute(mine.values(value=sealed)).rowcount > 0
    table = secrets if old.retired_at < 0 else retired_secrets
    same = [table.c.project == old.project, table.c.name == old.name, table.c.value == old.sealed]
    return conn.execute(update(table).where(*same).values(value=sealed)).rowcount > 0


def delete_secret(conn: Connection, project: str, name: str, now: int) -> bool:
    """Delete a secret."""
    _retire(conn, project, name, now)
    return (
        conn.execute(delete(secrets).where(secrets.c.project == project, secrets.c.name == name)).rowcount
        == 1
    )


def derived(conn: Connection, run_id: str) -> bytes | None:
    """The ciphertext of what a run's expressions have made of secrets."""
    d = derived_secrets.c
    return conn.execute(select(d.value).where(d.run_id == run_id)).scalar_one_or_none()


def put_derived(conn: Connection, run_id: str, value: bytes, now: int) -> None:
    """Store or replace the ciphertext of a run."""
    d = derived_secrets.c
    conn.execute(delete(derived_secrets).where((d.run_id == run_id) | (d.updated_at < now - RETIRED_KEPT)))
    conn.execute(insert(derived_secrets).values(run_id=run_id, value=value, updated_at=now))
