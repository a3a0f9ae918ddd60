"""The tables of identity. Times are in ms; ids are UUIDv7 as text."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Table, Text, text

from pilothouse.storage import metadata

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("username", Text, nullable=False),
    # Case-folded, so that "Admin" and "admin" are the same name.
    Column("username_key", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("password_hash", Text, nullable=True),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("last_login", BigInteger, nullable=True),
)

#: The addresses that users have logged in from (:func:`pilothouse.edge.network.rate_key`).
login_addresses = Table(
    "login_addresses",
    metadata,
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("address", Text, primary_key=True),
    Column("last_login", BigInteger, nullable=False),
)

#: Logins (``session``: id is the JWT's ``jti``) and API tokens (``api``: found by their digest).
credentials = Table(
    "credentials",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=True),
    # JSON, the ids of the only projects that the token is for.
    Column("projects", Text, nullable=True),
    Column("digest", Text, nullable=True, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Column("revoked_at", BigInteger, nullable=True),
    Column("last_used_at", BigInteger, nullable=True),
    # Of the last use, and of the login.
    Column("address", Text, nullable=False, server_default=""),
    Column("user_agent", Text, nullable=False, server_default=""),
    Index("credentials_by_user", "user_id", "kind"),
    Index("credentials_by_expiry", "kind", "expires_at"),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("tenant_id", Text, nullable=False, server_default=""),
    Index("projects_by_tenant", "tenant_id"),
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

#: Projects that were deleted, and when nothing of them was left (0: not yet).
deleted_projects = Table(
    "deleted_projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("deleted_at", BigInteger, nullable=False),
    Column("cleared_at", BigInteger, nullable=False),
    Index("deleted_projects_waiting", "deleted_at", sqlite_where=text("cleared_at = 0")),
)

project_members = Table(
    "project_members",
    metadata,
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Index("project_members_by_user", "user_id"),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("token_id", Text, nullable=False, server_default=""),
    Index("audit_records_by_time", "at"),
    Index("audit_records_by_target", "target", "at", "id"),
    Index("audit_records_by_action", "action", "at", "id"),
    Index("audit_records_by_actor", "actor", "at", "id"),
    Index("audit_records_by_actor_id", "actor_id", "at", "id"),
)
