"""What can go wrong when talking to a server; each error has a stable ``code``."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of the client's errors."""

    code = "CLIENT_ERROR"


class BadToken(ClientError):
    """This is no token. The text says where it came from, never what it is."""

    code = "TOKEN_INVALID"


class Unreachable(ClientError):
    """No answer came: nobody listens there (``refused``), the name does not resolve, or the connection broke.

    ``proxied``: it was asked through a proxy, which the message names.
    """

    code = "UNREACHABLE"

    def __init__(self, message: str, *, refused: bool = False, proxied: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.proxied = proxied


class ProxyUnusable(ClientError):
    """The environment names a proxy that cannot be used (wire/proxies.py)."""

    code = "PROXY_UNUSABLE"


class ApiProblem(ClientError):
    """The server refused.

    ``status`` is the HTTP status; ``code`` the server's own word for it (``RUN_NOT_FOUND``), or ``HTTP_<status>``
    where the answer was not Pilothouse's (a proxy's, say); ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Any = None,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may well succeed a little later."""
        return self.status in (429, 502, 503, 504)
