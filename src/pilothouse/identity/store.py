"""SQL of users, projects and credentials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, select, update

from pilothouse.access.model import Role
from pilothouse.identity.model import LoginInfo, Project, TokenInfo, User
from pilothouse.identity.tables import credentials, deleted_projects, project_members, projects, users

SESSION, API = "session", "api"


@dataclass(frozen=True, slots=True)
class Credential:
    """A session or API token with the data of its principal. Times in ms."""

    id: str
    user_id: str
    username: str
    user_role: Role
    active: bool
    token_role: Role | None
    projects: frozenset[str]
    expires_at: int | None
    revoked: bool
    kind: str
    token_projects: frozenset[str] | None


# -- users ----------------------------------------------------------------------------------------------


def insert_user(conn: Connection, user: User, password_hash: str | None) -> None:
    """Raises :class:`sqlalchemy.exc.IntegrityError` if the name is taken."""
    conn.execute(
        insert(users).values(
            id=user.id,
            username=user.username,
            username_key=user.username.casefold(),
            email=user.email,
            role=user.role.value,
            active=user.active,
            password_hash=password_hash,
            created_at=user.created_at,
            updated_at=user.updated_at,
            last_login=user.last_login,
        )
    )


def find_user(conn: Connection, name_or_id: str) -> User | None:
    """A user by id, otherwise by name, ignoring case."""
    found = conn.execute(select(users).where(users.c.id == name_or_id)).first()
    if found is None:
        found = conn.execute(select(users).where(users.c.username_key == name_or_id.casefold())).first()
    return None if found is None else _user(found)


def find_login(conn: Connection, username: str) -> tuple[User, str | None] | None:
    """A user by name, with the password hash."""
    found = conn.execute(select(users).where(users.c.username_key == username.casefold())).first()
    return None if found is None else (_user(found), found.password_hash)


def list_users(
    conn: Connection, role: Role | None, active: bool | None, offset: int, limit: int
) -> tuple[list[User], int]:
    """A page of users by name, and their number."""
    chosen = select(users)
    if role is not None:
        chosen = chosen.where(users.c.role == role.value)
    if active is not None:
        chosen = chosen.where(users.c.active == active)
    page = chosen.order_by(users.c.username_key).offset(offset).limit(limit)
    return [_user(row) for row in conn.execute(page)], _count(conn, chosen)


def update_user(conn: Connection, id: str, **values: Any) -> None:
    """Set columns of one user."""
    conn.execute(update(users).where(users.c.id == id).values(**values))


def count_active_admins(conn: Connection) -> int:
    """Number of active admins."""
    return _count(conn, select(users.c.id).where(users.c.role == Role.ADMIN.value, users.c.active))


def _user(row: Row[Any]) -> User:
    return User(
        row.id,
        row.username,
        row.email,
        Role(row.role),
        bool(row.active),
        row.created_at,
        row.updated_at,
        row.last_login,
    )


# -- projects -------------------------------------------------------------------------------------------


def insert_project(conn: Connection, project: Project) -> None:
    """The project itself; members are added by :func:`add_member`."""
    conn.execute(
        insert(projects).values(
            id=project.id,
            name=project.name,
            description=project.description,
            is_default=project.is_default,
            created_at=project.created_at,
            updated_at=project.updated_at,
            tenant_id=project.tenant,
        )
    )


def project_exists(conn: Connection, id: str) -> bool:
    """Whether there is a project with this id."""
    return conn.execute(select(projects.c.id).where(projects.c.id == id)).first() is not None


def delete_project(conn: Connection, id: str, now: int) -> None:
    """Delete a project and its memberships, and note that what belongs to it is to be deleted."""
    conn.execute(delete(project_members).where(project_members.c.project_id == id))
    conn.execute(delete(projects).where(projects.c.id == id))
    conn.execute(insert(deleted_projects).values(id=id, deleted_at=now, cleared_at=0))


def was_deleted(conn: Connection, id: str) -> bool:
    """Whether this was the id of a project that was deleted."""
    return conn.execute(select(deleted_projects.c.id).where(deleted_projects.c.id == id)).first() is not None


def deleted_project(conn: Connection) -> str | None:
    """The project that was deleted first, of those of which something may be left."""
    d = deleted_projects.c
    waiting = select(d.id).where(d.cleared_at == 0).order_by(d.deleted_at, d.id)
    return conn.execute(waiting.limit(1)).scalar()


def mark_cleared(conn: Connection, id: str, now: int) -> None:
    """Nothing is left of a deleted project."""
    d = deleted_projects.c
    conn.execute(update(deleted_projects).where(d.id == id).values(cleared_at=now))


def default_project(conn: Connection) -> str | None:
    """The id of the default project."""
    return conn.execute(select(projects.c.id).where(projects.c.is_default)).scalar_one_or_none()


def find_project(conn: Connection, id: str) -> Project | None:
    """A project by id, with its members."""
    found = list_projects(conn, [id], 0, 1)[0]
    return found[0] if found else None


def project_named(conn: Connection, name: str) -> str | None:
    """The id of the project with this name."""
    return conn.execute(select(projects.c.id).where(projects.c.name == name)).scalar_one_or_none()


def list_projects(
    conn: Connection, among: Iterable[str] | None, offset: int, limit: int
) -> tuple[list[Project], int]:
    """A page of projects by name (``among``: only these ids), and their number."""
    chosen = select(projects)
    if among is not None:
        chosen = chosen.where(projects.c.id.in_(sorted(among)))
    rows = conn.execute(chosen.order_by(projects.c.name).offset(offset).limit(limit)).all()
    members: dict[str, dict[str, str]] = {row.id: {} for row in rows}
    belonging = (
        select(project_members.c.project_id, users.c.id, users.c.username)
        .join(users, users.c.id == project_members.c.user_id)
        .where(project_members.c.project_id.in_(list(members)))
        .order_by(users.c.username_key)
    )
    for project_id, user_id, username in conn.execute(belonging):
        members[project_id][user_id] = username
    found = [
        Project(
            r.id,
            r.name,
            r.description,
            bool(r.is_default),
            members[r.id],
            r.created_at,
            r.updated_at,
            r.tenant_id,
        )
        for r in rows
    ]
    return found, _count(conn, chosen)


def update_project(conn: Connection, id: str, **values: Any) -> None:
    """Set columns of one project."""
    conn.execute(update(projects).where(projects.c.id == id).values(**values))


def add_member(conn: Connection, project_id: str, user_id: str) -> bool:
    """Whether the user was not a member before."""
    if project_id in projects_of(conn, user_id):
        return False
    conn.execute(insert(project_members).values(project_id=project_id, user_id=user_id))
    return True


def list_members(conn: Connection, project_id: str, offset: int, limit: int) -> tuple[list[User], int]:
    """A page of a project's members by name, and their number."""
    chosen = select(users).join(project_members, users.c.id == project_members.c.user_id)
    chosen = chosen.where(project_members.c.project_id == project_id)
    page = chosen.order_by(users.c.username_key).offset(offset).limit(limit)
    return [_user(row) for row in conn.execute(page)], _count(conn, chosen)


def remove_member(conn: Connection, project_id: str, user_id: str) -> bool:
    """Whether the user was a member."""
    gone = delete(project_members).where(
        project_members.c.project_id == project_id, project_members.c.user_id == user_id
    )
    return conn.execute(gone).rowcount > 0


def projects_of(conn: Connection, user_id: str) -> frozenset[str]:
    """The ids of the projects a user is a member of."""
    mine = select(project_members.c.project_id).where(project_members.c.user_id == user_id)
    return frozenset(conn.execute(mine).scalars())


# -- credentials ----------------------------------------------------------------------------------------


def insert_credential(
    conn: Connection,
    *,
    id: str,
    kind: str,
    user_id: str,
    name: str,
    role: Role | None,
    digest: str | None,
    created_at: int,
    expires_at: int | None,
    address: str = "",
    user_agent: str = "",
    projects: frozenset[str] | None = None,
) -> None:
    """A new session or API token."""
    conn.execute(
        insert(credentials).values(
            id=id,
            kind=kind,
            user_id=user_id,
            name=name,
            role=None if role is None else role.value,
            digest=digest,
            created_at=created_at,
            expires_at=expires_at,
            address=address,
            user_agent=user_agent,
            projects=None if projects is None else orjson.dumps(sorted(projects)).decode(),
        )
    )


def find_credential(
    conn: Connection, *, id: str | None = None, digest: str | None = None
) -> Credential | None:
    """A credential by id or by digest, with its user and their projects."""
    key = credentials.c.digest == digest if id is None else credentials.c.id == id
    wanted = (
        select(credentials, users.c.username, users.c.role.label("user_role"), users.c.active)
        .join(users, users.c.id == credentials.c.user_id)
        .where(key)
    )
    row = conn.execute(wanted).first()
    if row is None:
        return None
    return Credential(
        row.id,
        row.user_id,
        row.username,
        Role(row.user_role),
        bool(row.active),
        None if row.role is None else Role(row.role),
        projects_of(conn, row.user_id),
        row.expires_at,
        row.revoked_at is not None,
        row.kind,
        _among(row),
    )


def list_api_tokens(
    conn: Connection, user_id: str | None, offset: int, limit: int
) -> tuple[list[TokenInfo], int]:
    """A page of API tokens that were not revoked, newest first, of one user or all, and their number."""
    chosen = _api_tokens()
    if user_id is not None:
        chosen = chosen.where(credentials.c.user_id == user_id)
    page = chosen.order_by(credentials.c.id.desc()).offset(offset).limit(limit)
    return [_token(row) for row in conn.execute(page)], _count(conn, chosen)


def find_api_token(conn: Connection, id: str) -> TokenInfo | None:
    """An API token that was not revoked."""
    row = conn.execute(_api_tokens().where(credentials.c.id == id)).first()
    return None if row is None else _token(row)


def list_logins(
    conn: Connection, user_id: str | None, now: int, offset: int, limit: int
) -> tuple[list[LoginInfo], int]:
    """A page of logins that are valid, newest first, of one user or all, and their number."""
    chosen = _logins(now)
    if user_id is not None:
        chosen = chosen.where(credentials.c.user_id == user_id)
    page = chosen.order_by(credentials.c.id.desc()).offset(offset).limit(limit)
    return [_login(row) for row in conn.execute(page)], _count(conn, chosen)


def find_login_by_id(conn: Connection, id: str, now: int) -> LoginInfo | None:
    """A login that is valid."""
    row = conn.execute(_logins(now).where(credentials.c.id == id)).first()
    return None if row is None else _login(row)


def note_use(conn: Connection, id: str, now: int, address: str) -> None:
    """Record when, and from where, a credential was used last."""
    conn.execute(update(credentials).where(credentials.c.id == id).values(last_used_at=now, address=address))


def revoke(conn: Connection, id: str, now: int) -> bool:
    """Revoke; whether the credential was valid before."""
    good = and_(credentials.c.id == id, credentials.c.revoked_at.is_(None))
    return conn.execute(update(credentials).where(good).values(revoked_at=now)).rowcount > 0


def revoke_of_user(
    conn: Connection,
    user_id: str,
    now: int,
    *,
    kind: str | None = None,
    name: str | None = None,
    but: str = "",
) -> list[str]:
    """Revoke a user's credentials (of one kind, of one name, except ``but``); returns their ids."""
    good = [credentials.c.user_id == user_id, credentials.c.revoked_at.is_(None), credentials.c.id != but]
    if kind is not None:
        good.append(credentials.c.kind == kind)
    if name is not None:
        good.append(credentials.c.name == name)
    revoked = update(credentials).where(and_(*good)).values(revoked_at=now).returning(credentials.c.id)
    return list(conn.execute(revoked).scalars())


def purge_sessions(conn: Connection, before: int) -> None:
    """Delete sessions that expired before this time; API tokens remain as a record."""
    conn.execute(delete(credentials).where(credentials.c.kind == SESSION, credentials.c.expires_at < before))


def _api_tokens() -> Select[Any]:
    return (
        select(credentials, users.c.username)
        .join(users, users.c.id == credentials.c.user_id)
        .where(credentials.c.kind == API, credentials.c.revoked_at.is_(None))
    )


def _token(row: Row[Any]) -> TokenInfo:
    role = None if row.role is None else Role(row.role)
    return TokenInfo(
        row.id,
        row.user_id,
        row.username,
        row.name,
        role,
        row.created_at,
        row.expires_at,
        row.last_used_at,
        _among(row),
    )


def _among(row: Row[Any]) -> frozenset[str] | None:
    return None if row.projects is None else frozenset(orjson.loads(row.projects))


def _logins(now: int) -> Select[Any]:
    c = credentials.c
    return (
        select(credentials, users.c.username)
        .join(users, users.c.id == c.user_id)
        .where(c.kind == SESSION, c.revoked_at.is_(None), c.expires_at > now)
    )


def _login(row: Row[Any]) -> LoginInfo:
    return LoginInfo(
        row.id,
        row.user_id,
        row.username,
        row.created_at,
        row.last_used_at,
        row.expires_at,
        row.address,
        row.user_agent,
    )


def _count(conn: Connection, chosen: Select[Any]) -> int:
    return conn.execute(select(func.count()).select_from(chosen.order_by(None).subquery())).scalar_one()
