"""Sends artifacts to the server and fetches them, over any number of connections (docs/artifacts.md)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog

from pilothouse.agent.builtin.base import ActionFailed
from pilothouse.agent.builtin.workfiles import checksum
from pilothouse.agent.server_http import LATER, ServerHttp
from pilothouse.wire.backoff import Backoff

CHUNK = 256 << 10
RENEWALS = 5
"""How often a new address is asked for without any progress."""

log = structlog.get_logger("agent.artifacts")

Told = Callable[[int], None]


class Again(Exception):
    """The request is to be repeated; the message says why."""


class Stale(Again):
    """The address or the offset is not the right one any more."""


class Transfer:
    """Raises ActionFailed for what the server refuses; otherwise it tries until it succeeds."""

    def __init__(self, server: ServerHttp) -> None:
        self._server = server

    async def upload(
        self, step_run_id: str, announced: dict[str, Any], file: Path, told: Told
    ) -> dict[str, Any]:
        """Send a file; ``told`` is called with the bytes that the server has. Returns the last answer."""
        path = f"/api/v1/step-runs/{quote(step_run_id, safe='')}/artifacts"
        backoff, renewals = Backoff(), 0
        while True:
            try:
                upload = await self._call("POST", path, json=announced)
                while upload["state"] != "ready":
                    told(upload["offset"])
                    upload = await self._part(upload, file)
                    backoff, renewals = Backoff(), 0
                told(upload["size"])
                return upload
            except Again as again:
                renewals += isinstance(again, Stale)
                if renewals > RENEWALS:
                    raise ActionFailed(f"the server accepts no part of the artifact ({again})") from None
                log.info("agent.upload_interrupted", reason=str(again))
                await backoff.sleep()

    async def _part(self, upload: dict[str, Any], file: Path) -> dict[str, Any]:
        start, size = upload["offset"], upload["size"]
        length = min(upload["part_size"], size - start)
        digest = await asyncio.to_thread(checksum, file, start, length)
        headers = {
            "Content-Range": f"bytes {start}-{start + length - 1}/{size}" if length else f"bytes */{size}",
            "Content-Length": str(length),
            "X-Content-SHA256": digest,
        }
        return await self._call("PUT", upload["url"], headers=headers, content=_slice(file, start, length))

    async def available(self, step_run_id: str) -> list[dict[str, Any]]:
        """The artifacts of the step's run."""
        path, backoff = f"/api/v1/step-runs/{quote(step_run_id, safe='')}/available-artifacts", Backoff()
        while True:
            try:
                found = await self._call("GET", path)
                return list(found["artifacts"])
            except Again as again:
                log.info("agent.artifacts_not_listed", reason=str(again))
                await backoff.sleep()

    async def download(self, step_run_id: str, artifact: dict[str, Any], target: Path, told: Told) -> None:
        """Fetch an artifact into a file and verify it. After a cut it goes on where it was."""
        backoff, digest, have = Backoff(), hashlib.sha256(), 0
        await asyncio.to_thread(target.touch, 0o600)
        while True:
            before = have
            try:
                async for data in self._content(artifact, have):
                    have += len(data)
                    if have > artifact["size"]:
                        raise ActionFailed(f"artifact {artifact['name']} is larger than was announced")
                    digest.update(data)
                    await asyncio.to_thread(_append, target, data)
                    told(have)
                if have == artifact["size"]:
                    break
                raise Again("the connection was closed")
            except Again as again:
                log.info("agent.download_interrupted", reason=str(again))
                backoff = Backoff() if have > before else backoff
                await backoff.sleep()
                artifact = await self._renewed(step_run_id, artifact)
        if digest.hexdigest() != artifact["sha256"]:
            raise ActionFailed(f"artifact {artifact['name']} has another SHA-256 than was announced")

    async def _renewed(self, step_run_id: str, artifact: dict[str, Any]) -> dict[str, Any]:
        for found in await self.available(step_run_id):
            if found["id"] == artifact["id"]:
                return found
        raise ActionFailed(f"artifact {artifact['name']} was deleted meanwhile")

    async def _content(self, artifact: dict[str, Any], start: int) -> AsyncIterator[bytes]:
        if start and start == artifact["size"]:
            return
        url = _own(artifact["download_url"])
        headers = {**self._server.headers, **({"Range": f"bytes={start}-"} if start else {})}
        client = await self._server.client()
        from httpx import TransportError  # imported by now, in a thread

        try:
            async with client.stream("GET", self._server.url(url), headers=headers) as response:
                if response.status_code in LATER or response.status_code in (401, 404):
                    raise Again(f"status {response.status_code}")
                if response.status_code != (206 if start else 200):
                    raise ActionFailed(
                        f"cannot fetch the artifact: the server answers {response.status_code}"
                    )
                async for data in response.aiter_raw():
                    yield data
        except TransportError as error:
            raise Again(self._server.reason(error)) from None

    async def _call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> dict[str, Any]:
        """One request with a JSON answer. Raises Again, ActionFailed."""
        client = await self._server.client()
        from httpx import TransportError  # imported by now, in a thread

        given = {**self._server.headers, **(headers or {})}
        try:
            response = await client.request(method, self._server.url(_own(path)), headers=given, **more)
        except TransportError as error:
            raise Again(self._server.reason(error)) from None
        if response.status_code in LATER:
            raise Again(f"status {response.status_code}")
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ActionFailed(f"the server answers {response.status_code} and no JSON")
        if response.status_code < 300:
            return body
        if method == "PUT" and (response.status_code == 401 or body.get("code") == "UPLOAD_OFFSET_CONFLICT"):
            raise Stale(str(body.get("code")))
        raise ActionFailed(str(body.get("message") or f"the server answers {response.status_code}"))


def _own(path: Any) -> str:
    if not isinstance(path, str) or not path.startswith("/") or path.startswith("//"):
        raise ActionFailed("the artifact is not on this agent's server")
    return path


async def _slice(file: Path, start: int, length: int) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(start)
        while length > 0:
            data = await asyncio.to_thread(opened.read, min(CHUNK, length))
            if not data:
                return
            length -= len(data)
            yield data


def _append(file: Path, data: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(data)
