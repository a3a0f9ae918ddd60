"""Use cases on projects and their members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.access.quotas import Quotas, check_quota
from pilothouse.identity import store
from pilothouse.identity.audit import Trail
from pilothouse.identity.grants import Grants
from pilothouse.identity.model import Project, User, check_no_id
from pilothouse.identity.tenants import Tenants
from pilothouse.storage import Tx

DEFAULT_NAME = "default"

Reason = Callable[[Connection, str], str]
"""Why the project with this id cannot be deleted now, ``""`` if nothing prevents it."""
Clear = Callable[[Tx, str], bool]
"""Deletes a part of what belonged to a deleted project, in a short transaction; whether something may be left."""


class Projects:
    """Creates and changes projects; members see their content."""

    def __init__(self, trail: Trail, grants: Grants, tenants: Tenants, quotas: Quotas) -> None:
        self._tenants = tenants
        self._quotas = quotas
        self._reasons: list[Reason] = []
        self._clears: list[Clear] = []
        self._deleted: Callable[[], None] = lambda: None
        self._trail = trail
        self._grants = grants

    def default(self, conn: Connection) -> str:
        """The id of the default project, for new users and for requests without a project."""
        found = store.default_project(conn)
        if found is None:
            raise Refusal.of("PROJECT_NOT_FOUND", "There is no default project: the server was never started")
        return found

    def create(
        self,
        tx: Tx,
        by: Principal,
        *,
        name: str,
        description: str = "",
        members: Iterable[str] = (),
        is_default: bool = False,
        tenant: str = "",
    ) -> Project:
        """Create a project; ``members`` are ids or names of users, ``tenant`` the id of one.

        Raises ``PROJECT_ALREADY_EXISTS``, ``TENANT_NOT_FOUND``, ``VALIDATION_FAILED`` for an unknown member.
        """
        require(by, "project.write")
        self._check_name(tx.conn, name)
        check_quota(
            "projects", store.list_projects(tx.conn, None, 0, 0)[1], self._quotas.projects, "projects"
        )
        if tenant:
            self._tenants.find(tx.conn, tenant)
        project = Project(str(uuid7()), name, description, is_default, {}, tx.now, tx.now, tenant)
        store.insert_project(tx.conn, project)
        self._record(tx, by, "project.created", project, {})
        for member in members:
            user = store.find_user(tx.conn, member)
            if user is None:
                raise Refusal.of("VALIDATION_FAILED", f"No user '{member}' exists", field="members")
            self._add(tx, by, project, user)
        return self._find(tx.conn, project.id)

    def get(self, conn: Connection, by: Principal, id: str) -> Project:
        """A project. Raises ``PROJECT_NOT_FOUND``, also for non-members."""
        project = self._find(conn, id)
        if not by.may("project.read", project.id):
            raise _not_found(id)
        return project

    def resolve(self, conn: Connection, by: Principal, name_or_id: str | None) -> Project:
        """The project with this id or name, or the default project for ``""``; otherwise like :meth:`get`."""
        if name_or_id is None:
            return self.get(conn, by, self.default(conn))
        # Projects of earlier releases may have a name that is the id of another one.
        by_id = store.find_project(conn, name_or_id)
        return self.get(conn, by, by_id.id if by_id else store.project_named(conn, name_or_id) or name_or_id)

    def list(
        self, conn: Connection, by: Principal, *, page: int = 1, limit: int = 20
    ) -> tuple[list[Project], int]:
        """A page of the projects of this principal, by name, and their number."""
        return store.list_projects(conn, by.among, (page - 1) * limit, limit)

    def update(
        self,
        tx: Tx,
        by: Principal,
        id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        tenant: str | None = None,
    ) -> Project:
        """Change the given fields; ``tenant`` ``""``: none.

        Raises ``PROJECT_NOT_FOUND``, ``PROJECT_ALREADY_EXISTS``, ``TENANT_NOT_FOUND``.
        """
        require(by, "project.write")
        project = self._find(tx.conn, id)
        changes: dict[str, Any] = {}
        if name is not None and name != project.name:
            self._check_name(tx.conn, name)
            changes["name"] = name
        if description is not None and description != project.description:
            changes["description"] = description
        if tenant is not None and tenant != project.tenant:
            if tenant:
                self._tenants.find(tx.conn, tenant)
            changes["tenant_id"] = tenant
        if not changes:
            return project
        store.update_project(tx.conn, id, **changes, updated_at=tx.now)
        project = self._find(tx.conn, id)
        self._record(tx, by, "project.updated", project, {"changed": sorted(changes)})
        return project

    # -- deleting ---------------------------------------------------------------------------------------

    def keep_while(self, reason: Reason) -> None:
        """Register what may prevent the deletion of a project."""
        self._reasons.append(reason)

    def on_delete(self, clear: Clear) -> None:
        """Register what deletes things of projects that were deleted."""
        self._clears.append(clear)

    def wake_on_delete(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` on the event loop after a project was deleted."""
        self._deleted = wake

    def check(self, conn: Connection, id: str) -> None:
        """To be called in the transaction that adds something to a project: it may have been deleted meanwhile.
        Raises ``PROJECT_NOT_FOUND``."""
        if store.was_deleted(conn, id):
            raise _not_found(id)

    def delete(self, tx: Tx, by: Principal, id: str) -> Project:
        """Delete a project: at once it is there for nobody, what belongs to it is deleted in the background. Its runs
        stay for operators and admins.

        Raises ``PROJECT_NOT_FOUND``, ``PROJECT_IN_USE`` with the reason: it is the default one, or busy.
        """
        require(by, "project.write")
        project = self._find(tx.conn, id)
        reasons = ["it is the default project"] if project.is_default else []
        reasons += [reason for ask in self._reasons if (reason := ask(tx.conn, id))]
        if reasons:
            raise Refusal.of(
                "PROJECT_IN_USE",
                f"The project '{project.name}' cannot be deleted: {'; '.join(reasons)}",
                reasons=reasons,
            )
        self._record(tx, by, "project.deleted", project, {})
        store.delete_project(tx.conn, id, tx.now)
        tx.after_commit(lambda: self._grants.leave_project(id))
        tx.after_commit(self._deleted)
        return project

    def clear(self, tx: Tx) -> bool:
        """Delete a part of what belonged to a deleted project; whether there may be more."""
        id = store.deleted_project(tx.conn)
        if id is None:
            return False
        if not any(clear(tx, id) for clear in self._clears):
            store.mark_cleared(tx.conn, id, tx.now)
        return True

    # -- members ----------------------------------------------------------------------------------------

    def members(
        self, conn: Connection, by: Principal, id: str, *, page: int = 1, limit: int = 20
    ) -> tuple[Sequence[User], int]:
        """A page of the members of a project, by name, and their number. Raises ``PROJECT_NOT_FOUND``, also for
        non-members."""
        if not (store.project_exists(conn, id) and by.may("project.read", id)):
            raise _not_found(id)
        return store.list_members(conn, id, (page - 1) * limit, limit)

    def add_member(self, tx: Tx, by: Principal, id: str, user: str) -> Project:
        """Add a user (id or name), effective immediately. Raises ``USER_NOT_FOUND``."""
        require(by, "project.write")
        project = self._find(tx.conn, id)
        self._add(tx, by, project, self._user(tx.conn, user))
        return self._find(tx.conn, id)

    def remove_member(self, tx: Tx, by: Principal, id: str, user: str) -> Project:
        """Remove a user, effective immediately, also on open streams."""
        require(by, "project.write")
        project = self._find(tx.conn, id)
        member = self._user(tx.conn, user)
        if store.remove_member(tx.conn, id, member.id):
            self._record(tx, by, "project.member_removed", project, {"user": member.username})
            self._adapt(tx, member)
        return self._find(tx.conn, id)

    def _add(self, tx: Tx, by: Principal, project: Project, member: User) -> None:
        if store.add_member(tx.conn, project.id, member.id):
            self._record(tx, by, "project.member_added", project, {"user": member.username})
            self._adapt(tx, member)

    def _adapt(self, tx: Tx, member: User) -> None:
        memberships = store.projects_of(tx.conn, member.id)
        tx.after_commit(lambda: self._grants.change_user(member.id, member.role, memberships))

    def _record(self, tx: Tx, by: Principal, type: str, project: Project, more: dict[str, Any]) -> None:
        body = {"id": project.id, "name": project.name, **more}
        self._trail.record(tx, by, type, f"project/{project.id}", body, scope=f"project/{project.id}")

    def _user(self, conn: Connection, user: str) -> User:
        found = store.find_user(conn, user)
        if found is None:
            raise Refusal.of("USER_NOT_FOUND", f"No user '{user}' exists")
        return found

    def _check_name(self, conn: Connection, name: str) -> None:
        check_no_id(name, "name")
        if store.project_named(conn, name) is not None:
            raise Refusal.of("PROJECT_ALREADY_EXISTS", f"A project named '{name}' exists", name=name)

    def _find(self, conn: Connection, id: str) -> Project:
        project = store.find_project(conn, id)
        if project is None:
            raise _not_found(id)
        return project


def _not_found(id: str) -> Refusal:
    return Refusal.of("PROJECT_NOT_FOUND", f"No project with id '{id}' exists")
