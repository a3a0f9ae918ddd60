"""In front of every gRPC call: who calls, how often, how much; and the statuses of calls that fail."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from pilothouse import __version__
from pilothouse.access.errors import AuthError, Refusal
from pilothouse.access.model import Principal
from pilothouse.access.versions import check_client
from pilothouse.edge.authentication import Authentication
from pilothouse.edge.grpc import authenticated, bearer, check_metadata, metadata, peer_address
from pilothouse.edge.limits import RateLimits
from pilothouse.edge.strangers import Strangers
from pilothouse.server.refusals import refuse

Handler = Any  # a named tuple that gRPC's type stubs do not declare
Find = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]
USER_AGENT = "user-agent"

MAX_MESSAGE = 1 << 20
"""Bytes of a message, unless its method says otherwise."""
MAX_CALLS_OF_AGENT, MAX_CALLS_OF_USER = 64, 2_000
"""Calls of one agent, or with one token of a user, at once."""
MAX_ASKED = 1_000
"""Messages of a stream that needs no credential."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for a method.

    ``open``: it needs no credential in the metadata; ``counted``: then it counts under the address's rate limit also
    when it succeeds; ``free``: it is served also when that is exceeded. ``max_message`` in bytes.
    """

    open: bool = False
    counted: bool = False
    free: bool = False
    max_message: int = MAX_MESSAGE


ORDINARY = Rule()


class Visit:
    """One call: its address, and its caller once that is known."""

    __slots__ = ("address", "principal")

    def __init__(self, address: str) -> None:
        self.address = address
        self.principal: Principal | None = None


class RpcGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Authenticates callers before their messages are read, bounds what they may cost, and answers errors.

    Every handler is served as one with a stream of requests: for others gRPC would read the message, of up to 16 MiB,
    before any of our code runs. Failed calls of unknown callers count by address (:class:`Strangers`), calls of users
    by token. Errors that are not refusals become INTERNAL with none of their text.
    """

    def __init__(
        self,
        authentication: Authentication,
        limits: RateLimits,
        strangers: Strangers,
        rules: Mapping[str, Rule],
    ) -> None:
        """``rules``: by the full name of a method (``/package.Service/Method``)."""
        self._authentication = authentication
        self._limits = limits
        self._strangers = strangers
        self._rules = rules
        self._calls: Counter[str] = Counter()
        self._served: dict[str, tuple[Handler, Handler]] = {}
        # As a stream of requests, of which none is read.
        self._unknown = self._guarded(grpc.stream_unary_rpc_method_handler(_unknown), Rule(open=True))

    async def intercept_service(self, continuation: Find, details: grpc.HandlerCallDetails) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        if handler is None:
            return self._unknown
        name = str(details.method)
        known = self._served.get(name)
        if known is None or known[0] != handler:
            rule = self._rules.get(name, ORDINARY)
            known = self._served[name] = (handler, self._guarded(handler, rule))
        return known[1]

    def _guarded(self, handler: Handler, rule: Rule) -> Handler:
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        serve = _Served(self, getattr(handler, kind), handler, rule)
        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(
                serve.one, response_serializer=handler.response_serializer
            )
        generates = inspect.isasyncgenfunction(getattr(handler, kind))
        return grpc.stream_stream_rpc_method_handler(
            serve.many if generates else serve.one, response_serializer=handler.response_serializer
        )

    @asynccontextmanager
    async def admitted(self, rule: Rule, streams: bool, context: Any) -> AsyncIterator[Visit]:
        """A call that may be served; aborts one that may not, and one that fails meanwhile."""
        visit = Visit(peer_address(context))
        try:
            check_client(metadata(context, USER_AGENT), __version__)
            check_metadata(context)
            if rule.open:
                with self._strangers.call(visit.address), self._open_stream(visit.address, rule, streams):
                    yield visit
            else:
                with self._strangers.call(visit.address):
                    visit.principal = await self._caller(context, visit.address)
                with self._call_of(visit.principal):
                    yield visit
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await refuse(context, error, lambda refusal: self._counted(visit, refusal))

    async def _caller(self, context: Any, address: str) -> Principal:
        credential, _ = bearer(context)
        async with self._strangers.turn(address, credential):
            try:
                principal = await authenticated(context, self._authentication)
            except AuthError:
                self._strangers.forget(credential)
                raise
        self._strangers.remember(credential)
        if principal.kind == "user":
            count = self._limits.request(principal, address)
            if count is not None:
                count.check()
        return principal

    @contextmanager
    def _open_stream(self, address: str, rule: Rule, streams: bool) -> Iterator[None]:
        if rule.counted:
            count = self._limits.request(None, address)
            if count is not None:
                count.check()
        if not streams:
            yield
            return
        with self._strangers.stream(address):
            yield

    @contextmanager
    def _call_of(self, principal: Principal) -> Iterator[None]:
        key = principal.token_id or f"{principal.kind}/{principal.id}"
        most = MAX_CALLS_OF_USER if principal.kind == "user" else MAX_CALLS_OF_AGENT
        if self._calls[key] >= most:
            message = f"Too many calls at once with this token: at most {most}"
            raise Refusal(message, code="CALLER_QUEUE_FULL", headers={"Retry-After": "1"})
        self._calls[key] += 1
        try:
            yield
        finally:
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key]

    def _counted(self, visit: Visit, refusal: Refusal) -> Refusal:
        return refusal if visit.principal is not None else self._strangers.failed(visit.address, refusal)

    async def message(self, messages: Any, rule: Rule, visit: Visit) -> bytes | None:
        """The next message of a call; ``None`` after the last."""
        if not rule.open:
            return await anext(messages, None)
        async with self._strangers.reading(visit.address):
            return await anext(messages, None)

    @asynccontextmanager
    async def turn(self, rule: Rule, visit: Visit) -> AsyncIterator[None]:
        """An open method reads its message, checks the credential in it, and does its work."""
        if not rule.open or rule.free or rule.counted:
            yield
            return
        async with self._strangers.turn(visit.address):
            yield


class _Served:
    """One method behind the gate."""

    def __init__(self, gate: RpcGate, method: Any, handler: Handler, rule: Rule) -> None:
        self._gate = gate
        self._method = method
        self._parse = handler.request_deserializer or bytes
        self._takes_stream = handler.request_streaming
        self._streams = handler.request_streaming or handler.response_streaming
        self._rule = rule

    async def one(self, requests: AsyncIterator[bytes], context: Any) -> Any:
        """A method that returns its answer, or writes answers to the context."""
        async with (
            self._gate.admitted(self._rule, self._streams, context) as visit,
            self._gate.turn(self._rule, visit),
        ):
            given = await self._given(requests, visit)
            try:
                return await self._method(given, context)
            finally:
                if self._takes_stream:
                    await given.aclose()

    async def many(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """A method that generates answers."""
        async with self._gate.admitted(self._rule, self._streams, context) as visit:
            given = await self._given(requests, visit)
            async with aclosing(self._method(given, context)) as answers:
                async for answer in answers:
                    yield answer

    async def _given(self, requests: AsyncIterator[bytes], visit: Visit) -> Any:
        if self._takes_stream:
            return self._messages(requests, visit)
        async with _iterated(requests) as messages:
            raw = await self._gate.message(messages, self._rule, visit)
        if raw is None:
            raise Refusal.of("VALIDATION_FAILED", "The call has no message")
        try:
            return self._read(raw)
        finally:
            del raw  # an error keeps this frame until the collector runs, and a large message with it

    async def _messages(self, requests: AsyncIterator[bytes], visit: Visit) -> AsyncIterator[Any]:
        count = 0
        async with _iterated(requests) as messages:
            while (raw := await self._gate.message(messages, self._rule, visit)) is not None:
                count += 1
                if self._rule.open and count > MAX_ASKED:
                    raise Refusal.of("PAYLOAD_TOO_LARGE", f"A call has at most {MAX_ASKED} messages")
                try:
                    message = self._read(raw)
                finally:
                    del raw
                yield message

    def _read(self, raw: bytes) -> Any:
        if len(raw) > self._rule.max_message:
            del raw
            words = f"A message of this call has at most {self._rule.max_message} bytes"
            raise Refusal.of("PAYLOAD_TOO_LARGE", words)
        try:
            return self._parse(raw)
        except Exception:  # protobuf's runtimes raise different ones
            raise Refusal.of("VALIDATION_FAILED", "The message cannot be decoded") from None


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


@asynccontextmanager
async def _iterated(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The messages of a call. gRPC's iterator would keep the last one, if it is not closed."""
    iterator: Any = aiter(requests)
    try:
        yield iterator
    finally:
        await iterator.aclose()


async def _unknown(_request: Any, _context: Any) -> Any:
    raise Refusal.of("NOT_IMPLEMENTED", "There is no such method")
