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
from pilothouse.edge.mutations import current_caller
from pilothouse.storage import Tx

_SANE_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def _caller(request: Request) -> Principal:
    return await Exchange.of(request.scope).caller()


class Idempotent:
    """Runs the use case of a POST. With a key, the answer is committed in the same transaction.

    Use it as ``idem: Idem`` and end the route with ``return await idem(lambda tx: …, permit=…)``. Errors are
    not stored; failed requests can be repeated with the same key. Keys are separate per token and path.
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
                description="The same key and body, by the same token within 24 h, give the first answer again.",
            ),
        ] = None,
    ) -> None:
        self._request = request
        self._caller = f"{caller.key}/{caller.token_id}"
        self._key = key

    async def __call__(
        self,
        use_case: Callable[[Tx, Principal], Any],
        status: int = 201,
        *,
        permit: Callable[[Connection, Principal], object],
        shown_once: str = "",
        envelope: bool = False,
        content: bytes | None = None,
    ) -> Response:
        """Run ``use_case``; its result is the JSON body (``envelope``: ``detail`` of the Arcentra envelope).

        Use case and ``permit`` get the caller with the rights that they have in the transaction
        (:mod:`pilothouse.edge.mutations`). ``permit`` raises if the caller may not do it now; it is asked first, also
        before a stored answer is repeated.
        ``shown_once``: the key of the result that holds a secret. It is in the first answer only: what is stored and
        repeated has ``"secret_omitted": true`` in its place.
        ``content`` replaces a body that was already read, as a stream.
        Raises ``IDEMPOTENCY_KEY_REUSED``, ``INVALID_PARAMETER`` for an invalid key, and the errors of the use
        case.
        """
        request = self._request
        exchange = Exchange.of(request.scope)
        answers = exchange.edge.answers
        permitted = await current_caller(exchange)

        def permit_now(tx: Tx) -> Principal:
            by = permitted(tx)
            permit(tx.conn, by)
            return by

        def answer(tx: Tx, by: Principal) -> tuple[bytes, bytes]:
            result = use_case(tx, by)
            body = orjson.dumps(enveloped(result, status) if envelope else result)
            if not shown_once:
                return body, body
            kept = {name: value for name, value in result.items() if name != shown_once} | {
                "secret_omitted": True
            }
            return body, orjson.dumps(enveloped(kept, status) if envelope else kept)

        if self._key is None:

            def unkeyed(tx: Tx) -> bytes:
                return answer(tx, permit_now(tx))[0]

            return Response(await answers.storage.write(unkeyed), status, media_type="application/json")
        if not _SANE_KEY.fullmatch(self._key):
            raise Refusal.of("INVALID_PARAMETER", "Idempotency-Key has 1 to 255 visible ASCII characters")
        route = f"{request.method} {request.url.path}"
        body = await request.body() if content is None else content
        asked = (request.url.query, body)
        first, text, repeated = await answers.once(
            self._caller, route, self._key, asked, status, answer, permit_now
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
