"""Sends and reads artifacts as a third-party agent and as users do, with plain HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from support.live_run import Live
from support.server import Server
from support.waiting import PATIENCE, eventually

PART = 16 << 20


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that cannot be compressed, the same each time."""
    return random.Random(seed).randbytes(size)


def announced(name: str, data: bytes, **more: Any) -> dict[str, Any]:
    """The body of an announcement."""
    digest = hashlib.sha256(data).hexdigest()
    return {"name": name, "file_name": name, "format": "file", "size": len(data), "sha256": digest, **more}


def announce(live: Live, body: dict[str, Any], token: str = "") -> httpx.Response:
    """Announce an artifact of the live step."""
    path = f"/step-runs/{live.step}/artifacts"
    return live.server.call("POST", path, token or live.agent.token, json=body)


def put(live: Live, upload: dict[str, Any], data: bytes, token: str = "", **headers: str) -> httpx.Response:
    """Send the part that is wanted next."""
    start = upload["offset"]
    part = data[start : start + upload["part_size"]]
    given = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}", **headers}
    return live.server.call("PUT", upload["url"], token or live.agent.token, content=part, headers=given)


def send(live: Live, name: str, data: bytes, **more: Any) -> dict[str, Any]:
    """A complete artifact; returns the last answer."""
    answer = announce(live, announced(name, data, **more))
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    while upload["state"] != "ready":
        answer = put(live, upload, data)
        assert answer.status_code == 200, answer.text
        upload = answer.json()
    return upload


def content(server: Server, artifact_id: str, token: str = "admin", **headers: str) -> httpx.Response:
    """Download it."""
    return server.call("GET", f"/artifacts/{artifact_id}/content", token, headers=headers)


BUCKET, KEY, SECRET = "artifacts", "pilot-key", "pilot-secret-of-the-store"


@contextlib.asynccontextmanager
async def object_store(directory: Path, port: int = 0) -> AsyncIterator[dict[str, str]]:
    """A real S3 server with one bucket; gives the settings of a server that uses it."""
    (directory / BUCKET).mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = ["rclone", "serve", "s3", str(directory), "--addr", f"127.0.0.1:{port}"]
    options = ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off", "--config", "/dev/null"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (directory.parent / "store.log").open("ab") as log:
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log)
    try:
        await eventually(lambda: _answers(port))
        yield {
            "objects": f"s3://{BUCKET}/pilot",
            "s3_endpoint": f"http://127.0.0.1:{port}",
            "s3_region": "us-east-1",
            "s3_access_key": KEY,
            "s3_secret_key": SECRET,
        }
    finally:
        process.terminate()
        process.wait(PATIENCE)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/").status_code > 0
    return False


def files_of(root: Path) -> list[Path]:
    """All files below a directory."""
    return sorted(path for path in root.rglob("*") if path.is_file())
