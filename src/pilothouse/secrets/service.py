"""Secrets: write-only values, encrypted at rest, inserted into tasks when these are sent to agents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, Row
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.access.model import SYSTEM, Principal
from pilothouse.identity.service import Identity
from pilothouse.secrets import store as store
from pilothouse.secrets.errors import SecretExists, SecretInvalid, SecretNotFound, TooManySecrets
from pilothouse.storage import Tx
from pilothouse.storage.keyring import KeyringBox
from pilothouse.storage.secretbox import SecretBoxError

log = structlog.get_logger("secrets")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
MAX_SECRET = 64 << 10
MAX_LINES = 1000
MAX_OF_PROJECT = 1000
CLEARED = 50
"""Secrets of a deleted project that are deleted in one transaction."""
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


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret without its value; ``pipeline`` empty: of the whole project. Times in ms."""

    id: str
    name: str
    project: str
    pipeline: str
    created_by: str
    created_at: int
    updated_at: int


class Secrets:
    """The secrets of all projects. Values are only sent in tasks, to the agents that run them."""

    def __init__(self, box: KeyringBox, identity: Identity) -> None:
        self._box = box
        self._identity = identity
        self.changes = 0
        self._project_of: Callable[[Connection, str], str] = lambda _conn, _pipeline: ""

    def pipelines_from(self, project_of: Callable[[Connection, str], str]) -> None:
        """``project_of`` gives the project of the pipeline with this id, ``""`` if there is none."""
        self._project_of = project_of

    def put(
        self,
        tx: Tx,
        by: Principal,
        project: str,
        name: str,
        value: str,
        pipeline: str = "",
        *,
        new: bool = False,
    ) -> bool:
        """Set a secret of the project, or of one of its pipelines; ``True`` if it is new. ``new``: it must be.

        Raises :class:`SecretInvalid`, :class:`TooManySecrets`, :class:`SecretExists`, ``PIPELINE_NOT_FOUND``.
        """
        if not _NAME.fullmatch(name):
            raise SecretInvalid("a secret's name is a letter or underscore, then letters, digits, _ or -")
        check_value(value)
        self._identity.projects.check(tx.conn, project)
        self.check_pipeline(tx.conn, project, pipeline)
        owner = store.owner_of(project, pipeline)
        sealed = self._box.encrypt(value.encode(), _bound_to(owner, name))
        known = store.secret_named(tx.conn, owner, name)
        if known is not None and new:
            raise SecretExists(name)
        if known is None:
            if store.count(tx.conn, project) >= MAX_OF_PROJECT:
                raise TooManySecrets(f"a project has at most {MAX_OF_PROJECT} secrets")
            fresh = {"id": str(uuid7()), "project": project, "owner": owner, "name": name, "value": sealed}
            times = {"created_at": tx.now, "updated_at": tx.now}
            store.add_secret(tx.conn, created_by=by.name, **fresh, **times)
        else:
            store.put_secret(tx.conn, owner, name, sealed, tx.now)
        self._identity.audit(tx, by, "secret.write", f"{owner}/{name}")
        tx.after_commit(self._changed)
        return known is None

    def delete(self, tx: Tx, by: Principal, project: str, name: str, pipeline: str = "") -> None:
        """Delete a secret. Raises :class:`SecretNotFound`."""
        owner = store.owner_of(project, pipeline)
        if not store.delete_secret(tx.conn, owner, name, tx.now):
            raise SecretNotFound(name)
        self._identity.audit(tx, by, "secret.delete", f"{owner}/{name}")
        tx.after_commit(self._changed)

    def clear(self, tx: Tx, project: str) -> bool:
        """Delete some secrets of a project that was deleted; whether there may be more."""
        some = store.list_secrets(tx.conn, project)[:CLEARED]
        for row in some:
            store.delete_secret(tx.conn, row.owner, row.name, tx.now)
            self._identity.audit(tx, SYSTEM, "secret.delete", f"{row.owner}/{row.name}")
        tx.after_commit(self._changed)
        return len(some) == CLEARED

    def check_pipeline(self, conn: Connection, project: str, pipeline: str) -> None:
        """Raises ``PIPELINE_NOT_FOUND`` if the project has no pipeline with this id."""
        if pipeline and self._project_of(conn, pipeline) != project:
            raise Refusal.of("PIPELINE_NOT_FOUND", f"No pipeline with id '{pipeline}' exists in this project")

    def names(self, conn: Connection, project: str) -> list[Secret]:
        """The secrets of a project and its pipelines, without their values."""
        return [_secret(row) for row in store.list_secrets(conn, project)]

    def get(self, conn: Connection, id: str) -> Secret:
        """The secret with this id, without its value. Raises :class:`SecretNotFound`."""
        row = store.secret_by_id(conn, id)
        if row is None:
            raise SecretNotFound(id)
        return _secret(row)

    def named(self, conn: Connection, project: str, name: str, pipeline: str = "") -> Secret:
        """The secret with this name, without its value. Raises :class:`SecretNotFound`."""
        row = store.secret_named(conn, store.owner_of(project, pipeline), name)
        if row is None:
            raise SecretNotFound(name)
        return _secret(row)

    def missing(self, conn: Connection, project: str, names: Iterable[str], pipeline: str = "") -> list[str]:
        """The names without a secret in the project, nor in the pipeline, if one is given; sorted."""
        wanted = frozenset(names)
        return sorted(wanted - store.known_names(conn, _owners(project, pipeline), wanted)) if wanted else []

    def values(
        self, conn: Connection, project: str, names: Iterable[str], pipeline: str = ""
    ) -> dict[str, str]:
        """The values of secrets that exist and can be decrypted, the pipeline's before the project's.

        Only for tasks.
        """
        found: dict[str, tuple[str, bytes]] = {}
        for row in store.secret_values(conn, _owners(project, pipeline), names):
            if row.name not in found or row.owner != project:
                found[row.name] = (row.owner, row.value)
        return dict(self._opened((owner, name, sealed) for name, (owner, sealed) in found.items()))

    def values_since(
        self, conn: Connection, project: str, names: frozenset[str], since: int, pipeline: str = ""
    ) -> set[str]:
        """All current values and values replaced since that time (ms), of both scopes; only for masking."""
        owners = _owners(project, pipeline)
        sealed = [
            *store.secret_values(conn, owners, names),
            *store.retired_values(conn, owners, names, since),
        ]
        return {value for _, value in self._opened((row.owner, row.name, row.value) for row in sealed)}

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

    def _opened(self, sealed: Iterable[tuple[str, str, bytes]]) -> Iterator[tuple[str, str]]:
        for owner, name, value in sealed:
            try:
                yield name, self._box.decrypt(value, _bound_to(owner, name)).decode()
            except SecretBoxError:
                log.error("secrets.unreadable", owner=owner, name=name)


def _owners(project: str, pipeline: str) -> tuple[str, ...]:
    return (project, store.owner_of(project, pipeline)) if pipeline else (project,)


def _secret(row: Row[Any]) -> Secret:
    pipeline = row.owner.removeprefix(store.OF_PIPELINE) if row.owner.startswith(store.OF_PIPELINE) else ""
    return Secret(row.id, row.name, row.project, pipeline, row.created_by, row.created_at, row.updated_at)


def _bound_to(owner: str, name: str) -> bytes:
    # Authenticated together with the value: a ciphertext moved to another row cannot be decrypted.
    return f"{owner}/{name}".encode()
