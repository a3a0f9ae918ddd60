"""Use cases on API tokens: long-lived tokens for scripts, optionally with a lower role than their user."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal, require, token_invalid
from pilothouse.access.model import Principal, Role, narrower
from pilothouse.access.quotas import Quotas, check_quota
from pilothouse.identity import store
from pilothouse.identity.audit import Trail
from pilothouse.identity.grants import Grants
from pilothouse.identity.model import TokenInfo, User
from pilothouse.identity.projects import Projects
from pilothouse.identity.tokens import new_api_token
from pilothouse.storage import Tx

EVERYBODY = "*"


class ApiTokens:
    """Creates and revokes API tokens. The secret is returned once; the database only has its SHA-256."""

    def __init__(self, trail: Trail, grants: Grants, projects: Projects, quotas: Quotas) -> None:
        self._projects = projects
        self._quotas = quotas
        self._trail = trail
        self._grants = grants

    def create(
        self,
        tx: Tx,
        by: Principal,
        *,
        name: str,
        role: Role | None = None,
        projects: Collection[str] | None = None,
        expires_at: int | None = None,
    ) -> tuple[TokenInfo, str]:
        """Create a token for the caller; returns it and its secret. ``projects``: names or ids.

        A ``role`` that is given stays the token's limit, whatever its user may do later; without one the token has
        the limit of the caller's token, or none. So it is with ``projects``, all of which the caller must see. It
        expires no later than the caller's API token. Raises ``AUTH_INSUFFICIENT_PERMISSIONS``,
        ``PROJECT_NOT_FOUND``.
        """
        require(by, "token.own")
        user = store.find_user(tx.conn, by.id)
        if user is None or not user.active or by.role is None:
            raise Refusal.of("AUTH_INSUFFICIENT_PERMISSIONS", "Only an active user can have API tokens")
        owned = store.list_api_tokens(tx.conn, user.id, 0, 0)[1]
        check_quota("your API tokens", owned, self._quotas.tokens, "tokens")
        maker = store.find_credential(tx.conn, id=by.token_id)
        if maker is not None and maker.revoked:  # while this request waited
            raise token_invalid()
        if role is not None and narrower(role, narrower(by.role, user.role)) is not role:
            raise Refusal.of(
                "AUTH_INSUFFICIENT_PERMISSIONS", f"You may not create a token with role '{role}'"
            )
        if by.granted_until is not None:
            expires_at = min(expires_at or by.granted_until, by.granted_until)
        among = by.token_projects
        if projects is not None:
            among = frozenset(self._projects.resolve(tx.conn, by, given).id for given in projects)
        return self.issue(
            tx, by, user, name=name, role=role or by.token_role, projects=among, expires_at=expires_at
        )

    def issue(
        self,
        tx: Tx,
        by: Principal,
        user: User,
        *,
        name: str,
        role: Role | None,
        expires_at: int | None,
        projects: frozenset[str] | None = None,
    ) -> tuple[TokenInfo, str]:
        """Create a token for ``user``, on behalf of ``by``, without checking the rights of ``by``."""
        secret, digest = new_api_token()
        token = TokenInfo(
            str(uuid7()), user.id, user.username, name, role, tx.now, expires_at, projects=projects
        )
        store.insert_credential(
            tx.conn,
            id=token.id,
            kind=store.API,
            user_id=user.id,
            name=name,
            role=role,
            projects=projects,
            digest=digest,
            created_at=tx.now,
            expires_at=expires_at,
        )
        body: dict[str, Any] = {"id": token.id, "name": name, "user": user.username}
        body |= {"role": role and role.value, "projects": None if projects is None else sorted(projects)}
        self._trail.record(tx, by, "token.created", f"token/{token.id}", body, scope=f"user/{user.id}")
        return token, secret

    def list(
        self, conn: Connection, by: Principal, *, user: str | None = None, page: int = 1, limit: int = 20
    ) -> tuple[list[TokenInfo], int]:
        """A page, newest first, and the total.

        ``user``: a name or id, or ``*`` for all; default: the caller.
        """
        owner: str | None = by.id
        if user == EVERYBODY:
            require(by, "token.admin")
            owner = None
        elif user is not None and user not in (by.id, by.name):
            require(by, "token.admin")
            found = store.find_user(conn, user)
            if found is None:
                raise Refusal.of("USER_NOT_FOUND", f"No user '{user}' exists")
            owner = found.id
        return store.list_api_tokens(conn, owner, (page - 1) * limit, limit)

    def revoke(self, tx: Tx, by: Principal, id: str) -> None:
        """Revoke a token and end all its streams.

        A token that is limited to a role or projects does not revoke stronger ones. Raises ``TOKEN_NOT_FOUND``,
        ``AUTH_INSUFFICIENT_PERMISSIONS``.
        """
        token = store.find_api_token(tx.conn, id)
        if token is None or not by.may("token.own" if token.user_id == by.id else "token.admin"):
            raise Refusal.of("TOKEN_NOT_FOUND", "No token with this id exists")
        owner = store.find_user(tx.conn, token.user_id)
        strength = narrower(owner.role, token.role) if owner is not None else Role.VIEWER
        if id != by.token_id and narrower(strength, by.token_role) is not strength:
            raise Refusal.of(
                "AUTH_INSUFFICIENT_PERMISSIONS",
                f"This token is limited to the role {by.token_role}; it may not revoke one with the role {strength}",
            )
        if id != by.token_id and not _within(token.projects, by.token_projects):
            raise Refusal.of(
                "AUTH_INSUFFICIENT_PERMISSIONS",
                "This token is limited to projects; it may not revoke one that is not limited to these",
            )
        store.revoke(tx.conn, id, tx.now)
        body = {"id": id, "name": token.name, "user": token.username}
        self._trail.record(tx, by, "token.revoked", f"token/{id}", body, scope=f"user/{token.user_id}")
        tx.after_commit(lambda: self._grants.end_token(id))


def _within(projects: frozenset[str] | None, limit: frozenset[str] | None) -> bool:
    return limit is None or (projects is not None and projects <= limit)
