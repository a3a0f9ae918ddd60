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
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("secrets_by_id", "id", unique=True),
    Index("secrets_by_project", "project", "name"),
)
"""``owner``: see :func:`owner_of`; ``project``: where the secret counts, and who may see its name."""

retired_secrets = Table(
    "retired_secrets",
    metadata,
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("retired_at", BigInteger, nullable=False),
    Index("retired_secrets_by_name", "owner", "name", "retired_at"),
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


OF_PIPELINE = "pipeline/"


def owner_of(project: str, pipeline: str = "") -> str:
    """Who has a secret: the project (its id), or one of its pipelines (``pipeline/<id>``)."""
    return OF_PIPELINE + pipeline if pipeline else project


def put_secret(conn: Connection, owner: str, name: str, value: bytes, now: int) -> bool:
    """Replace a secret's ciphertext; ``False`` if there is none of this name."""
    s = secrets.c
    _retire(conn, owner, name, now)
    known = update(secrets).where(s.owner == owner, s.name == name).values(value=value, updated_at=now)
    return conn.execute(known).rowcount > 0


def add_secret(conn: Connection, **values: Any) -> None:
    """Insert a secret."""
    conn.execute(insert(secrets).values(**values))


def secret_values(conn: Connection, owners: Iterable[str], names: Iterable[str]) -> list[Row[Any]]:
    """``owner``, ``name`` and ciphertext of the existing ones."""
    s = secrets.c
    query = select(s.owner, s.name, s.value).where(s.owner.in_(list(owners)), s.name.in_(list(names)))
    return list(conn.execute(query))


def known_names(conn: Connection, owners: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names of which one of the owners has a secret."""
    wanted, found = sorted(names), set[str]()
    for start in range(0, len(wanted), NAMES_A_QUERY):
        some = wanted[start : start + NAMES_A_QUERY]
        query = select(secrets.c.name).where(secrets.c.owner.in_(list(owners)), secrets.c.name.in_(some))
        found.update(conn.execute(query).scalars())
    return found


def count(conn: Connection, project: str) -> int:
    """How many secrets a project has, those of its pipelines included."""
    query = select(func.count()).select_from(secrets).where(secrets.c.project == project)
    return int(conn.execute(query).scalar_one())


_SHOWN = tuple(column for column in secrets.c if column.name != "value")


def list_secrets(conn: Connection, project: str) -> list[Row[Any]]:
    """Names, scopes and times of a project's secrets, those of its pipelines included, never values."""
    s = secrets.c
    return list(conn.execute(select(*_SHOWN).where(s.project == project).order_by(s.name, s.owner)))


def secret_by_id(conn: Connection, id: str) -> Row[Any] | None:
    """One, without its value."""
    return conn.execute(select(*_SHOWN).where(secrets.c.id == id)).first()


def secret_named(conn: Connection, owner: str, name: str) -> Row[Any] | None:
    """One, without its value."""
    return conn.execute(select(*_SHOWN).where(secrets.c.owner == owner, secrets.c.name == name)).first()


def _retire(conn: Connection, owner: str, name: str, now: int) -> None:
    """Keep a replaced value for masking, as long as work that uses it may run."""
    s, r = secrets.c, retired_secrets.c
    old = select(s.owner, s.name, s.value, literal(now)).where(s.owner == owner, s.name == name)
    conn.execute(insert(retired_secrets).from_select(["owner", "name", "value", "retired_at"], old))
    conn.execute(delete(retired_secrets).where(r.retired_at < now - RETIRED_KEPT))


def retired_values(
    conn: Connection, owners: Iterable[str], names: Iterable[str], since: int
) -> list[Row[Any]]:
    """``owner``, ``name`` and ciphertext of these secrets that were replaced since then."""
    r = retired_secrets.c
    query = select(r.owner, r.name, r.value).where(
        r.owner.in_(list(owners)), r.name.in_(list(names)), r.retired_at >= since
    )
    return list(conn.execute(query))


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A stored ciphertext; ``retired_at`` (ms): of a value that was replaced or deleted, else -1.

    What a run's expressions have made of secrets has :data:`OF_RUN` as owner and the run's id as name.
    """

    owner: str
    name: str
    retired_at: int
    sealed: bytes


Place = tuple[int, tuple[str, str, int] | None]
"""Where a walk through all values is: in which table, and after which row of it."""

START: Place = (0, None)

OF_RUN = "run"
"""Not an owner of secrets."""

_WALKED: tuple[tuple[Any, Any, Any, Any], ...] = (
    (secrets.c.owner, secrets.c.name, literal(-1), secrets.c.value),
    (
        retired_secrets.c.owner,
        retired_secrets.c.name,
        retired_secrets.c.retired_at,
        retired_secrets.c.value,
    ),
    (literal(OF_RUN), derived_secrets.c.run_id, literal(-1), derived_secrets.c.value),
)
"""Owner, name, time and value of each table."""


@dataclass(slots=True)
class Renewal:
    """A batch of values; ``then``: where the walk goes on, ``None`` at its end; ``changed``: how many were stored."""

    values: list[SealedValue]
    then: Place | None
    changed: int = 0


def outdated_values(conn: Connection, prefix: bytes, place: Place, limit: int) -> Renewal:
    """The next ciphertexts, of secrets, of replaced ones, of runs, that do not begin with ``prefix``."""
    number, after = place
    owner, name, at, value = _WALKED[number]
    wanted = select(owner.label("owner"), name.label("name"), at.label("at"), value.label("value"))
    wanted = wanted.where(func.substr(value, 1, len(prefix)) != prefix)
    if after is not None:
        wanted = wanted.where(tuple_(owner, name, at) > tuple_(*(literal(part) for part in after)))
    rows = conn.execute(wanted.order_by(owner, name, at).limit(limit))
    found = [SealedValue(row.owner, row.name, row.at, bytes(row.value)) for row in rows]
    if len(found) == limit:
        last = found[-1]
        return Renewal(found, (number, (last.owner, last.name, last.retired_at)))
    return Renewal(found, (number + 1, None) if number + 1 < len(_WALKED) else None)


def replace_value(conn: Connection, old: SealedValue, sealed: bytes) -> bool:
    """Store the same value encrypted anew, unless another one was set meanwhile."""
    if old.owner == OF_RUN:
        d = derived_secrets.c
        mine = update(derived_secrets).where(d.run_id == old.name, d.value == old.sealed)
        return conn.execute(mine.values(value=sealed)).rowcount > 0
    table = secrets if old.retired_at < 0 else retired_secrets
    same = [table.c.owner == old.owner, table.c.name == old.name, table.c.value == old.sealed]
    return conn.execute(update(table).where(*same).values(value=sealed)).rowcount > 0


def delete_secret(conn: Connection, owner: str, name: str, now: int) -> bool:
    """Delete a secret."""
    _retire(conn, owner, name, now)
    mine = delete(secrets).where(secrets.c.owner == owner, secrets.c.name == name)
    return conn.execute(mine).rowcount == 1


def derived(conn: Connection, run_id: str) -> bytes | None:
    """The ciphertext of what a run's expressions have made of secrets."""
    d = derived_secrets.c
    return conn.execute(select(d.value).where(d.run_id == run_id)).scalar_one_or_none()


def put_derived(conn: Connection, run_id: str, value: bytes, now: int) -> None:
    """Store or replace the ciphertext of a run."""
    d = derived_secrets.c
    conn.execute(delete(derived_secrets).where((d.run_id == run_id) | (d.updated_at < now - RETIRED_KEPT)))
    conn.execute(insert(derived_secrets).values(run_id=run_id, value=value, updated_at=now))
