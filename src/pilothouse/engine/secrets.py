"""Secrets: write-only, encrypted at rest, put into a task when it is handed out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import structlog
from sqlalchemy import Connection

from pilothouse.engine import store
from pilothouse.engine.errors import SecretInvalid, SecretNotFound
from pilothouse.identity.model import Principal
from pilothouse.identity.secretbox import SecretBox, SecretBoxError
from pilothouse.identity.service import Identity
from pilothouse.storage import Tx

log = structlog.get_logger("engine.secrets")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
MAX_SECRET = 64 << 10


class Secrets:
    """The secrets of all projects. Values leave only inside a task, to the agent that runs it."""

    def __init__(self, box: SecretBox, identity: Identity) -> None:
        self._box = box
        self._identity = identity

    def put(self, tx: Tx, by: Principal, project: str, name: str, value: str) -> bool:
        """Set a secret; ``True`` if it is new. Raises :class:`SecretInvalid`."""
        if not _NAME.fullmatch(name):
            raise SecretInvalid("a secret's name is a letter or underscore, then letters, digits, _ or -")
        if not value or len(value.encode()) > MAX_SECRET:
            raise SecretInvalid(f"a secret's value has 1 to {MAX_SECRET} bytes")
        sealed = self._box.encrypt(value.encode(), _bound_to(project, name))
        created = store.put_secret(tx.conn, project, name, sealed, by.name, tx.now)
        self._identity.audit(tx, by, "secret.write", f"{project}/{name}")
        return created

    def delete(self, tx: Tx, by: Principal, project: str, name: str) -> None:
        """Forget a secret. Raises :class:`SecretNotFound`."""
        if not store.delete_secret(tx.conn, project, name):
            raise SecretNotFound(name)
        self._identity.audit(tx, by, "secret.delete", f"{project}/{name}")

    def names(self, conn: Connection, project: str) -> list[dict[str, Any]]:
        """What secrets there are, without their values; times in ms."""
        return [dict(row._mapping) for row in store.list_secrets(conn, project)]

    def values(self, conn: Connection, project: str, names: Iterable[str]) -> dict[str, str]:
        """The values of those that exist and open; for the hand-out and for masking only."""
        opened: dict[str, str] = {}
        for name, sealed in store.secret_values(conn, project, names).items():
            try:
                opened[name] = self._box.decrypt(sealed, _bound_to(project, name)).decode()
            except SecretBoxError:
                log.error("secrets.unreadable", project=project, name=name)
        return opened


def _bound_to(project: str, name: str) -> bytes:
    # Authenticated with the value: a ciphertext moved to another row does not open.
    return f"{project}/{name}".encode()
