"""Registration of agents, and their credentials."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM, Principal
from pilothouse.access.quotas import DEFAULTS, check_quota
from pilothouse.fleet import connection_store, earlier_store, store, token_store
from pilothouse.fleet.bindings import Binding, names_agent, problem
from pilothouse.fleet.errors import AgentExists, AgentNotFound, BadCredential, BadProfile
from pilothouse.fleet.model import Agent, AgentProfile, RegistrationToken
from pilothouse.identity.service import Identity
from pilothouse.identity.tokens import token_digest
from pilothouse.journal import Journal
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.bounds import MAX_ENTRIES

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
MAX_LABELS = 64
MAX_AGENTS = 10_000
MAX_SLOTS = 10_000
MAX_WORD = 256
MIN_KEY = 32
KEPT_BATCHES = 20_000
"""Batches of an RPC, pushed before a registration, that are known when they come again."""
MAX_METADATA = 16 << 10
AGENT_PREFIX = "pilotagent_"
REGISTRATION_PREFIX = "pilotreg_"
_LOCAL = "agent of pilot up"


@dataclass(frozen=True, slots=True)
class Registration:
    """``token`` is the agent's own credential; ``None`` when it has one already.

    ``repeated``: the same registration was accepted before and its answer lost; nothing has changed.
    """

    agent: Agent
    token: str | None
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a new registration token allows besides new names (decisions.md; :mod:`pilothouse.fleet.bindings`).

    ``agents``: names or globs of existing agents; ``projects``: names or ids; ``labels``: ``KEY`` or ``KEY=VALUE``;
    ``None``: any. ``once``: the token ends with the first registration, whatever name that is of.
    """

    agents: Sequence[str] = ()
    projects: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    once: bool = False


class Registry:
    """The use cases around an agent's identity.

    ``bound`` is called when an agent has registered anew, with what it is then; ``changed`` after every change.
    """

    def __init__(
        self,
        journal: Journal,
        identity: Identity,
        changed: Callable[[Tx], None],
        bound: Callable[[Tx, Agent], None],
    ) -> None:
        self._journal = journal
        self._changed = changed
        self._bound = bound
        self._identity = identity
        self._once: set[str] = set()
        #: How many registration tokens that are not revoked there may be.
        self.quotas = DEFAULTS
        identity.add_authenticator(authenticate_agent)

    def create_registration_token(
        self,
        tx: Tx,
        by: Principal,
        *,
        description: str,
        max_uses: int | None,
        expires_in: int | None,
        allows: Allowance | None = None,
    ) -> dict[str, str | int | None]:
        """A token with which agents may register; ``expires_in`` in seconds. The secret is only returned here.

        It expires no later than the caller's API token. Raises Refusal ``VALIDATION_FAILED`` for what a token cannot
        allow; QuotaExceeded.
        """
        allows = allows or Allowance()
        if by is not SYSTEM:
            most = self.quotas.registration_tokens
            kept = token_store.count_unrevoked(tx.conn, most)
            check_quota("registration tokens", kept, most, "registration_tokens")
        secret = REGISTRATION_PREFIX + secrets.token_urlsafe(32)
        ends = (tx.now + expires_in * 1000 if expires_in else None, by.granted_until)
        token = RegistrationToken(
            id=str(uuid7()),
            description=description,
            max_uses=max_uses,
            uses=0,
            expires_at=min((end for end in ends if end is not None), default=None),
            revoked=False,
            created_by=by.name,
            created_at=tx.now,
            agents=tuple(allows.agents),
            binding=self._binding(tx.conn, by, allows),
        )
        token_store.add_registration_token(tx.conn, token_digest(secret), token)
        if allows.once:
            self._once.add(token.id)
        detail: dict[str, Any] = {"description": description, "agents": token.agents}
        detail |= {"projects": token.binding.projects, "labels": token.binding.labels}
        given = {name: value for name, value in detail.items() if value not in (None, ())}
        self._identity.audit(tx, by, "registration_token.create", token.id, given)
        return {"id": token.id, "token": secret, "expires_at": token.expires_at}

    def _binding(self, conn: Connection, by: Principal, allows: Allowance) -> Binding:
        for kind, entries_ in (("agents", allows.agents), ("labels", allows.labels or ())):
            if wrong := problem(kind, entries_):
                raise Refusal.of("VALIDATION_FAILED", wrong, field=kind)
        labels = None if allows.labels is None else tuple(allows.labels)
        if allows.projects is None:
            return Binding(None, labels)
        if not 0 < len(allows.projects) <= MAX_ENTRIES:
            wrong = f"projects: 1 to {MAX_ENTRIES} names or ids; leave it out for agents that are not bound"
            raise Refusal.of("VALIDATION_FAILED", wrong, field="projects")
        found: dict[str, None] = {}
        for name in allows.projects:
            try:
                found[self._identity.projects.resolve(conn, by, name).id] = None
            except Refusal:
                raise Refusal.of(
                    "VALIDATION_FAILED", f"projects: there is no project {name!r}", field="projects"
                ) from None
        return Binding(tuple(found), labels)

    def local_token(self, tx: Tx, agent_id: str) -> str:
        """A token for the agent of ``pilot up``: for one registration within ten minutes.

        Tokens made for it before, also by earlier processes, are revoked.
        """
        for token_id in token_store.unrevoked(tx.conn, SYSTEM.name, _LOCAL):
            self.revoke_registration_token(tx, SYSTEM, token_id)
        allows = Allowance(agents=(agent_id,), once=True)
        made = self.create_registration_token(
            tx, SYSTEM, description=_LOCAL, max_uses=1, expires_in=600, allows=allows
        )
        return str(made["token"])

    def revoke_registration_token(self, tx: Tx, by: Principal, token_id: str) -> bool:
        """No further agent may register with it; agents that have done so keep their own tokens."""
        revoked = token_store.revoke_registration_token(tx.conn, token_id)
        if revoked:
            self._identity.audit(tx, by, "registration_token.revoke", token_id)
        return revoked

    def register(
        self,
        tx: Tx,
        profile: AgentProfile,
        *,
        registration_token: str,
        own_token: str,
        key: str = "",
        address: str = "",
    ) -> Registration:
        """Register an agent: the first time with a registration token, later with its own.

        Raises :class:`BadCredential`; :class:`AgentExists` for a name that the registration token may not
        register anew; :class:`BadProfile` for an impossible profile, or labels that the token does not allow.
        Registering an existing name with a registration token gives it a new credential (the old one ends), new
        sequence numbers, and what that token allows; with its own token it keeps what it was allowed.
        ``key``: a secret that the agent has made for this registration; a call that is repeated with it gets the
        same answer. ``address``: where the call comes from, for the audit trail.
        """
        check_profile(profile)
        if registration_token:
            return self._enrol(tx, profile, registration_token, key, address)
        known = _by_own_token(tx.conn, profile, own_token)
        store.put_agent(tx.conn, known.id, profile, None, tx.now)
        agent = require_agent(tx.conn, profile.agent_id)
        self._record(tx, agent, entries.AGENT_UPDATED)
        return Registration(agent, None)

    def check(
        self,
        conn: Connection,
        now: int,
        profile: AgentProfile,
        *,
        registration_token: str,
        own_token: str,
        key: str = "",
    ) -> None:
        """Raise what :meth:`register` would raise; only reads, so that a refused call costs no transaction."""
        if not registration_token:
            _by_own_token(conn, profile, own_token)
            return
        credential = _credential(registration_token, profile.agent_id, key)
        if key and store.agent_by_token(conn, token_digest(credential)) is not None:
            return
        token, _ = _admitted(conn, now, profile.agent_id, registration_token)
        check_allowed(token.binding, profile.labels)

    def _enrol(self, tx: Tx, profile: AgentProfile, secret: str, key: str, address: str) -> Registration:
        credential = _credential(secret, profile.agent_id, key)
        known = store.agent_by_token(tx.conn, token_digest(credential)) if key else None
        if known is not None:
            return Registration(known, credential, repeated=True)
        token, new = _admitted(tx.conn, tx.now, profile.agent_id, secret)
        check_allowed(token.binding, profile.labels)
        if new:
            token_store.use_registration_token(tx.conn, token.id)
        if token.id in self._once:
            token_store.revoke_registration_token(tx.conn, token.id)
        earlier_store.keep_seen(tx.conn, profile.agent_id, tx.now, KEPT_BATCHES)
        connection_store.recount_connections(tx.conn, profile.agent_id)
        store.put_agent(tx.conn, str(uuid7()), profile, token_digest(credential), tx.now)
        store.bind_agent(tx.conn, profile.agent_id, token.id, token.binding)
        agent = require_agent(tx.conn, profile.agent_id)
        self._record(tx, agent, entries.AGENT_REGISTERED)
        detail = {"registration_token": token.id}
        by = replace(agent_principal(agent), address=address)
        self._identity.audit(tx, by, "agent.register", profile.agent_id, detail)
        self._bound(tx, agent)
        tx.after_commit(lambda: self._identity.forget(agent.id))
        return Registration(agent, credential)

    def update_labels(
        self, tx: Tx, by: Principal, agent_id: str, labels: dict[str, str], merge: bool
    ) -> dict[str, str]:
        """Replace or merge an agent's labels; gives those now in force.

        Raises :class:`BadProfile` for impossible labels and those that its registration does not allow.
        """
        merged, changed = changed_labels(tx.conn, agent_id, labels, merge)
        if not changed:
            return merged
        store.set_labels(tx.conn, agent_id, merged, tx.now)
        self._record(tx, require_agent(tx.conn, agent_id), entries.AGENT_UPDATED)
        self._identity.audit(tx, by, "agent.update_labels", agent_id, {"labels": merged})
        return merged

    def _record(self, tx: Tx, agent: Agent, type: str) -> None:
        body = agent_keys(agent, store.held_by(tx.conn, agent.agent_id))
        self._journal.append(tx, entries.agent_stream(agent.agent_id), type, entries.FLEET_SCOPE, body)
        self._changed(tx)


def changed_labels(
    conn: Connection, agent_id: str, labels: dict[str, str], merge: bool
) -> tuple[dict[str, str], bool]:
    """An agent's labels after a change, and whether they differ from those before. Raises :class:`BadProfile`."""
    agent = require_agent(conn, agent_id)
    merged = {**agent.profile.labels, **labels} if merge else labels
    check_labels(merged)
    check_allowed(agent.binding, merged)
    return merged, merged != dict(agent.profile.labels)


def _by_own_token(conn: Connection, profile: AgentProfile, own_token: str) -> Agent:
    """The agent that registers with its own token."""
    known = store.agent_by_token(conn, token_digest(own_token)) if own_token else None
    if known is None or known.agent_id != profile.agent_id:
        raise BadCredential("registering needs a registration token, or this agent's own token")
    check_allowed(known.binding, profile.labels)
    return known


def _admitted(conn: Connection, now: int, agent_id: str, secret: str) -> tuple[RegistrationToken, bool]:
    """The token, if it may register this name now, and whether the name is new, which counts as a use."""
    token = token_store.registration_token(conn, token_digest(secret))
    if token is None or token.revoked:
        raise BadCredential("this registration token is unknown or revoked")
    existing = store.agent(conn, agent_id)
    if existing is None or existing.registered_by != token.id:
        if token.expires_at is not None and token.expires_at <= now:
            raise BadCredential("this registration token has expired")
        if existing is not None and not names_agent(token.agents, agent_id):
            raise AgentExists(agent_id)
        if existing is None and token.max_uses is not None and token.uses >= token.max_uses:
            raise BadCredential("this registration token is used up")
        if existing is None and store.count_agents(conn) >= MAX_AGENTS:
            raise BadProfile(f"this server has {MAX_AGENTS} agents, and no more: remove some first")
    return token, existing is None


def _credential(registration_token: str, agent_id: str, key: str) -> str:
    """A new credential. With a key it is derived from the request, so that a repeated call gets the same.

    Raises :class:`BadProfile` for a key that is too short or too long.
    """
    if not key:
        return AGENT_PREFIX + secrets.token_urlsafe(32)
    if not MIN_KEY <= len(key) <= MAX_WORD:
        raise BadProfile(f"a registration key has {MIN_KEY} to {MAX_WORD} characters")
    digest = hmac.digest(registration_token.encode(), f"{agent_id}\n{key}".encode(), "sha256")
    return AGENT_PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def require_agent(conn: Connection, agent_id: str) -> Agent:
    """The agent, or :class:`AgentNotFound`."""
    agent = store.agent(conn, agent_id)
    if agent is None:
        raise AgentNotFound(agent_id)
    return agent


def agent_keys(agent: Agent, busy: int) -> dict[str, Any]:
    """The keys of every entry about an agent's presence; ``busy``: how many slots are occupied."""
    profile = agent.profile
    return {
        "v": entries.VERSION,
        "agent_id": agent.agent_id,
        "status": agent.status.value,
        "name": profile.name,
        "hostname": str(profile.metadata.get("hostname", "")),
        "ip": profile.ip,
        "platform": profile.platform,
        "labels": dict(profile.labels),
        "slots": profile.slots,
        "busy": busy,
        "last_heartbeat": agent.last_heartbeat,
        "blocked": agent.blocked,
        "degraded": list(agent.problems),
    }


def agent_principal(agent: Agent) -> Principal:
    """An agent as a caller: it may act as an agent, and only under its own id."""
    return Principal(
        kind="agent",
        id=agent.agent_id,
        name=agent.agent_id,
        role=None,
        projects=frozenset(),
        token_id=agent.id,
        expires_at=None,
    )


def authenticate_agent(conn: Connection, token: str) -> Principal | None:
    """The principal of an agent's bearer token; ``None`` for other tokens."""
    if not token.startswith(AGENT_PREFIX):
        return None
    agent = store.agent_by_token(conn, token_digest(token))
    return agent_principal(agent) if agent else None


def check_profile(profile: AgentProfile) -> None:
    """Raises :class:`BadProfile` with what is wrong."""
    if not _AGENT_ID.fullmatch(profile.agent_id):
        raise BadProfile("agent_id must be 1 to 128 letters, digits, dots, underscores or hyphens")
    if not 0 < profile.slots <= MAX_SLOTS:
        raise BadProfile(f"an agent runs 1 to {MAX_SLOTS} tasks at once, not {profile.slots}")
    if not 0 <= profile.max_sessions <= MAX_SLOTS:
        raise BadProfile(f"an agent has 0 to {MAX_SLOTS} sessions at once, not {profile.max_sessions}")
    words = (
        profile.name,
        profile.platform,
        profile.region,
        profile.os,
        profile.arch,
        profile.version,
        profile.ip,
    )
    if any(len(word) > MAX_WORD or "\x00" in word for word in words):
        raise BadProfile(
            f"name, platform, region, os, arch, version and ip have at most {MAX_WORD} characters, none of them NUL"
        )
    if len(orjson.dumps(dict(profile.metadata))) > MAX_METADATA:
        raise BadProfile(f"an agent's metadata have at most {MAX_METADATA} bytes")
    check_labels(profile.labels)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises :class:`BadProfile` for too many labels, bad keys or long values."""
    if len(labels) > MAX_LABELS:
        raise BadProfile(f"an agent has at most {MAX_LABELS} labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or len(value) > MAX_WORD:
            raise BadProfile(f"label {key[:MAX_WORD]!r} has a bad key or a value of over 256 characters")


def check_allowed(binding: Binding, labels: Mapping[str, str]) -> None:
    """Raises :class:`BadProfile` for labels that the agent's registration does not allow."""
    refused = binding.refused(labels)
    if not refused:
        return
    some = ", ".join(refused[:5]) + (", …" if len(refused) > 5 else "")
    allowed = ", ".join((binding.labels or ())[:20]) or "none besides os and arch"
    raise BadProfile(f"labels that this agent's registration does not allow: {some} (allowed: {allowed})")
