"""Secrets: write-only values, encrypted at rest, inserted into tasks when these are sent to agents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection

from pilothouse.access.model import Principal
from pilothouse.identity.service import Identity
from pilothouse.secrets import store as store
from pilothouse.secrets.errors import SecretInvalid, SecretNotFound, TooManySecrets
from pilothouse.storage import Tx
from pilothouse.storage.keyring import KeyringBox
from pilothouse.storage.secretbox import SecretBoxError

log = structlog.get_logger("secrets")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
MAX_SECRET = 64 << 10
MAX_LINES = 1000
MAX_OF_PROJECT = 1000
MAX_VALUES = 2000
"""Values that are masked in an attempt: the secrets of its run, and what expressions make of them."""
MAX_OF_RUN = 256 << 10
"""Characters of all secrets that one run needs: to mask them takes some 800 bytes of memory each."""


def check_value(value: str) -> None:
    """Raises :class:`SecretInvalid`. Fast; must be called before the value is processed."""
    if not value or len(value) > MAX_SECRET or len(value.encode("utf-8", "surrogatepass")) > MAX_SECRET:
        raise SecretInvalid(f"a secret's value has 1 to {MAX_SECRET} bytes")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise SecretInvalid(
            "a secret's value is text: it has an unpaired surrogate, which is not a character"
        )
    if len(set(value.split("\n"))) > MAX_LINES:
        raise SecretInvalid(f"a secret's value has at most {MAX_LINES} different lines")


class Secrets:
    """The secrets of all projects. Values are only sent in tasks, to the agents that run them."""

    def __init__(self, box: KeyringBox, identity: Identity) -> None:
        self._box = box
        self._identity = identity
        self.changes = 0

    def put(self, tx: Tx, by: Principal, project: str, name: str, value: str) -> bool:
        """Set a secret; ``True`` if it is new. Raises :class:`SecretInvalid`, :class:`TooManySecrets`."""
        if not _NAME.fullmatch(name):
            raise SecretInvalid("a secret's name is a letter or underscore, then letters, digits, _ or -")
        check_value(value)
        sealed = self._box.encrypt(value.encode(), _bound_to(project, name))
        if (
            not store.known_names(tx.conn, project, (name,))
            and store.count(tx.conn, project) >= MAX_OF_PROJECT
        ):
            raise TooManySecrets(f"a project has at most {MAX_OF_PROJECT} secrets")
        created = store.put_secret(tx.conn, project, name, sealed, by.name, tx.now)
        self._identity.audit(tx, by, "secret.write", f"{project}/{name}")
        tx.after_commit(self._changed)
        return created

    def delete(self, tx: Tx, by: Principal, project: str, name: str) -> None:
        """Delete a secret. Raises :class:`SecretNotFound`."""
        if not store.delete_secret(tx.conn, project, name, tx.now):
            raise SecretNotFound(name)
        self._identity.audit(tx, by, "secret.delete", f"{project}/{name}")
        tx.after_commit(self._changed)

    def names(self, conn: Connection, project: str) -> list[dict[str, Any]]:
        """The project's secrets, without their values; times in ms."""
        return [dict(row._mapping) for row in store.list_secrets(conn, project)]

    def missing(self, conn: Connection, project: str, names: Iterable[str]) -> list[str]:
        """The names without a secret in the project, sorted."""
        wanted = frozenset(names)
        return sorted(wanted - store.known_names(conn, project, wanted)) if wanted else []

    def values(self, conn: Connection, project: str, names: Iterable[str]) -> dict[str, str]:
        """The values of secrets that exist and can be decrypted; only for tasks."""
        sealed = store.secret_values(conn, project, names)
        return dict(self._opened(project, sealed.items()))

    def values_since(self, conn: Connection, project: str, names: frozenset[str], since: int) -> set[str]:
        """All current values and values replaced since that time (ms); only for masking."""
        sealed = [*store.secret_values(conn, project, names).items()]
        sealed += store.retired_values(conn, project, names, since)
        return {value for _, value in self._opened(project, sealed)}

    def keep_derived(self, tx: Tx, project: str, run_id: str, values: frozenset[str]) -> None:
        """Keep all values that a run's expressions have made from secrets, encrypted; only for masking."""
        if values == self.derived(tx.conn, project, run_id):
            return
        sealed = self._box.encrypt(orjson.dumps(sorted(values)), _bound_to(store.OF_RUN, run_id))
        store.put_derived(tx.conn, run_id, sealed, tx.now)
        tx.after_commit(self._changed)

    def derived(self, conn: Connection, project: str, run_id: str) -> frozenset[str]:
        """The values that :meth:`keep_derived` was given for a run."""
        sealed = store.derived(conn, run_id)
        if sealed is None:
            return frozenset()
        try:
            return frozenset(orjson.loads(self._box.decrypt(sealed, _bound_to(store.OF_RUN, run_id))))
        except SecretBoxError:
            log.error("secrets.unreadable", project=project, run_id=run_id)
            return frozenset()

    def _changed(self) -> None:
        self.changes += 1

    def _opened(self, project: str, sealed: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
        for name, value in sealed:
            try:
                yield name, self._box.decrypt(value, _bound_to(project, name)).decode()
            except SecretBoxError:
                log.error("secrets.unreadable", project=project, name=name)


def _bound_to(project: str, name: str) -> bytes:
    # Authenticated together with the value: a ciphertext moved to another row cannot be decrypted.
    return f"{project}/{name}".encode()
