"""How much of an upload has been sent, as the client tells it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx

from pilothouse.client.api import Api
from pilothouse.client.pipelines import Blobs

SIZE = 600 << 10


async def test_bytes_are_counted_and_counted_anew_after_a_retry(tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(bytes(SIZE))
    received: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        received.append(len(request.content))
        if len(received) == 1:
            return httpx.Response(503, json={"code": "BUSY", "message": "busy"}, headers={"Retry-After": "0"})
        return httpx.Response(201, json={"id": "b1"})

    told: list[int] = []
    api = Api("http://127.0.0.1:1", "t", transport=httpx.MockTransport(answer))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    blob = await Blobs(api).upload(file, digest, on_sent=told.append)
    await api.close()
    assert blob["id"] == "b1"
    assert received == [SIZE, SIZE]
    assert told == [256 << 10, 512 << 10, SIZE] * 2
