"""``Idempotency-Key`` (decisions.md, "Everywhere"): a repeated request gets the first answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Request
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.exchange import Exchange
from pilothouse.storage import Tx

_SANE_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def _caller(request: Request) -> Principal:
    return await Exchange.of(request.scope).caller()


class Idempotent:
    """Runs the use case of a POST. With a key, the answer is committed in the same transaction.

    Use it as ``idem: Idem`` and end the route with ``return await idem(lambda tx: …)``. Errors are not
    stored; failed requests can be repeated with the same key. Keys are separate per user (not token) and
    path.
    """

    def __init__(
        self,
        request: Request,
        caller: Annotated[Principal, Depends(_caller)],
        key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                max_length=255,
                description="The same key and body within 24 h give the first answer again.",
            ),
        ] = None,
    ) -> None:
        self._request = request
        self._caller = caller.key
        self._key = key

    async def __call__(
        self,
        use_case: Callable[[Tx], Any],
        status: int = 201,
        *,
        envelope: bool = False,
        content: bytes | None = None,
        permit: Callable[[Connection], object] | None = None,
    ) -> Response:
        """Run ``use_case``; its result is the JSON body (``envelope``: ``detail`` of the Arcentra envelope).

        ``content`` replaces a body that was already read, as a stream. ``permit`` raises if the caller may not do it
        (now): also before a stored answer is repeated.
        Raises ``IDEMPOTENCY_KEY_REUSED``, ``INVALID_PARAMETER`` for an invalid key, and the errors of the use
        case.
        """
        request = self._request
        answers = Exchange.of(request.scope).edge.answers

        def answer(tx: Tx) -> bytes:
            if permit is not None:
                permit(tx.conn)
            result = use_case(tx)
            return orjson.dumps(enveloped(result, status) if envelope else result)

        if self._key is None:
            return Response(await answers.storage.write(answer), status, media_type="application/json")
        if not _SANE_KEY.fullmatch(self._key):
            raise Refusal.of("INVALID_PARAMETER", "Idempotency-Key has 1 to 255 visible ASCII characters")
        route = f"{request.method} {request.url.path}"
        body = await request.body() if content is None else content
        asked = (request.url.query, body)
        first, text, repeated = await answers.once(
            self._caller, route, self._key, asked, status, answer, permit
        )
        headers = {"Idempotency-Replayed": "true"} if repeated else None
        return Response(text, first, headers, "application/json")


Idem = Annotated[Idempotent, Depends()]


def enveloped(detail: Any = None, status: int = 200) -> dict[str, Any]:
    """The Arcentra envelope of a success."""
    body: dict[str, Any] = {"code": status, "msg": "success"}
    if detail is not None:
        body["detail"] = detail
    return {**body, "timestamp": int(time.time())}
