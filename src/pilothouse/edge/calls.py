"""gRPC calls of users: who calls, changes with the rights of that moment, and which errors are answers.

Faults of a call (no credential, no right, malformed, too much) are statuses. What became of a well-formed request
(not found, a conflict, an invalid spec) is an answer with ``success=false`` and an ``error`` (decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.edge.answers import Answers
from pilothouse.edge.authentication import Authentication
from pilothouse.edge.grpc import Context, authenticated
from pilothouse.edge.paging import Paging
from pilothouse.storage import Storage, Tx

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)

MAX_PAGE, MAX_PAGE_SIZE, PAGE_SIZE = 1_000_000, 100, 20
MAX_ID = 256
_OUTCOMES = frozenset({"SPEC_INVALID", "INPUT_TOO_COSTLY", "INVALID_STATE_TRANSITION"})
_ID = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_ID}}}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Calls:
    """What servicers of users' RPCs share. Every method raises a ``Refusal`` that becomes the status of the call."""

    def __init__(self, authentication: Authentication, storage: Storage, answers: Answers) -> None:
        self.storage = storage
        self._authentication = authentication
        self._answers = answers

    async def caller(self, context: Context, action: str) -> Principal:
        """The caller, who may do ``action`` in some project."""
        principal = await authenticated(context, self._authentication)
        require(principal, action)
        return principal

    async def change(self, context: Context, action: str, use_case: Callable[[Tx, Principal], T]) -> T:
        """Run ``use_case`` in a transaction, with the rights that the caller has in it: jobs in the worker pool may
        have taken seconds since the call began."""
        permitted = await self._permitted(context, action)
        return await self.storage.write(lambda tx: use_case(tx, permitted(tx)))

    async def _permitted(self, context: Context, action: str) -> Callable[[Tx], Principal]:
        """For use in a transaction: the caller with the rights that they have then."""
        caller = await self.caller(context, action)

        def permitted(tx: Tx) -> Principal:
            by = self._authentication.current(tx.conn, caller, tx.now)
            require(by, action)
            return by

        return permitted

    async def once(
        self,
        context: Context,
        action: str,
        key: str,
        request: tuple[str, bytes],
        permit: Callable[[Connection, Principal], object],
        use_case: Callable[[Tx, Principal], dict[str, Any]],
    ) -> dict[str, Any]:
        """As :meth:`change`; with a ``key``, the same request of the same token within 24 h gets the first answer.

        ``request``: the RPC, and what identifies the content of the message. ``permit`` raises if the caller may not
        do it now; it is asked first, also before a stored answer is repeated. Raises ``IDEMPOTENCY_KEY_REUSED``.
        """
        permitted = await self._permitted(context, action)
        caller = await self.caller(context, action)

        def permit_now(tx: Tx) -> Principal:
            by = permitted(tx)
            permit(tx.conn, by)
            return by

        if not key:
            return await self.storage.write(lambda tx: use_case(tx, permit_now(tx)))
        if not _KEY.fullmatch(key):
            raise Refusal.of("VALIDATION_FAILED", "request_id has 1 to 255 visible ASCII characters")

        def answer(tx: Tx, by: Principal) -> tuple[bytes, bytes]:
            body = orjson.dumps(use_case(tx, by))
            return body, body

        rpc, content = request
        token = f"{caller.key}/{caller.token_id}"
        _, text, _ = await self._answers.once(token, rpc, key, ("", content), 200, answer, permit_now)
        found: dict[str, Any] = orjson.loads(text)
        return found


async def answered(failed: Callable[[Refusal], T], working: Awaitable[T]) -> T:
    """The answer of a call; ``failed`` makes one of a refusal that is an outcome."""
    try:
        return await working
    except Refusal as error:
        if not is_outcome(error):
            raise
        return failed(error)


def is_outcome(error: Refusal) -> bool:
    """Whether this is what became of a well-formed request, and no fault of the call."""
    return error.status in (404, 409) or error.code in _OUTCOMES


def read(model: type[B], **fields: Any) -> B:
    """The fields of a message, checked as the body of the route of the same use case.

    Raises ``VALIDATION_FAILED``; the value itself is not repeated.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part)[:100] for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise Refusal.of("VALIDATION_FAILED", f"{field}: {message}" if field else message) from None


def required_id(field: str, value: str) -> str:
    """An id that a message must have. Raises ``MISSING_REQUIRED_FIELD``, ``VALIDATION_FAILED``."""
    if not value:
        raise Refusal.of("MISSING_REQUIRED_FIELD", f"{field} is missing", field=field)
    return optional_id(field, value)


def optional_id(field: str, value: str) -> str:
    """An id, or empty. Raises ``VALIDATION_FAILED``."""
    if value and not _ID.fullmatch(value):
        why = f"{field} has at most {MAX_ID} characters, and no control characters"
        raise Refusal.of("VALIDATION_FAILED", why, field=field)
    return value


def bounded(field: str, value: str, most: int) -> str:
    """A text of at most ``most`` characters. Raises ``VALIDATION_FAILED``."""
    if len(value) > most or "\x00" in value:
        raise Refusal.of("VALIDATION_FAILED", f"{field} has at most {most} characters of text", field=field)
    return value


def known_number(field: str, number: int, most: int) -> int:
    """The number of an enum's value; 0: unspecified. Raises ``VALIDATION_FAILED``."""
    if not 0 <= number <= most:
        raise Refusal.of("VALIDATION_FAILED", f"{field} is a number from 0 to {most}", field=field)
    return number


def paging(page: int, page_size: int) -> Paging:
    """Page 1 of 20 where nothing is said. Raises ``VALIDATION_FAILED``."""
    if not 0 <= page <= MAX_PAGE:
        raise Refusal.of("VALIDATION_FAILED", f"page is a number from 1 to {MAX_PAGE}", field="page")
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise Refusal.of("VALIDATION_FAILED", f"page_size is at most {MAX_PAGE_SIZE}", field="page_size")
    return Paging(page or 1, page_size or PAGE_SIZE)
