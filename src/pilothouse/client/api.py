"""Requests to a server: credentials, errors, and retries."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from pilothouse import __version__
from pilothouse.client.address import server_address
from pilothouse.client.credential import clean_token
from pilothouse.client.errors import ApiProblem, ProxyUnusable, UnexpectedAnswer, Unreachable
from pilothouse.wire.backoff import Backoff
from pilothouse.wire.proxies import BadProxy, Proxy, proxy_for

BASE = "/api/v1"
RETRIES = 3
PATIENCE = 60.0
"""Total seconds that a request waits because of Retry-After."""

BUSY_PAUSE = 10.0
"""Maximum seconds between two attempts while the server is busy, unless its Retry-After is longer."""

_SAFE = frozenset({"GET", "HEAD", "PUT"})

Content = Callable[[], AsyncIterator[bytes]]
"""Returns a new iterator over the body of a request."""


class Api:
    """One server, one credential. Paths are relative to ``/api/v1``; results are decoded JSON.

    A request that was certainly not executed (no connection, 429) is always retried; one that failed midway
    only if it is idempotent: reads, PUTs, and POSTs with an ``Idempotency-Key``.
    """

    def __init__(
        self,
        server: str,
        token: str = "",
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
        on_wait: Callable[[str], None] | None = None,
        product: str = "pilothouse",
    ) -> None:
        self.server = server_address(server)
        #: The request that was answered last; empty before.
        self.last_answer = ""
        self._on_wait = on_wait or (lambda _reason: None)
        token = self._token = clean_token(token)
        headers = {"User-Agent": f"{product}/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._proxy = _proxy(self.server) if transport is None else None
        # With an explicit transport, since httpx would also send requests to this machine through a proxy.
        self._http = httpx.AsyncClient(
            base_url=self.server + BASE,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            transport=transport or _transport(self.server, self._proxy),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        keyed: bool = False,
    ) -> Any:
        """Send a request; returns the JSON of the answer, ``None`` if it is empty. ``keyed``: with an
        Idempotency-Key.

        Raises ApiProblem, Unreachable.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())} if keyed else {}

        def build() -> httpx.Request:
            return self._http.build_request(method, path, params=_given(params), json=json, headers=headers)

        return self._read(await self._send(build, again=keyed or method in _SAFE))

    async def detail(self, method: str, path: str, **more: Any) -> Any:
        """Like :meth:`call`, for the Arcentra families: returns the ``detail`` of the envelope."""
        body = await self.call(method, path, **more)
        return None if body is None else body.get("detail")

    def _read(self, response: httpx.Response) -> Any:
        self.last_answer = f"{response.request.method} {response.url.path}"
        answer = decoded(response)
        if answer is not None and not isinstance(answer, dict):
            raise UnexpectedAnswer(
                f"{response.url.host}: {self.last_answer} was answered with JSON that is no object: "
                "is this a Pilothouse server?"
            )
        return answer

    async def upload(self, path: str, content: Content, headers: Mapping[str, str], **params: str) -> Any:
        """POST a body with its checksum, which makes the request idempotent."""

        def build() -> httpx.Request:
            return self._http.build_request(
                "POST", path, params=_given(params), content=content(), headers=headers
            )

        return self._read(await self._send(build, again=True))

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        params: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Open a streamed answer, without retries. Raises ApiProblem, ``httpx.TransportError``."""
        timeout = httpx.Timeout(self._http.timeout.connect, read=read_timeout or self._http.timeout.read)
        request = self._http.build_request(
            "GET", path, params=_given(params), headers=headers, timeout=timeout
        )
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code >= 300:
                await response.aread()
                raise self._refusal(response)
            yield response
        finally:
            await response.aclose()

    async def _send(self, build: Callable[[], httpx.Request], *, again: bool) -> httpx.Response:
        backoff, breaks, waited, said = Backoff(0.1, 2.0), 0, 0.0, ""
        while True:
            try:
                response = await self._http.send(build())
            except httpx.TransportError as error:
                breaks += 1
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                if breaks > RETRIES or not (again or unsent):
                    raise self.unreachable(error) from error
                await asyncio.sleep(backoff.delay())
                continue
            if response.status_code < 300:
                return response
            refusal = self._refusal(response)
            wait = _pause(refusal, waited) or backoff.delay()
            if waited + wait > PATIENCE or not _worth_waiting(refusal, again):
                raise refusal
            waited += wait
            if wait >= 1 and refusal.message != said:
                said = refusal.message
                until = f"in {wait:.0f} s" if refusal.status == 429 else f"for up to {PATIENCE:.0f} s"
                self._on_wait(f"{said.split('. ')[0].rstrip('.')}; trying again {until}")
            await asyncio.sleep(wait)

    def _refusal(self, response: httpx.Response) -> ApiProblem:
        """Like :func:`problem`; if the answer is not from a Pilothouse server, the message names the proxy."""
        refusal = problem(response)
        if self._proxy is None or not refusal.code.startswith("HTTP_"):
            return refusal
        refusal.message += f"; asked through {self._proxy}"
        return refusal

    def unreachable(self, error: httpx.TransportError) -> Unreachable:
        """The error for a transport error, with the proxy that was used; never contains the token."""
        said = words(error)
        if len(self._token) >= 8:
            said = said.replace(self._token, "***")
        through = f" through {self._proxy}" if self._proxy else ""
        proxied = self._proxy is not None
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(f"{self.server} does not answer{through} ({said})", proxied=proxied)
        refused = isinstance(system_error(error), ConnectionRefusedError) and not proxied
        message = f"cannot reach {self.server}{through}: {said}"
        return Unreachable(message, refused=refused, proxied=proxied)


def _transport(server: str, proxy: Proxy | None) -> httpx.AsyncHTTPTransport:
    # Loading certificates is slow, and only https needs them.
    return httpx.AsyncHTTPTransport(verify=server.startswith("https:"), proxy=proxy.url if proxy else None)


def _proxy(server: str) -> Proxy | None:
    try:
        return proxy_for(server)
    except BadProxy as error:
        raise ProxyUnusable(str(error)) from None


def _worth_waiting(refusal: ApiProblem, again: bool) -> bool:
    if refusal.status == 429:
        return refusal.retry_after is not None
    return refusal.status == 503 and refusal.retry_after is not None and again


def _pause(refusal: ApiProblem, waited: float) -> float:
    """Seconds before the next attempt; 0 if the server gave none. Increases while the server is busy."""
    asked = refusal.retry_after or 0.0
    if refusal.status == 429 or not asked:
        return asked
    return max(asked, min(waited + asked, BUSY_PAUSE))  # 1, 2, 4, 8, 10, 10, …


class Fields(dict[str, Any]):
    """A JSON object of an answer. A key that it lacks is a mistake of the server, which :class:`UnexpectedAnswer`
    names."""

    __slots__ = ("_asked",)

    def __init__(self, found: Mapping[str, Any], asked: str) -> None:
        super().__init__(found)
        self._asked = asked

    def __missing__(self, key: str) -> Any:
        raise UnexpectedAnswer(
            f"{self._asked} was answered without '{key}': is this a Pilothouse server, and of this version?"
        )


def decoded(response: httpx.Response) -> Any:
    """The JSON of a successful answer. Raises ApiProblem if it is not JSON."""
    asked = f"{response.request.method} {response.url.path}"
    if not response.content:
        return None
    try:
        return response.json(object_hook=lambda found: Fields(found, f"{response.url.host}: {asked}"))
    except ValueError:
        kind = response.headers.get("content-type", "no type")
        raise ApiProblem(
            response.status_code,
            "UNEXPECTED_ANSWER",
            f"{response.url.host} answered with {kind}, not JSON: is this a Pilothouse server?",
        ) from None


def problem(response: httpx.Response) -> ApiProblem:
    """The error of an answer, in either of the server's two formats or from a proxy."""
    try:
        body = response.json()
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    code = body.get("errorCode") or body.get("code")
    message = body.get("message") or body.get("errMsg") or body.get("error")
    return ApiProblem(
        response.status_code,
        code if isinstance(code, str) else f"HTTP_{response.status_code}",
        str(message or f"the server answered {response.status_code} {response.reason_phrase}".rstrip()),
        body.get("details"),
        str(body.get("request_id") or body.get("requestId") or response.headers.get("x-request-id", "")),
        _seconds(response.headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value not in (None, "")}


def words(error: BaseException) -> str:
    """The message of the underlying system error if there is one, otherwise a description of the error."""
    found = system_error(error)
    if found is not None:
        # asyncio replaces the system's message by "Connect call failed" and the address.
        plain = found.errno and found.errno > 0 and str(found.strerror).startswith("Connect call failed")
        return os.strerror(found.errno or 0).lower() if plain else str(found.strerror)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError | httpx.CloseError):
        return "the server closed the connection"
    return str(error) or type(error).__name__


def system_error(error: BaseException) -> OSError | None:
    """The underlying system error; the first one if several addresses were tried."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__
    return None
