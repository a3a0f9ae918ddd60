"""Standard Webhooks (https://www.standardwebhooks.com): a signed POST to a checked address.

The libraries are imported when the first one is sent.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from datetime import UTC, datetime
from functools import cache

import pilothouse
from pilothouse.pipelines.notifications.guard import Guard, Refused
from pilothouse.pipelines.notifications.model import MAX_RESPONSE, Outcome

CONNECT, ANSWER, WHOLE = 5.0, 10.0, 15.0
"""Seconds to connect to one address, to wait for data, and for everything."""

MIN_KEY = 16
"""Bytes of a signing key at least; the specification recommends 24 to 64."""

MAX_LOOKUPS = 32

GONE = 410


class KeyInvalid(Exception):
    """The secret is not a signing key."""


def signed(secret: str, message: str, body: str, at: datetime) -> dict[str, str]:
    """The headers of a message with this id. Raises :class:`KeyInvalid`."""
    import base64

    from standardwebhooks import Webhook

    text = secret.strip().removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise KeyInvalid from None
    if len(key) < MIN_KEY:
        raise KeyInvalid
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(message, at, body),
    }


class Webhooks:
    """Sends webhooks. Belongs to one event loop."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)

    async def send(self, url: str, secret: str, message: str, body: str) -> Outcome:
        """Deliver a document; what went wrong is in the outcome."""
        try:
            headers = signed(secret, message, body, datetime.now(UTC))
        except KeyInvalid:
            reason = "the secret is not a key of Standard Webhooks: whsec_ and 16 or more bytes in base64"
            return Outcome(again=False, reason=reason)
        import httpcore

        failures = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
        try:
            async with asyncio.timeout(WHOLE):
                code, answer = await self._post(url, headers, body)
        except Refused as error:
            return Outcome(again=False, reason=str(error))
        except TimeoutError:
            return Outcome(reason=f"the receiver did not answer within {WHOLE:g} s")
        except (*failures, OSError, UnicodeError) as error:  # an error of ours is logged by the sender
            return Outcome(reason=why(error))
        if 200 <= code < 300:
            return Outcome(delivered=True, code=code)
        reason = f"the receiver answered {code}"
        if 300 <= code < 400:
            reason += "; redirects are not followed"
        return Outcome(again=code != GONE, code=code, reason=reason, response=shown(answer, secret))

    async def _post(self, url: str, headers: dict[str, str], body: str) -> tuple[int, bytes]:
        """Status code, and the beginning of the answer."""
        import httpcore

        from pilothouse.pipelines.notifications.connections import CheckedBackend

        all_headers: list[tuple[str | bytes, str | bytes]] = [
            *headers.items(),
            ("content-type", "application/json"),
            ("user-agent", f"Pilothouse/{pilothouse.__version__}"),
            ("accept-encoding", "identity"),
        ]
        limits = {"connect": CONNECT, "read": ANSWER, "write": ANSWER, "pool": CONNECT}
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=_tls(), network_backend=CheckedBackend(self._checked), max_connections=1
            ) as pool,
            pool.stream(
                "POST", url, headers=all_headers, content=body.encode(), extensions={"timeout": limits}
            ) as response,
        ):
            found = b""
            if 200 <= response.status < 300:
                return response.status, found
            async for chunk in response.aiter_stream():
                found += chunk[: MAX_RESPONSE - len(found)]
                if len(found) >= MAX_RESPONSE:
                    break
            return response.status, found

    async def _checked(self, host: str, port: int) -> list[str]:
        """The addresses of a host, all of which are allowed. Raises :class:`Refused`."""
        name = host.strip("[]")
        async with self._lookups:
            found = await _resolved(name, port)
        addresses = list(dict.fromkeys(found))[:4]
        for address in addresses:
            self._guard.check(name, address)
        return addresses


async def _resolved(host: str, port: int) -> list[str]:
    """The addresses of a host. In a thread of its own, since the event loop's few are for the database, and a
    name server that does not answer holds a thread for long; it does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def resolve() -> None:
        found: list[str] = []
        failed: Exception | None = None
        try:
            found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            failed = error
        try:
            loop.call_soon_threadsafe(_tell, answer, found, failed)
        except RuntimeError:
            return  # the server has stopped

    threading.Thread(target=resolve, name="notification lookup", daemon=True).start()
    return await answer


def _tell(answer: asyncio.Future[list[str]], found: list[str], failed: Exception | None) -> None:
    if answer.done():
        return
    if failed is None:
        answer.set_result(found)
    else:
        answer.set_exception(failed)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def why(error: Exception) -> str:
    """Why a request failed, without its address."""
    import httpcore

    from pilothouse.pipelines.notifications.connections import MAX_ANSWER, AnswerTooLong

    if isinstance(error, socket.gaierror | UnicodeError):
        return "the name of the receiver cannot be resolved"
    if isinstance(error, httpcore.ConnectTimeout):
        return "the receiver cannot be reached: it does not answer"
    if isinstance(error, httpcore.ConnectError):
        cause = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            return "the receiver has no valid certificate"
        return "the receiver cannot be reached"
    if isinstance(error, AnswerTooLong):
        return f"the receiver's answer is not over after {MAX_ANSWER >> 10} KiB"
    if isinstance(error, httpcore.TimeoutException):
        return f"the receiver did not answer within {ANSWER:g} s"
    return f"the receiver broke off the connection ({type(error).__name__})"


def shown(answer: bytes, secret: str) -> str:
    """The beginning of an answer as text, without control characters and the signing key."""
    text = answer.decode("utf-8", "replace").replace(secret, "***")
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return clean.encode()[:MAX_RESPONSE].decode("utf-8", "ignore")
