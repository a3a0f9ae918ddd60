"""Identity: login and logout, authentication, and the rights of open streams.

The use cases on users, projects, API tokens, logins and the audit trail are in separate files and available as
``users``, ``projects``, ``tokens``, ``logins`` and ``trail``.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog
from argon2 import PasswordHasher
from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import AuthError, require, token_expired, token_invalid, token_missing
from pilothouse.access.model import SYSTEM, Principal, Role, narrower
from pilothouse.access.quotas import Quotas
from pilothouse.edge.network import rate_key
from pilothouse.identity import address_store, store, tokens
from pilothouse.identity.api_tokens import ApiTokens
from pilothouse.identity.audit import Trail
from pilothouse.identity.authorization import Grant, TokenAuthorization
from pilothouse.identity.grants import Grants, expired
from pilothouse.identity.logins import Logins, Uses
from pilothouse.identity.model import NOWHERE, LoginOrigin, LoginResult, User
from pilothouse.identity.passwords import Passwords, check
from pilothouse.identity.projects import DEFAULT_NAME, Projects
from pilothouse.identity.renewal import Renewal
from pilothouse.identity.tenants import Tenants
from pilothouse.identity.users import Users
from pilothouse.journal import Journal
from pilothouse.storage import Storage, StorageError, Tx, now_ms
from pilothouse.storage.keyring import Keyring

T = TypeVar("T")
log = structlog.get_logger("identity")

Authenticator = Callable[[Connection, str], Principal | None]
"""Recognizes a bearer token of another kind (of an agent, of an OpenID provider); runs in a thread.

The ``token_id`` of its principals must be unique; principals with an empty one are not cached.
"""

ADMIN = "admin"
LOCAL_NAME = "local"
MAX_USER_AGENT = 200
_KEEP_SESSIONS_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """``keyring``: what logins are signed with; ``token_ttl``: seconds that a login is valid."""

    keyring: Keyring
    token_ttl: int = 86_400
    quotas: Quotas = field(default_factory=Quotas)


class Identity:
    """Authentication and users. One per server; lives on the event loop, with database work in threads."""

    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        settings: IdentitySettings,
        clock: Callable[[], int] = now_ms,
        hasher: PasswordHasher | None = None,
    ) -> None:
        self._storage = storage
        self.token_ttl = settings.token_ttl
        self._clock = clock
        self._session_tokens = tokens.SessionTokens(settings.keyring)
        self._authenticators: list[Authenticator] = []
        self._grants = Grants(clock)
        self._uses = Uses()
        self._renewal = Renewal(self._grants, self._ask_about, clock)
        self.passwords = Passwords(hasher)
        self.trail = Trail(journal)
        self.users = Users(self.trail, self._grants)
        self.tenants = Tenants(self.trail, settings.quotas)
        self.projects = Projects(self.trail, self._grants, self.tenants, settings.quotas)
        self.tokens = ApiTokens(self.trail, self._grants, self.projects, settings.quotas)
        self.logins = Logins(self.trail, self._grants)

    async def bootstrap(self, admin_password: str | None) -> str | None:
        """First start: create project ``default`` and user ``admin``; returns the password if it was
        generated."""

        def anybody(conn: Connection) -> bool:
            return bool(store.list_users(conn, None, None, 0, 1)[1])

        if await self._storage.read(anybody):
            return None
        password = admin_password or secrets.token_urlsafe(15)
        password_hash = await self.passwords.hash(password, checked=False)

        def begin(tx: Tx) -> bool:
            if anybody(tx.conn):  # another server that started at the same time was first
                return False
            self.projects.create(tx, SYSTEM, name=DEFAULT_NAME, is_default=True)
            self.users.create(tx, SYSTEM, username=ADMIN, password_hash=password_hash, role=Role.ADMIN)
            return True

        return password if await self._storage.write(begin) and not admin_password else None

    # -- login and logout -------------------------------------------------------------------------------

    async def knows(self, username: str, address: str) -> bool:
        """Whether this user has logged in from this address in the last 90 days."""
        key, now = rate_key(address), self._clock()
        return await self._storage.read(lambda conn: address_store.knows(conn, username, key, now))

    async def login(self, username: str, password: str, origin: LoginOrigin = NOWHERE) -> LoginResult:
        """Log in. Raises ``AUTH_INVALID_CREDENTIALS``, in the same time whether or not the user exists."""
        found = await self._storage.read(lambda conn: store.find_login(conn, username))
        user, stored = found if found is not None and found[0].active else (None, None)
        good = await self.passwords.verify(stored, password, known=origin.known)
        by = replace(SYSTEM, address=origin.address, request_id=origin.request_id)
        if user is None or stored is None or not good:
            # An unknown name is not recorded, since users sometimes type their password there.
            target = f"user/{found[0].id}" if found is not None else "user/unknown"
            await self._storage.write(lambda tx: self.audit(tx, by, "auth.login_failed", target))
            raise AuthError("AUTH_INVALID_CREDENTIALS", "Invalid username or password")
        renewed = (
            await self.passwords.hash(password, checked=False) if self.passwords.outdated(stored) else stored
        )
        by = replace(by, kind="user", id=user.id, name=user.username, role=user.role)
        return await self._storage.write(
            lambda tx: self._open_session(tx, by, stored, renewed, origin.user_agent)
        )

    def _open_session(self, tx: Tx, by: Principal, stored: str, renewed: str, user_agent: str) -> LoginResult:
        found = store.find_login(tx.conn, by.name)
        if found is None or not found[0].active or found[1] != stored:
            # Deactivated, or the password was changed, during the verification.
            raise AuthError("AUTH_INVALID_CREDENTIALS", "Invalid username or password")
        id = str(uuid7())
        expires_at = (tx.now // 1000 + self.token_ttl) * 1000
        store.insert_credential(
            tx.conn,
            id=id,
            kind=store.SESSION,
            user_id=by.id,
            name="login",
            role=None,
            digest=None,
            created_at=tx.now,
            expires_at=expires_at,
            address=by.address,
            user_agent=_printable(user_agent),
        )
        by = replace(by, token_id=id)
        store.update_user(tx.conn, by.id, last_login=tx.now, password_hash=renewed)
        if by.address:
            address_store.remember(tx.conn, by.id, rate_key(by.address), tx.now)
        store.purge_sessions(tx.conn, tx.now - _KEEP_SESSIONS_MS)
        self.audit(tx, by, "auth.logged_in", f"user/{by.id}")
        user = replace(found[0], last_login=tx.now)
        return LoginResult(self._session_tokens.issue(id, by.id, expires_at), user, expires_at)

    def log_out(self, tx: Tx, by: Principal) -> None:
        """Revoke the caller's token of any kind; its streams end."""
        require(by, "profile.read")
        store.revoke(tx.conn, by.token_id, tx.now)
        self.audit(tx, by, "auth.logged_out", f"user/{by.id}")
        tx.after_commit(lambda: self._grants.end_token(by.token_id))

    async def logout(self, principal: Principal) -> None:
        """:meth:`log_out` in a transaction of its own."""
        await self._storage.write(lambda tx: self.log_out(tx, principal))

    async def create_user(
        self, by: Principal, *, username: str, password: str, email: str = "", role: Role = Role.USER
    ) -> User:
        """Hash the password, then call :meth:`Users.create`."""
        password_hash = await self.passwords.hash(password)
        return await self._storage.write(
            lambda tx: self.users.create(
                tx, by, username=username, password_hash=password_hash, email=email, role=role
            )
        )

    async def exchange_password(self, by: Principal, current: str, new: str) -> str:
        """The hash of the caller's new password, to be set with :meth:`Users.set_password`.

        Raises ``AUTH_INVALID_CREDENTIALS`` if ``current`` is wrong.
        """
        require(by, "login.own")
        check(new)
        found = await self._storage.read(lambda conn: store.find_login(conn, by.name))
        if not await self.passwords.verify(found[1] if found is not None else None, current, known=True):
            raise AuthError("AUTH_INVALID_CREDENTIALS", "The current password is wrong")
        return await self.passwords.hash(new)

    async def issue_local_token(self, username: str = ADMIN) -> str:
        """Create an API token named ``local`` for the command line on this machine; the previous one is
        revoked."""

        def issue(tx: Tx) -> str:
            user = self.users.get(tx.conn, username)
            former = store.revoke_of_user(tx.conn, user.id, tx.now, kind=store.API, name=LOCAL_NAME)
            for id in former:
                self.audit(tx, SYSTEM, "token.revoked", f"token/{id}", {"name": LOCAL_NAME})
            tx.after_commit(lambda: self._grants.end_tokens(former))
            return self.tokens.issue(tx, SYSTEM, user, name=LOCAL_NAME, role=None, expires_at=None)[1]

        return await self._storage.write(issue)

    # -- authentication ---------------------------------------------------------------------------------

    def add_authenticator(self, recognize: Authenticator) -> None:
        """Use ``recognize`` for bearer tokens that are neither sessions nor API tokens."""
        self._authenticators.append(recognize)

    async def authenticate(self, token: str, address: str = "", request_id: str = "") -> Principal:
        """The principal of this token. Raises ``AUTH_TOKEN_MISSING``, ``_INVALID`` or ``_EXPIRED``."""
        if not token:
            raise token_missing()
        if len(token) > tokens.MAX_LENGTH:
            raise token_invalid()
        digest = tokens.token_digest(token)
        grant = self._grants.look_up(digest) or await self._verify(token, digest)
        if expired(grant.principal, self._clock()):
            raise token_expired()
        if grant.stored and self._uses.due(grant.principal.token_id, self._clock()):
            self._note_use(grant.principal.token_id, address)
        return replace(grant.principal, address=address, request_id=request_id)

    def current(self, conn: Connection, principal: Principal, now: int) -> Principal:
        """The principal with the rights that the user and token have in this transaction.

        Principals without a stored token are returned as they are. Raises ``AUTH_TOKEN_INVALID`` or
        ``AUTH_TOKEN_EXPIRED``.
        """
        if not principal.credential:
            return principal
        found = self._grant(store.find_credential(conn, id=principal.token_id), now).principal
        return replace(found, address=principal.address, request_id=principal.request_id)

    def _note_use(self, token_id: str, address: str) -> None:
        # Nobody waits for it, and nothing is lost if it fails.
        with contextlib.suppress(StorageError):
            noted = self._storage.submit(lambda tx: store.note_use(tx.conn, token_id, tx.now, address))
            noted.add_done_callback(lambda done: done.cancelled() or done.exception())

    def now(self) -> int:
        """The time by this server's clock, in ms."""
        return self._clock()

    def authorize(self, principal: Principal) -> TokenAuthorization:
        """A live view of the principal's rights while a stream is open; close it with the stream."""
        self._renewal.arm()
        return self._grants.authorize(principal)

    def forget(self, token_id: str) -> None:
        """Remove a revoked token of an authenticator from the cache; call this after the commit."""
        self._grants.end_token(token_id)

    async def _verify(self, token: str, digest: str) -> Grant:
        while True:
            generation = self._grants.generation
            grant = await self._storage.read(lambda conn: self._ask(conn, token, digest))
            if generation == self._grants.generation:
                break
            # Something was revoked or changed during the query; its answer may be outdated.
        return self._grants.remember(digest, grant) if grant.principal.token_id else grant

    def _ask(self, conn: Connection, token: str, digest: str) -> Grant:
        now = self._clock()
        if tokens.is_ours(token):
            id = self._session_tokens.verify(token, now)
            return self._grant(store.find_credential(conn, id=id), now)
        if token.startswith(tokens.API_PREFIX):
            credential = store.find_credential(conn, digest=digest)
            if credential is not None:
                return self._grant(credential, now)
        for recognize in self._authenticators:
            principal = recognize(conn, token)
            if principal is not None:
                return Grant(principal, None, False, now)
        raise token_invalid()

    async def _ask_about(self, ids: list[str]) -> dict[str, Grant]:
        def look_up(conn: Connection) -> dict[str, Grant]:
            now, known = self._clock(), {}
            for id in ids:
                credential = store.find_credential(conn, id=id)
                if credential is not None and credential.active and not credential.revoked:
                    known[id] = self._grant(credential, 0, checked_at=now)
            return known

        return await self._storage.read(look_up)

    def _grant(self, known: store.Credential | None, now: int, checked_at: int | None = None) -> Grant:
        if known is None or known.revoked or not known.active:
            raise token_invalid()
        if known.expires_at is not None and known.expires_at <= now:
            raise token_expired()
        role = narrower(known.user_role, known.token_role)
        principal = Principal(
            "user",
            known.user_id,
            known.username,
            role,
            known.projects,
            known.id,
            known.expires_at,
            token_role=known.token_role,
            credential="session" if known.kind == store.SESSION else "api",
            token_projects=known.token_projects,
        )
        return Grant(principal, known.token_role, True, now if checked_at is None else checked_at)

    # -- for other packages -----------------------------------------------------------------------------

    def audit(
        self, tx: Tx, by: Principal, action: str, target: str, detail: dict[str, Any] | None = None
    ) -> None:
        """See :meth:`Trail.audit`; services call this for every mutation.

        ``detail`` must not contain secrets.
        """
        self.trail.audit(tx, by, action, target, detail)

    def principal_of(self, conn: Connection, user_id: str) -> Principal | None:
        """A user with the rights that they have now, without a token; ``None`` if there is no such active user."""
        if user_id == SYSTEM.id:
            return SYSTEM
        user = store.find_user(conn, user_id)
        if user is None or user.id != user_id or not user.active:
            return None
        return Principal(
            "user", user.id, user.username, user.role, store.projects_of(conn, user.id), "", None
        )

    async def project_id(self, by: Principal, named: str) -> str:
        """The id of the project with this id or name; of the default project if ``named`` is empty.

        Raises ``PROJECT_NOT_FOUND``, also for a project that ``by`` may not see.
        """
        return (await self._storage.read(lambda conn: self.projects.resolve(conn, by, named or None))).id

    def close(self) -> None:
        """Stop the renewal and the hashing threads."""
        self._renewal.close()
        self.passwords.close()


def _printable(user_agent: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in user_agent[:MAX_USER_AGENT])
