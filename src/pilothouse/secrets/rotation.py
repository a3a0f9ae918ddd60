"""After a rotation of the server's key: encrypt all secrets with the new one, then drop those that nothing needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import Connection

from pilothouse.secrets import store
from pilothouse.storage import Storage, Tx
from pilothouse.storage.keyring import KeyringBox
from pilothouse.storage.secretbox import SecretBoxError

log = structlog.get_logger("secrets")

ROUND_SECONDS = 5.0
BATCH = 100
"""Secrets that are encrypted anew in one transaction."""


def renew(conn: Connection, box: KeyringBox, place: store.Place) -> store.Renewal:
    """Encrypt the next values, at most :data:`BATCH`, that are not encrypted with the key in use.

    ``place``: where the walk through all values is. What no key of ours decrypts stays as it is.
    """
    renewal = store.outdated_values(conn, box.prefix, place, BATCH)
    for value in renewal.values:
        context = f"{value.owner}/{value.name}".encode()
        try:
            plain = box.decrypt(value.sealed, context)
        except SecretBoxError:
            log.error("secrets.unreadable", owner=value.owner, name=value.name)
            continue
        if store.replace_value(conn, value, box.encrypt(plain, context)):
            renewal.changed += 1
    return renewal


class KeyRounds:
    """Background work of each server: read the key file again, renew secrets, drop former keys."""

    def __init__(
        self, storage: Storage, box: KeyringBox, clock: Callable[[], int], keep_seconds: int
    ) -> None:
        self._storage = storage
        self._box = box
        self._clock = clock
        self._keep = keep_seconds * 1000

    async def round(self) -> None:
        """One round; short while there is one key."""
        keyring = self._box.keyring
        await asyncio.to_thread(keyring.refresh)
        if len(keyring.keys) < 2:
            return
        await self._renew()
        newer = keyring.current
        for key in keyring.keys[keyring.keys.index(newer) + 1 :]:
            if self._clock() - newer.active_from > self._keep and not await self._storage.read(self._in_use):
                await asyncio.to_thread(keyring.forget, key.id)
                log.info("secrets.key_dropped", key=key.id.hex())
            newer = key

    async def _renew(self) -> None:
        if not await self._storage.read(self._in_use):
            return
        place: store.Place | None = store.START
        while place is not None:
            place = (await self._storage.write(partial(self._renew_some, place=place))).then

    def _renew_some(self, tx: Tx, place: store.Place) -> store.Renewal:
        return renew(tx.conn, self._box, place)

    def _in_use(self, conn: Connection) -> bool:
        """Whether a value that our keys decrypt is not encrypted with the one in use."""
        place: store.Place | None = store.START
        while place is not None:
            found = store.outdated_values(conn, self._box.prefix, place, BATCH)
            if any(self._readable(value) for value in found.values):
                return True
            place = found.then
        return False

    def _readable(self, value: store.SealedValue) -> bool:
        try:
            self._box.decrypt(value.sealed, f"{value.owner}/{value.name}".encode())
        except SecretBoxError:
            return False
        return True
