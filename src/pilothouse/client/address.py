"""Server addresses as given by users."""

from __future__ import annotations

from urllib.parse import urlsplit

from pilothouse.client.errors import ClientError


class BadAddress(ClientError):
    """The text is not a valid server address."""

    code = "ADDRESS_INVALID"


def server_address(text: str) -> str:
    """``http(s)://host[:port][/prefix]`` without a trailing slash; a bare ``host:port`` means http.

    Raises BadAddress. Credentials in the address are refused, since they would end up in files and logs.
    """
    given = text.strip()
    if not given.isprintable() or " " in given:
        raise BadAddress(f"{given!r} is not a server address: it contains spaces or control characters")
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise BadAddress(f"{given!r} is not a server address: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise BadAddress(f"{given!r} is not a server address such as http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise BadAddress("an address must not contain a username or password; log in instead")
    path = parts.path.rstrip("/").removesuffix("/api/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"
