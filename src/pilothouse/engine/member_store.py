"""The table of members of concurrency groups, and its SQL: no row for runs and jobs without a group."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from pilothouse.storage import metadata

members = Table(
    "concurrency_members",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("group_name", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("waits_for", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Index("concurrency_members_by_group", "project", "kind", "group_name"),
    Index("concurrency_members_by_run", "run_id"),
)

RUN, JOB = "run", "job"


class Member(NamedTuple):
    """A run or job (``id``) in a group. ``waits_for``: the id of the member that holds it; empty: this one does."""

    id: str
    kind: str
    project: str
    group_name: str
    run_id: str
    waits_for: str
    since: int


def add_member(conn: Connection, member: Member) -> None:
    """Store a new member."""
    conn.execute(insert(members).values(**member._asdict()))


def find_member(conn: Connection, id: str) -> Member | None:
    """The membership of a run or job, while it has one."""
    row = conn.execute(select(members).where(members.c.id == id)).first()
    return Member(*row) if row else None


def remove_member(conn: Connection, id: str) -> None:
    """Remove a member."""
    conn.execute(delete(members).where(members.c.id == id))


def hold(conn: Connection, id: str) -> None:
    """The member waits no longer: it holds its group."""
    conn.execute(update(members).where(members.c.id == id).values(waits_for=""))


def members_of(conn: Connection, project: str, kind: str, group: str) -> list[Member]:
    """All members of a group: at most one that holds it and one that waits."""
    wanted = (members.c.project == project, members.c.kind == kind, members.c.group_name == group)
    query = select(members).where(*wanted).order_by(members.c.since, members.c.id)
    return [Member(*row) for row in conn.execute(query)]


def waiting_in(conn: Connection, run_id: str) -> dict[str, str]:
    """For a run and its jobs that wait in a group: the member they wait for, by their id."""
    query = select(members.c.id, members.c.waits_for).where(
        members.c.run_id == run_id, members.c.waits_for != ""
    )
    return {row.id: row.waits_for for row in conn.execute(query)}
