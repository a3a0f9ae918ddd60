"""Registration: how a worker becomes an agent, and how it proves later that it is the same one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.fleet import store
from pilothouse.fleet.errors import AgentNotFound, BadCredential, BadProfile
from pilothouse.fleet.model import Agent, AgentProfile
from pilothouse.identity.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.journal import Journal
from pilothouse.storage import Tx
from pilothouse.wire import entries

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
MAX_LABELS = 64
MAX_SLOTS = 10_000
MAX_WORD = 256
MIN_KEY = 32
MAX_METADATA = 16 << 10
AGENT_PREFIX = "pilotagent_"
REGISTRATION_PREFIX = "pilotreg_"


@dataclass(frozen=True, slots=True)
class Registration:
    """``token`` is the agent's own credential; ``None`` when it has one already.

    ``repeated``: this registration was taken in before, and its answer had got lost; nothing has changed.
    """

    agent: Agent
    token: str | None
    repeated: bool = False


def token_hash(token: str) -> str:
    """What is stored of a credential."""
    return hashlib.sha256(token.encode()).hexdigest()


class Registry:
    """The use cases around an agent's identity."""

    def __init__(self, journal: Journal, identity: Identity, changed: Callable[[Tx], None]) -> None:
        self._journal = journal
        self._changed = changed
        self._identity = identity
        identity.add_authenticator(authenticate_agent)

    def create_registration_token(
        self, tx: Tx, by: Principal, *, description: str, max_uses: int | None, expires_in: int | None
    ) -> dict[str, str | int | None]:
        """A token with which agents may register; ``expires_in`` in seconds. The secret is shown this once."""
        token_id, token = str(uuid7()), REGISTRATION_PREFIX + secrets.token_urlsafe(32)
        expires_at = tx.now + expires_in * 1000 if expires_in else None
        store.add_registration_token(
            tx.conn,
            id=token_id,
            token_hash=token_hash(token),
            description=description,
            max_uses=max_uses,
            expires_at=expires_at,
            created_by=by.name,
            created_at=tx.now,
        )
        self._identity.audit(tx, by, "registration_token.create", token_id, {"description": description})
        return {"id": token_id, "token": token, "expires_at": expires_at}

    def revoke_registration_token(self, tx: Tx, by: Principal, token_id: str) -> bool:
        """No further agent may register with it; agents that have done so keep their own tokens."""
        revoked = store.revoke_registration_token(tx.conn, token_id)
        if revoked:
            self._identity.audit(tx, by, "registration_token.revoke", token_id)
        return revoked

    def register(
        self, tx: Tx, profile: AgentProfile, *, registration_token: str, own_token: str, key: str = ""
    ) -> Registration:
        """Let a worker in: the first time with a registration token, later with its own.

        Raises :class:`BadCredential`, or :class:`BadProfile` for an impossible profile. Registering an existing
        name with a registration token gives it a new credential (the old one ends) and new sequence numbers.
        ``key``: a secret of the worker's for this one registration; with it, it may ask again until it has the
        answer, and gets the same.
        """
        check_profile(profile)
        token: str | None = None
        if registration_token:
            token = _credential(registration_token, profile.agent_id, key)
            known = store.agent_by_token(tx.conn, token_hash(token)) if key else None
            if known is not None:
                return Registration(known, token, repeated=True)
            used = store.use_registration_token(tx.conn, token_hash(registration_token), tx.now)
            if used is None:
                raise BadCredential("this registration token is unknown, used up, expired or revoked")
            store.forget_seen(tx.conn, profile.agent_id)
        else:
            known = store.agent_by_token(tx.conn, token_hash(own_token))
            if known is None or known.agent_id != profile.agent_id:
                raise BadCredential("registering needs a registration token, or this agent's own token")
        store.put_agent(tx.conn, str(uuid7()), profile, token_hash(token) if token else None, tx.now)
        agent = require_agent(tx.conn, profile.agent_id)
        self._tell(tx, agent, entries.AGENT_REGISTERED if token else entries.AGENT_UPDATED)
        if token:
            self._identity.audit(tx, agent_principal(agent), "agent.register", profile.agent_id)
            tx.after_commit(lambda: self._identity.forget(agent.id))
        return Registration(agent, token)

    def update_labels(
        self, tx: Tx, by: Principal, agent_id: str, labels: dict[str, str], merge: bool
    ) -> dict[str, str]:
        """Replace or merge an agent's labels; gives those now in force."""
        agent = require_agent(tx.conn, agent_id)
        merged = {**agent.profile.labels, **labels} if merge else labels
        check_labels(merged)
        store.set_labels(tx.conn, agent_id, merged, tx.now)
        self._tell(tx, require_agent(tx.conn, agent_id), entries.AGENT_UPDATED)
        self._identity.audit(tx, by, "agent.update_labels", agent_id, {"labels": merged})
        return merged

    def _tell(self, tx: Tx, agent: Agent, type: str) -> None:
        body = agent_keys(agent, store.held_by(tx.conn, agent.agent_id))
        self._journal.append(tx, entries.agent_stream(agent.agent_id), type, entries.FLEET_SCOPE, body)
        self._changed(tx)


def _credential(registration_token: str, agent_id: str, key: str) -> str:
    """A new credential. With a key it follows from what is asked, so that asking again gives the same.

    Raises :class:`BadProfile` for a key that somebody might guess.
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
    """The keys that every entry of an agent's comings and goings carries; ``busy``: how many tasks it holds."""
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
    """An agent as a caller: it may do an agent's things, and only under its own id."""
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
    """Identity asks this for bearer tokens that are not a user's."""
    if not token.startswith(AGENT_PREFIX):
        return None
    agent = store.agent_by_token(conn, token_hash(token))
    return agent_principal(agent) if agent else None


def check_profile(profile: AgentProfile) -> None:
    """Raises :class:`BadProfile` with what is wrong."""
    if not _AGENT_ID.fullmatch(profile.agent_id):
        raise BadProfile("agent_id must be 1 to 128 letters, digits, dots, underscores or hyphens")
    if not 0 < profile.slots <= MAX_SLOTS:
        raise BadProfile(f"an agent runs 1 to {MAX_SLOTS} tasks at once, not {profile.slots}")
    words = (
        profile.name,
        profile.platform,
        profile.region,
        profile.os,
        profile.arch,
        profile.version,
        profile.ip,
    )
    if any(len(word) > MAX_WORD for word in words):
        raise BadProfile(
            f"name, platform, region, os, arch, version and ip have at most {MAX_WORD} characters"
        )
    if len(orjson.dumps(dict(profile.metadata))) > MAX_METADATA:
        raise BadProfile(f"an agent's metadata have at most {MAX_METADATA} bytes")
    check_labels(profile.labels)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises :class:`BadProfile` for too many labels, bad keys or long values."""
    if len(labels) > MAX_LABELS:
        raise BadProfile(f"an agent has at most {MAX_LABELS} labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or len(value) > 256:
            raise BadProfile(f"label {key!r} has a bad key or a value of over 256 characters")
