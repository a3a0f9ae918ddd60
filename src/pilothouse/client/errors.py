"""Errors of the client; each has a stable ``code``."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base class of the client's errors."""

    code = "CLIENT_ERROR"


class BadToken(ClientError):
    """The token is malformed. The message names its source and does not contain it."""

    code = "TOKEN_INVALID"


class Unreachable(ClientError):
    """No answer: the connection was refused (``refused``) or broke, or the name does not resolve.

    ``proxied``: the request went through a proxy, which the message names.
    """

    code = "UNREACHABLE"

    def __init__(self, message: str, *, refused: bool = False, proxied: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.proxied = proxied


class ProxyUnusable(ClientError):
    """The environment configures a proxy that cannot be used (wire/proxies.py)."""

    code = "PROXY_UNUSABLE"


class UnexpectedAnswer(ClientError):
    """The server's answer lacks what its API promises: another version, or something that is no Pilothouse server."""

    code = "UNEXPECTED_ANSWER"


class ApiProblem(ClientError):
    """The server refused the request.

    ``status`` is the HTTP status; ``code`` the server's code (``RUN_NOT_FOUND``), or ``HTTP_<status>`` if the
    answer was not from Pilothouse (for example from a proxy); ``retry_after`` is in seconds.
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
        """Whether the same request may succeed later."""
        return self.status in (429, 502, 503, 504)
