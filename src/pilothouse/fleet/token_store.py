"""Registration tokens: table and statements."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    Row,
    Table,
    Text,
    func,
    insert,
    or_,
    select,
    update,
)

from pilothouse.fleet.bindings import Binding, listed, unlisted
from pilothouse.fleet.model import RegistrationToken
from pilothouse.fleet.store import agents
from pilothouse.storage import metadata
from pilothouse.storage.counting import count_ahead

registration_tokens = Table(
    "registration_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("token_hash", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("max_uses", Integer, nullable=True),
    Column("uses", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Column("revoked", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("agents", Text, nullable=True),
    Column("projects", Text, nullable=True),
    Column("labels", Text, nullable=True),
)


def add_registration_token(conn: Connection, token_hash: str, token: RegistrationToken) -> None:
    """Store a registration token (its hash only)."""
    values: dict[str, Any] = {
        "id": token.id,
        "token_hash": token_hash,
        "description": token.description,
        "max_uses": token.max_uses,
        "uses": token.uses,
        "expires_at": token.expires_at,
        "revoked": token.revoked,
        "created_by": token.created_by,
        "created_at": token.created_at,
        "agents": listed(token.agents or None),
        "projects": listed(token.binding.projects),
        "labels": listed(token.binding.labels),
    }
    conn.execute(insert(registration_tokens).values(**values))


def registration_token(conn: Connection, token_hash: str) -> RegistrationToken | None:
    """The token with this secret, valid or not."""
    found = select(registration_tokens).where(registration_tokens.c.token_hash == token_hash)
    row = conn.execute(found).first()
    return _registration_token(row) if row else None


def use_registration_token(conn: Connection, token_id: str) -> None:
    """Count one new agent."""
    t = registration_tokens.c
    conn.execute(update(registration_tokens).where(t.id == token_id).values(uses=t.uses + 1))


def origins(conn: Connection) -> dict[str, RegistrationToken]:
    """The tokens with which agents are registered, by their ids."""
    used = select(agents.c.registered_by)
    rows = conn.execute(select(registration_tokens).where(registration_tokens.c.id.in_(used)))
    return {row.id: _registration_token(row) for row in rows}


def list_registration_tokens(
    conn: Connection, *, page: int, limit: int
) -> tuple[list[RegistrationToken], int]:
    """A page of the registration tokens, newest first, without their secrets, and the total."""
    offset = (page - 1) * limit
    total = count_ahead(conn, select(registration_tokens.c.id), offset)
    query = select(registration_tokens).order_by(registration_tokens.c.id.desc())
    rows = conn.execute(query.limit(limit).offset(offset))
    return [_registration_token(row) for row in rows], total


def count_unrevoked(conn: Connection, most: int) -> int:
    """How many registration tokens are not revoked; counted up to ``most``."""
    some = select(registration_tokens.c.id).where(~registration_tokens.c.revoked).limit(most).subquery()
    return conn.execute(select(func.count()).select_from(some)).scalar_one()


def unrevoked(conn: Connection, created_by: str, description: str) -> list[str]:
    """The ids of the tokens of this creator with this description that are not revoked."""
    t = registration_tokens.c
    found = select(t.id).where(t.created_by == created_by, t.description == description, ~t.revoked)
    return list(conn.execute(found).scalars())


def _registration_token(row: Row[Any]) -> RegistrationToken:
    return RegistrationToken(
        id=row.id,
        description=row.description,
        max_uses=row.max_uses,
        uses=row.uses,
        expires_at=row.expires_at,
        revoked=bool(row.revoked),
        created_by=row.created_by,
        created_at=row.created_at,
        agents=unlisted(row.agents) or (),
        binding=Binding(unlisted(row.projects), unlisted(row.labels)),
    )


def revoke_registration_token(conn: Connection, token_id: str) -> bool:
    """Revoke a token; ``False`` if there is none with this id."""
    statement = update(registration_tokens).where(registration_tokens.c.id == token_id).values(revoked=True)
    return conn.execute(statement).rowcount == 1


def bound_to(conn: Connection, project: str, now: int) -> str:
    """Why a project (its id) cannot be deleted: agents are bound to it, or may register so; else ``""``."""
    named = f'%"{project}"%'
    one = select(agents.c.agent_id).where(agents.c.projects.like(named)).limit(1)
    agent = conn.execute(one).scalar()
    if agent is not None:
        return f"agent {agent} is bound to it"
    t = registration_tokens.c
    usable = (
        ~t.revoked,
        or_(t.expires_at.is_(None), t.expires_at > now),
        or_(t.max_uses.is_(None), t.uses < t.max_uses),
    )
    token = conn.execute(select(t.id).where(t.projects.like(named), *usable).limit(1)).scalar()
    return "" if token is None else f"the registration token {token} binds agents to it"
