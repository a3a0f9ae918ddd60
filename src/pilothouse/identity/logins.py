"""Use cases on logins: list and end them, and record when tokens are used."""

from __future__ import annotations

from collections import OrderedDict

from sqlalchemy import Connection

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.identity import store
from pilothouse.identity.audit import Trail
from pilothouse.identity.grants import Grants
from pilothouse.identity.model import LoginInfo, User
from pilothouse.storage import Tx

EVERYBODY = "*"
NOTE_EVERY_MS = 5 * 60 * 1000
MAX_NOTED = 10_000


class Logins:
    """The logins (sessions) of users. They are ended by their user, or an admin; never with a limited token."""

    def __init__(self, trail: Trail, grants: Grants) -> None:
        self._trail = trail
        self._grants = grants

    def list(
        self, conn: Connection, by: Principal, now: int, *, user: str = "", page: int = 1, limit: int = 20
    ) -> tuple[list[LoginInfo], int]:
        """A page, newest first, and the total. ``user``: a name or id, or ``*`` for all; default: the caller."""
        require(by, "login.own")
        if user == EVERYBODY:
            require(by, "token.admin")
            return store.list_logins(conn, None, now, (page - 1) * limit, limit)
        return store.list_logins(conn, self._owner(conn, by, user).id, now, (page - 1) * limit, limit)

    def end(self, tx: Tx, by: Principal, id: str) -> None:
        """End a login and all its streams. Raises ``TOKEN_NOT_FOUND``."""
        require(by, "login.own")
        login = store.find_login_by_id(tx.conn, id, tx.now)
        if login is None or (login.user_id != by.id and not by.may("token.admin")):
            raise Refusal.of("TOKEN_NOT_FOUND", f"No login with id '{id}' exists")
        store.revoke(tx.conn, id, tx.now)
        self._record(tx, by, login.user_id, login.username, 1)
        tx.after_commit(lambda: self._grants.end_token(id))

    def end_others(self, tx: Tx, by: Principal, *, user: str = "") -> int:
        """End all logins of a user (default: the caller) but the one of this request; gives their number."""
        require(by, "login.own")
        owner = self._owner(tx.conn, by, user)
        ended = store.revoke_of_user(tx.conn, owner.id, tx.now, kind=store.SESSION, but=by.token_id)
        self._record(tx, by, owner.id, owner.username, len(ended))
        tx.after_commit(lambda: self._grants.end_tokens(ended))
        return len(ended)

    def _record(self, tx: Tx, by: Principal, user_id: str, username: str, count: int) -> None:
        body = {"id": user_id, "username": username, "count": count}
        self._trail.record(tx, by, "user.logins_ended", f"user/{user_id}", body)

    def _owner(self, conn: Connection, by: Principal, user: str) -> User:
        if user not in ("", by.id, by.name):
            require(by, "token.admin")
        found = store.find_user(conn, user or by.id)
        if found is None:
            raise Refusal.of("USER_NOT_FOUND", f"No user '{user}' exists")
        return found


class Uses:
    """When this server has recorded the last use of each token: at most once in :data:`NOTE_EVERY_MS`."""

    def __init__(self) -> None:
        self._noted: OrderedDict[str, int] = OrderedDict()

    def due(self, token_id: str, now: int) -> bool:
        """Whether a use at ``now`` is to be recorded; then it counts as recorded."""
        if now - self._noted.get(token_id, -NOTE_EVERY_MS) < NOTE_EVERY_MS:
            return False
        self._noted[token_id] = now
        self._noted.move_to_end(token_id)
        if len(self._noted) > MAX_NOTED:
            self._noted.popitem(last=False)
        return True
