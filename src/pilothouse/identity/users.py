"""Use cases on users. After the commit, changes are applied to the user's tokens and streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal, Role
from pilothouse.identity import store
from pilothouse.identity.audit import Trail
from pilothouse.identity.grants import Grants
from pilothouse.identity.model import User, check_no_id
from pilothouse.storage import Tx


class Users:
    """Creates, changes and deactivates users.

    Users are not deleted, so that their actions stay attributable.
    """

    def __init__(self, trail: Trail, grants: Grants) -> None:
        self._trail = trail
        self._grants = grants

    def create(
        self,
        tx: Tx,
        by: Principal,
        *,
        username: str,
        password_hash: str | None,
        email: str = "",
        role: Role = Role.USER,
        projects: Iterable[str] | None = None,
    ) -> User:
        """Create a user as member of ``projects`` (ids), by default of the default project.

        Raises ``USER_ALREADY_EXISTS``, ``PROJECT_NOT_FOUND``.
        """
        require(by, "user.admin")
        check_no_id(username, "username")
        if store.find_login(tx.conn, username) is not None:
            raise Refusal.of("USER_ALREADY_EXISTS", f"A user named '{username}' exists", username=username)
        user = User(str(uuid7()), username, email, role, True, tx.now, tx.now, None)
        store.insert_user(tx.conn, user, password_hash)
        if projects is None:
            default = store.default_project(tx.conn)
            projects = [] if default is None else [default]
        for project in projects:
            if store.find_project(tx.conn, project) is None:
                raise Refusal.of("PROJECT_NOT_FOUND", f"No project with id '{project}' exists")
            store.add_member(tx.conn, project, user.id)
        body = {"id": user.id, "username": username, "role": role.value}
        self._trail.record(tx, by, "user.created", f"user/{user.id}", body)
        return user

    def get(self, conn: Connection, name_or_id: str) -> User:
        """A user by id or name. Raises ``USER_NOT_FOUND``."""
        user = store.find_user(conn, name_or_id)
        if user is None:
            raise Refusal.of("USER_NOT_FOUND", f"No user '{name_or_id}' exists")
        return user

    def list(
        self,
        conn: Connection,
        *,
        role: Role | None = None,
        active: bool | None = None,
        page: int = 1,
        limit: int = 20,
    ) -> tuple[list[User], int]:
        """A page of users by name, and the total."""
        return store.list_users(conn, role, active, (page - 1) * limit, limit)

    def update(
        self,
        tx: Tx,
        by: Principal,
        name_or_id: str,
        *,
        email: str | None = None,
        role: Role | None = None,
        active: bool | None = None,
    ) -> User:
        """Change the given fields. Raises ``USER_NOT_FOUND``, ``CONFLICT`` for the last active admin."""
        require(by, "user.admin")
        user = self.get(tx.conn, name_or_id)
        wanted: dict[str, Any] = {"email": email, "role": role, "active": active}
        changes = {key: new for key, new in wanted.items() if new is not None and new != getattr(user, key)}
        if not changes:
            return user
        if changes.get("active") is False or "role" in changes:
            self._keep_an_admin(tx.conn, user)
        store.update_user(tx.conn, user.id, **changes, updated_at=tx.now)
        changed = "user.deactivated" if changes.get("active") is False else "user.updated"
        body = {"id": user.id, "username": user.username, "changed": sorted(changes)}
        if "role" in changes:
            body |= {"role": changes["role"].value, "previous_role": user.role.value}
        self._trail.record(tx, by, changed, f"user/{user.id}", body)
        if changes.get("active") is False:
            ended = store.revoke_of_user(tx.conn, user.id, tx.now)
            tx.after_commit(lambda: self._grants.end_tokens(ended))
        user = self.get(tx.conn, user.id)
        memberships = store.projects_of(tx.conn, user.id)
        tx.after_commit(lambda: self._grants.change_user(user.id, user.role, memberships))
        return user

    def deactivate(self, tx: Tx, by: Principal, name_or_id: str) -> User:
        """End a user's access immediately: sessions, API tokens and open streams."""
        return self.update(tx, by, name_or_id, active=False)

    def set_password(
        self, tx: Tx, by: Principal, name_or_id: str, password_hash: str, *, proven: bool = False
    ) -> User:
        """Set a new password, by an admin or the user. ``proven``: the caller has given the current one.

        Ends the user's other sessions; API tokens stay valid. An API token with a limit does not set the password of
        its own user without the current one, since a login has no such limit.
        """
        user = self.get(tx.conn, name_or_id)
        if by.id != user.id:
            require(by, "user.admin")
        elif not proven and (by.token_role is not None or by.granted_until is not None):
            raise Refusal.of(
                "AUTH_INSUFFICIENT_PERMISSIONS",
                "With a token that is limited, your own password is only changed with the current one",
            )
        store.update_user(tx.conn, user.id, password_hash=password_hash, updated_at=tx.now)
        body = {"id": user.id, "username": user.username}
        self._trail.record(tx, by, "user.password_changed", f"user/{user.id}", body)
        kept = by.token_id if by.id == user.id else ""
        ended = store.revoke_of_user(tx.conn, user.id, tx.now, kind=store.SESSION, but=kept)
        tx.after_commit(lambda: self._grants.end_tokens(ended))
        return user

    def _keep_an_admin(self, conn: Connection, user: User) -> None:
        if user.role is Role.ADMIN and user.active and store.count_active_admins(conn) == 1:
            raise Refusal.of("CONFLICT", f"'{user.username}' is the last active admin")
