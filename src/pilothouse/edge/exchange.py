"""One request or socket at the edge: request id, client address, token, caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal, token_invalid
from pilothouse.access.model import Principal
from pilothouse.edge.answers import Answers
from pilothouse.edge.authentication import Authentication
from pilothouse.edge.headers import repeated
from pilothouse.edge.limits import CONSOLE, DEFAULT, RateLimits, RouteLimit
from pilothouse.edge.network import FORWARDING, TrustedProxies, is_loopback, is_own_origin
from pilothouse.edge.pace import Pace

COOKIE = "pilot_token"
_KEY = "pilothouse.exchange"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Edge:
    """The configuration of the HTTP edge. Body limits in bytes, by path prefix."""

    authentication: Authentication
    answers: Answers
    limits: RateLimits
    services: Mapping[type, object]
    rate_limits: Mapping[tuple[str, str], RouteLimit]
    envelope_prefixes: tuple[str, ...]
    allowed_origins: frozenset[str]
    proxies: TrustedProxies
    body_limit: int
    body_limits: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)

    def envelope(self, path: str) -> bool:
        """Whether this path uses the Arcentra envelope."""
        return any(path == prefix or path.startswith(prefix + "/") for prefix in self.envelope_prefixes)


class Exchange:
    """The state of an HTTP request or WebSocket, created by the gate; see :meth:`of`."""

    __slots__ = (
        "_caller",
        "_refusal",
        "address",
        "counted",
        "edge",
        "headers",
        "https",
        "limit",
        "local",
        "permitted",
        "rate",
        "request_id",
        "scope",
    )

    def __init__(self, edge: Edge, scope: Scope) -> None:
        self.edge = edge
        self.scope = scope
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.request_id = given if _SANE_REQUEST_ID.fullmatch(given) else f"req-{uuid7()}"
        peer = (scope.get("client") or ("", 0))[0]
        behind_proxy = edge.proxies.trusts(peer)
        # Several lines are one list: whoever reads only the first lets callers forge the last hop.
        forwarded = ",".join(self.headers.getlist("x-forwarded-for"))
        self.address = edge.proxies.client(peer, forwarded) if behind_proxy else peer
        scheme = self.headers.get("x-forwarded-proto", "") if behind_proxy else ""
        self.https = (scheme or scope["scheme"]) in ("https", "wss")
        #: Whether the caller is on this machine, and no proxy is in between.
        self.local = is_loopback(peer) and not any(name in self.headers for name in FORWARDING)
        #: Whether this was counted, the name of its limit, and the headers that say so.
        self.counted = False
        self.limit = DEFAULT
        self.rate: dict[str, str] = {}
        #: The checks of the route that this request has passed.
        self.permitted: tuple[object, ...] = ()
        self._caller: Principal | None = None
        self._refusal: Refusal | None = None
        scope[_KEY] = self

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """The exchange of this scope; the gate must be installed (:func:`web.install`)."""
        found = scope[_KEY]
        assert isinstance(found, Exchange)
        return found

    async def caller(self) -> Principal:
        """The caller, identified by ``Authorization: Bearer``, otherwise by cookie.

        Raises :class:`AuthError`; ``ORIGIN_FORBIDDEN`` if a page of another origin uses the cookie for a
        change.
        """
        if self._caller is None:
            if self._refusal is not None:
                raise self._refusal
            try:
                self._caller = await self.principal(self.bearer())
            except Refusal as error:
                self._refusal = error
                raise
        return self._caller

    def forget_caller(self) -> None:
        """Identify the caller again, with their current rights, when they are asked for next."""
        self._caller = None
        self.permitted = ()

    async def principal(self, token: str | None) -> Principal:
        """The principal of ``token``; without one, that of the cookie, whose requests have a limit of their own."""
        by_cookie = token is None
        if token is None:
            token = self.cookie()
            if token:
                self._check_origin()
        principal = await self.edge.authentication.authenticate(token, self.address, self.request_id)
        if by_cookie:
            self.limit = CONSOLE
        return principal

    @property
    def known_caller(self) -> Principal | None:
        """The caller, if they were identified already."""
        return self._caller

    def count(self, caller: Principal | None) -> None:
        """Count the opening of a socket as a request of this caller.

        Raises :class:`RateLimited`; agents have no limit.
        """
        if caller is None or caller.kind == "user":
            self.counted = True
            count = self.edge.limits.request(caller, self.address, self.limit)
            if count is not None:
                count.check()

    def bearer(self) -> str | None:
        """The token of the ``Authorization`` header; ``None`` without the header."""
        header = self.headers.get("authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise token_invalid()
        return token.strip()

    def cookie(self) -> str:
        """The token of the login cookie, or ``""``. Raises ``HEADER_REPEATED`` for two: hosts of a parent domain can
        add one."""
        header = self.headers.get("cookie", "")
        if header.count(f"{COOKIE}=") > 1:
            names = [part.partition("=")[0].strip() for part in header.split(";")]
            if names.count(COOKIE) > 1:
                raise repeated(COOKIE)
        return cookie_parser(header).get(COOKIE, "")

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer: the request id and, if it was counted, the rate limit."""
        pairs = {"x-request-id": self.request_id, **self.rate}
        return [(name.lower().encode(), value.encode()) for name, value in pairs.items()]

    def _check_origin(self) -> None:
        # Browsers let any page open a WebSocket, which can change things: it requires our Origin as well.
        if self.scope["type"] == "http" and self.scope["method"] in _SAFE_METHODS:
            return
        origin = self.headers.get("origin", "")
        if not is_own_origin(origin, self.headers.get("host", ""), self.edge.allowed_origins):
            raise Refusal.of(
                "ORIGIN_FORBIDDEN", "With a cookie, this is only allowed for pages of the server's own origin"
            )
