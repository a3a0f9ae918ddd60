"""Headers of requests that must be given once, and headers that every answer carries. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pilothouse.access.errors import Refusal

Raw = Sequence[tuple[bytes, bytes]]
"""The headers of a scope or message: lower-case names and values."""

SINGLE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"idempotency-key",
        b"if-match",
        b"last-event-id",
        b"origin",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upload-length",
        b"upload-offset",
        b"x-content-sha256",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
    }
)
"""Request headers with one value. Of two, a proxy in front might believe the one and the server the other."""

ALWAYS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""Of every answer."""

API_POLICY = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
"""The content security policy of what is no page: even if a browser takes it for one, nothing in it runs."""

PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"font-src 'self' data:; connect-src 'self'; manifest-src 'self'; worker-src 'self' blob:; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""Of pages of the product: nothing from another host, no script but the package's files."""


def check_single(headers: Raw) -> None:
    """Raise ``HEADER_REPEATED`` if a header that must be given once is there twice."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in SINGLE:
            if name in seen:
                raise repeated(name.decode("latin-1"))
            seen.add(name)


def repeated(name: str) -> Refusal:
    """The refusal of a request that says something twice that it must say once."""
    refusal = Refusal.of("HEADER_REPEATED", f"{name} must be given once", field=name)
    refusal.headers["Connection"] = "close"
    return refusal


def completed(headers: Raw, *, api: bool) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that were not given. ``api``: the path is that of the API."""
    given = {name.lower(): value for name, value in headers}
    missing = [pair for pair in ALWAYS if pair[0] not in given]
    if b"content-security-policy" not in given:
        page = not api and given.get(b"content-type", b"").startswith(b"text/html")
        missing.append((b"content-security-policy", PAGE_POLICY if page else API_POLICY))
    if api and b"cache-control" not in given:
        missing.append((b"cache-control", b"no-store"))
    return [*headers, *missing]
