"""`http/request`: one HTTP request (docs/pipelines.md)."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pilothouse.agent.builtin.base import ActionFailed, Arguments, Voice
from pilothouse.agent.executors.base import StepTask
from pilothouse.wire.durations import DurationError, parse_duration
from pilothouse.wire.proxies import BadProxy, proxy_for

if TYPE_CHECKING:
    import httpx

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
MAX_BODY = 16 << 20  # bytes that are sent
MAX_RESPONSE = 16 << 20  # the most that `maxBytes` may be
DEFAULT_RESPONSE = 1 << 20
MAX_OUTPUT = 256 << 10  # bytes of the output `body`
MAX_HEADERS, MAX_HEADER = 100, 8192
MAX_REDIRECTS = 10
MAX_TIMEOUT = 600.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SHOWN = 1000  # characters of an unexpected answer in the log

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """The request, and what its answer must be. ``expected``: ranges of statuses."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    timeout: float
    most: int
    redirects: int
    expected: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, task: StepTask) -> Wanted:
        """The step's arguments. Raises ActionFailed."""
        args = Arguments(task)
        headers = _headers(task.args.get("headers"))
        content = _content(task.args, headers)
        method = args.text("method", "POST" if content is not None else "GET").upper()
        if method not in METHODS:
            raise ActionFailed(f"args.method must be one of {', '.join(METHODS)}")
        url = args.text("url")
        _check_url(url)
        return cls(
            method,
            url,
            headers,
            content,
            _timeout(args.text("timeout", "30s")),
            int(args.number("maxBytes", DEFAULT_RESPONSE, 0, MAX_RESPONSE)),
            MAX_REDIRECTS if args.flag("followRedirects", True) else 0,
            _statuses(task.args.get("expectStatus")),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """The last answer, and the requests that led to it."""

    status: int
    headers: dict[str, str]
    body: bytes


async def http_request(task: StepTask, voice: Voice) -> None:
    """Send the request and check the status. Raises ActionFailed."""
    wanted = Wanted.read(task)
    began = time.monotonic()
    try:
        async with asyncio.timeout(wanted.timeout):
            answered = await _sent(wanted, voice)
    except TimeoutError:
        raise ActionFailed(f"no answer within {wanted.timeout:g} s") from None
    took = round(time.monotonic() - began, 3)
    voice.say(f"status {answered.status}, {len(answered.body)} bytes, {took:g} s")
    text = answered.body[:MAX_OUTPUT].decode("utf-8", "replace").replace("\0", "\ufffd")
    voice.output("status", answered.status)
    voice.output("headers", answered.headers)
    voice.output("body", text)
    if not any(least <= answered.status <= most for least, most in wanted.expected):
        for line in text[:SHOWN].splitlines():
            voice.say(line)
        raise ActionFailed(f"the status {answered.status} is not the one expected")


async def _sent(wanted: Wanted, voice: Voice) -> Answered:
    method, url, headers, content = wanted.method, wanted.url, wanted.headers, wanted.content
    for left in range(wanted.redirects, -1, -1):
        answered = await _once(method, url, headers, content, wanted.most)
        location = answered.headers.get("location", "")
        if answered.status not in REDIRECTS or not location or not wanted.redirects:
            return answered
        if not left:
            break
        target = urljoin(url, location)
        _check_url(target)
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
            raise ActionFailed("the answer redirects from https to http, which is not followed")
        if _origin(url) != _origin(target):
            headers = {name: value for name, value in headers.items() if name.lower() not in _PRIVATE}
        if answered.status == 303 or (answered.status in (301, 302) and method == "POST"):
            method, content = "HEAD" if method == "HEAD" else "GET", None
            headers = {n: v for n, v in headers.items() if not n.lower().startswith("content-")}
        voice.say(f"redirected to {_origin(target)}")
        url = target
    raise ActionFailed(f"more than {wanted.redirects} redirects")


async def _once(method: str, url: str, headers: dict[str, str], content: bytes | None, most: int) -> Answered:
    opened = await asyncio.to_thread(_client, url)
    from httpx import HTTPError, InvalidURL  # imported by now, in a thread

    try:
        async with opened as client:
            given = {"Accept-Encoding": "identity", **headers}
            async with client.stream(method, url, headers=given, content=content) as response:
                body = bytearray()
                async for data in response.aiter_raw():
                    body += data
                    if len(body) > most:
                        raise ActionFailed(f"the answer has more than {most} bytes (args.maxBytes)")
                return Answered(response.status_code, _shown_headers(response), bytes(body))
    except InvalidURL:
        raise ActionFailed("args.url is not a URL") from None
    except HTTPError as error:
        raise ActionFailed(f"the request failed: {str(error) or type(error).__name__}") from None


def _client(url: str) -> httpx.AsyncClient:
    import httpx

    try:
        proxy = proxy_for(url)
    except BadProxy as error:
        raise ActionFailed(str(error)) from None
    verify: ssl.SSLContext | bool = ssl.create_default_context() if url.startswith("https:") else False
    return httpx.AsyncClient(
        verify=verify, trust_env=False, proxy=proxy.url if proxy else None, timeout=MAX_TIMEOUT
    )


def _shown_headers(response: httpx.Response) -> dict[str, str]:
    pairs = list(response.headers.items())[:MAX_HEADERS]
    return {name.lower(): value[:MAX_HEADER] for name, value in pairs if name.lower() != "set-cookie"}


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > 8000:
        raise ActionFailed("args.url must be an http or https URL")
    if parts.username or parts.password:
        raise ActionFailed("args.url must not hold a password: use args.headers with a secret")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _headers(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MAX_HEADERS:
        raise ActionFailed(f"args.headers must be a map of at most {MAX_HEADERS} texts")
    headers = {}
    for name, value in given.items():
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if not _HEADER_NAME.fullmatch(name) or not isinstance(text, str) or re.search(r"[\r\n\0]", text):
            raise ActionFailed("args.headers has a name or value that no header can have")
        if name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
            raise ActionFailed(f"args.headers cannot set {name}")
        headers[name] = text
    return headers


def _content(args: Any, headers: dict[str, str]) -> bytes | None:
    body, document = args.get("body"), args.get("json")
    if body is not None and document is not None:
        raise ActionFailed("http/request takes args.body or args.json, not both")
    if document is not None:
        headers.setdefault("Content-Type", "application/json")
        body = json.dumps(document, ensure_ascii=False)
    if body is None:
        return None
    content = str(body).encode("utf-8", "replace")
    if len(content) > MAX_BODY:
        raise ActionFailed(f"the body has more than {MAX_BODY} bytes")
    return content


def _timeout(text: str) -> float:
    try:
        seconds = float(text) if re.fullmatch(r"[0-9.]+", text) else parse_duration(text).seconds
    except (DurationError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ActionFailed(f"args.timeout must be a duration of at most {MAX_TIMEOUT:g} s")
    return seconds


def _statuses(given: Any) -> tuple[tuple[int, int], ...]:
    """``200``, ``2xx``, ``200-204``, or a list of these."""
    items = given if isinstance(given, list) else str("2xx" if given in (None, "") else given).split(",")
    found = []
    for item in items:
        text = str(item).strip().lower()
        if match := re.fullmatch(r"([1-5])xx", text):
            found.append((int(match[1]) * 100, int(match[1]) * 100 + 99))
        elif match := re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", text):
            found.append((int(match[1]), int(match[2] or match[1])))
        else:
            raise ActionFailed("args.expectStatus must be statuses such as 200, 2xx or 200-204")
    return tuple(found)
