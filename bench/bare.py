"""Reference of fan-out: a minimal server on the same event loop that calls ``transport.write`` in a loop.

It answers every request with a fixed header and then writes the same bytes to all clients on command.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import uvloop

from bench.server import execute_commands, standard_input

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Subscriber(asyncio.Protocol):
    """One connection."""

    def __init__(self, writes: list[Callable[[bytes], None]]) -> None:
        self._writes = writes
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store its transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer the first request."""
        self._request += data
        if self._request.endswith(b"\r\n\r\n"):
            self._request = b""
            self._transport.write(HEAD)
            self._writes.append(self._transport.write)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._transport.write in self._writes:
            self._writes.remove(self._transport.write)


class Store:
    """Rows in SQLite, each committed with fsync, with an index by stream."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE entries (offset INTEGER PRIMARY KEY, stream TEXT, data BLOB)")
        self._db.execute("CREATE INDEX by_stream ON entries (stream, offset)")

    def add(self, data: bytes) -> None:
        """Insert one row in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT INTO entries (stream, data) VALUES (?, ?)", ("run/bench", data))
        self._db.execute("COMMIT")


async def main(directory: Path) -> None:
    """Run until stdin is closed."""
    store, thread = Store(directory / "bare.db"), ThreadPoolExecutor(1)
    writes: list[Callable[[bytes], None]] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Subscriber(writes), "127.0.0.1", 0, backlog=4096)

    async def send(data: str, count: int, commit: bool = False, nobody: bool = False) -> dict[str, Any]:
        """Send the same bytes ``count`` times to all clients (or none), each before the next is written.

        ``commit``: a thread first stores them durably.
        """
        frame = base64.b64decode(data)
        for _ in range(count):
            if commit:
                await loop.run_in_executor(thread, store.add, frame)
            for write in () if nobody else writes:
                write(frame)
            await asyncio.sleep(0)
        return {"bytes": len(frame)}

    async def fill(sizes: list[int]) -> dict[str, Any]:
        """Send a burst of messages of these sizes to all clients."""
        for size in sizes:
            data = b"x" * size
            for write in writes:
                write(data)
            await asyncio.sleep(0)
        return {"bytes": sum(sizes)}

    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await execute_commands(await standard_input(), {"send": send, "fill": fill})


if __name__ == "__main__":
    sys.exit(uvloop.run(main(Path(json.loads(sys.argv[1])))))
