"""Stored answers to idempotent requests: the same request within 24 h gets the first answer again."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable

import orjson
from sqlalchemy.exc import IntegrityError

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge import store
from pilothouse.storage import Storage, Tx
from pilothouse.storage.keyring import Key, Keyring, KeyringBox, derived
from pilothouse.wire.json_bounds import MAX_VALUES, most_values

WINDOW_MS = 24 * 3600 * 1000

MAX_ANSWER = 256 << 10
"""Bytes of an answer that is stored. Routes bound what they answer far below it."""

Answer = tuple[int, bytes, bool]
"""HTTP status, body, and whether this is a repeated answer."""


class Answers:
    """Stores answers without the secrets in them, encrypted, and only a keyed digest of each request."""

    def __init__(self, storage: Storage, keyring: Keyring) -> None:
        self.storage = storage
        self._keyring = keyring
        self._box = self.box(keyring)

    @staticmethod
    def box(keyring: Keyring) -> KeyringBox:
        """What stored answers are encrypted with."""
        return KeyringBox(keyring, "idempotent answers")

    @staticmethod
    def context(caller: str, route: str, key: str) -> bytes:
        """What a stored answer is bound to."""
        return orjson.dumps([caller, route, key])

    async def once(
        self,
        caller: str,
        route: str,
        key: str,
        request: tuple[str, bytes],
        status: int,
        use_case: Callable[[Tx, Principal], tuple[bytes, bytes]],
        permit: Callable[[Tx], Principal],
    ) -> Answer:
        """Run ``use_case`` unless the caller already has an answer for this key; both are committed in one
        transaction.

        ``caller`` names the token. ``request``: query string and body. ``use_case`` gives the answer, and what of
        it is stored to be repeated. ``permit`` is asked first: it gives the caller as of now, and raises if they
        may not do it (any more).
        Raises ``IDEMPOTENCY_KEY_REUSED`` for another request with the same key, and the errors of the use
        case, for which nothing is stored.
        """
        asked = _canonical(*request)
        context = self.context(caller, route, key)

        def attempt(tx: Tx) -> Answer:
            by = permit(tx)
            store.purge_keys(tx.conn, tx.now - WINDOW_MS)
            known = store.find_answer(tx.conn, caller, route, key)
            if known is not None:
                # The key may have been rotated since.
                if known[0] not in [_fingerprint(key, asked) for key in self._keyring.keys]:
                    raise Refusal.of("IDEMPOTENCY_KEY_REUSED", "This key was used with another body")
                return known[1], self._box.decrypt(known[2], context), True
            fingerprint = _fingerprint(self._keyring.current, asked)
            store.claim_key(tx.conn, caller, route, key, fingerprint, tx.now)
            answer, kept = use_case(tx, by)
            if len(kept) > MAX_ANSWER:
                raise Refusal.of("PAYLOAD_TOO_LARGE", f"The answer is larger than {MAX_ANSWER} bytes")
            store.record_answer(tx.conn, caller, route, key, status, self._box.encrypt(kept, context))
            return status, answer, False

        try:
            return await self.storage.write(attempt)
        except IntegrityError:
            # Another server has committed an answer for the key at the same time.
            return await self.storage.write(attempt)


def _fingerprint(key: Key, asked: bytes) -> str:
    return hmac.digest(derived(key.root, "idempotent requests"), asked, "sha256").hex()


def _canonical(query: str, body: bytes) -> bytes:
    # JSON with another key order or whitespace is the same request, unless it is too large to be parsed here.
    if most_values(body) <= MAX_VALUES:
        with contextlib.suppress(orjson.JSONDecodeError):
            body = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return query.encode() + b"\n" + body
