"""``Idempotency-Key`` (decisions.md, "Everywhere"): the same request twice gives the first answer twice."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Request
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from pilothouse.identity import records
from pilothouse.identity.errors import ApiError
from pilothouse.identity.exchange import Exchange
from pilothouse.identity.model import Principal
from pilothouse.storage import Tx

WINDOW_MS = 24 * 3600 * 1000
_SANE_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def _caller(request: Request) -> Principal:
    return await Exchange.of(request.scope).caller()


class Idempotent:
    """Runs the use case of a POST. With a key, the answer commits with the change, in one transaction.

    Use it as ``idem: Idem`` and end the route with ``return await idem(lambda tx: …)``. Errors are not kept:
    what failed may be tried again under the same key. A key belongs to the user (not the token) and path.
    """

    def __init__(
        self,
        request: Request,
        caller: Annotated[Principal, Depends(_caller)],
        key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                description="The same key and body within 24 h give the first answer again.",
            ),
        ] = None,
    ) -> None:
        self._request = request
        self._caller = f"{caller.kind}/{caller.id}"
        self._key = key

    async def __call__(
        self,
        use_case: Callable[[Tx], Any],
        status: int = 201,
        *,
        envelope: bool = False,
        content: bytes | None = None,
    ) -> Response:
        """Run ``use_case``; what it returns is the JSON body (``envelope``: ``detail`` of the Arcentra one).

        ``content`` stands for a body that was read already, and as a stream.
        Raises ``IDEMPOTENCY_KEY_REUSED``, ``INVALID_PARAMETER`` for a bad key, and what the use case raises.
        """
        identity = Exchange.of(self._request.scope).edge.identity

        def fresh(tx: Tx) -> bytes:
            result = use_case(tx)
            return orjson.dumps(enveloped(result, status) if envelope else result)

        if self._key is None:
            return Response(await identity.write(fresh), status, media_type="application/json")
        if not _SANE_KEY.fullmatch(self._key):
            raise ApiError.of("INVALID_PARAMETER", "Idempotency-Key has 1 to 255 visible ASCII characters")
        once = await self._once(fresh, status, content)
        try:
            first, answer, replayed = await identity.write(once)
        except IntegrityError:
            # Another replica took the key in the same moment and has committed: now its answer is there.
            first, answer, replayed = await identity.write(once)
        headers = {"Idempotency-Replayed": "true"} if replayed else None
        return Response(answer, first, headers, "application/json")

    async def _once(
        self, fresh: Callable[[Tx], bytes], status: int, content: bytes | None
    ) -> Callable[[Tx], tuple[int, bytes, bool]]:
        request, caller, key = self._request, self._caller, self._key or ""
        identity = Exchange.of(request.scope).edge.identity
        box = identity.answers
        route = f"{request.method} {request.url.path}"
        body = await request.body() if content is None else content
        digest = identity.fingerprint(_canonical(request.url.query, body))
        context = orjson.dumps([caller, route, key])

        def once(tx: Tx) -> tuple[int, bytes, bool]:
            records.purge_keys(tx.conn, tx.now - WINDOW_MS)
            known = records.find_answer(tx.conn, caller, route, key)
            if known is not None:
                if known[0] != digest:
                    raise ApiError.of("IDEMPOTENCY_KEY_REUSED", "This key was used with another body")
                return known[1], box.decrypt(known[2], context), True
            records.claim_key(tx.conn, caller, route, key, digest, tx.now)
            answer = fresh(tx)
            records.record_answer(tx.conn, caller, route, key, status, box.encrypt(answer, context))
            return status, answer, False

        return once


Idem = Annotated[Idempotent, Depends()]


def enveloped(detail: Any = None, status: int = 200) -> dict[str, Any]:
    """The Arcentra envelope of a success."""
    body: dict[str, Any] = {"code": status, "msg": "success"}
    if detail is not None:
        body["detail"] = detail
    return {**body, "timestamp": int(time.time())}


def _canonical(query: str, body: bytes) -> bytes:
    # The same JSON in another order or spacing is the same request.
    with contextlib.suppress(orjson.JSONDecodeError):
        body = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return query.encode() + b"\n" + body
