"""Run as a program: a thousand good readers of one run, at little cost (see ``Crowd``).

Arguments: port, run id, count; the token comes on stdin. The first reader checks every line; the others must get
exactly the same bytes. Says ``open`` when all streams are open, and ``done LINES BYTES`` when all have ended; else
what was wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

END = b'"type":"run.completed"'


class Stream(asyncio.Protocol):
    """One reader of ``/api/v1/events``: takes the chunks apart, skips comments, and keeps a checksum of the events."""

    def __init__(self, request: bytes, keeps: bool) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.checksum = self.size = 0
        self.kept = bytearray() if keeps else None
        self._request = request
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Whole chunks; the rest waits."""
        data, at = self._rest + data, 0
        if not self.opened.done():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            assert data.split(b" ", 2)[1] == b"200", data
            at = end + 4
            self.opened.set_result(None)
        while (line := data.find(b"\r\n", at)) > 0:
            size = int(data[at:line], 16)
            if len(data) < line + 4 + size:
                break
            self._take(data[line + 2 : line + 2 + size])
            at = line + 4 + size
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Too early, if it had not ended."""
        for waiting in (self.opened, self.ended):
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"cut off after {self.size} bytes: {exc}"))

    def _take(self, chunk: bytes) -> None:
        if chunk.startswith(b":"):
            chunk = chunk[chunk.find(b"\n\n") + 2 :]
        self.checksum, self.size = zlib.crc32(chunk, self.checksum), self.size + len(chunk)
        if self.kept is not None:
            self.kept += chunk
        if END in chunk and not self.ended.done():
            self.ended.set_result(None)


async def main(port: int, run_id: str, count: int, token: str) -> None:
    """See above."""
    head = (
        f"GET /api/v1/events?stream=run/{run_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    streams = []
    for at in range(count):
        how = lambda keeps=at == 0: Stream(head.encode(), keeps)  # noqa: E731
        streams.append((await loop.create_connection(how, "127.0.0.1", port))[1])
    await asyncio.gather(*(stream.opened for stream in streams))
    print("open", flush=True)
    await asyncio.gather(*(stream.ended for stream in streams))
    print(_verdict(streams), flush=True)


def _verdict(streams: list[Stream]) -> str:
    careful = streams[0]
    assert careful.kept is not None
    lines: list[str] = []
    for event in bytes(careful.kept).split(b"\n\n"):
        data = event.rpartition(b"data: ")[2]
        if b'"type":"step.logged"' in data:
            lines += json.loads(data)["data"]["lines"]
    if lines != [f"line {n}" for n in range(1, len(lines) + 1)]:
        return "the first has lines lost, doubled, or out of order"
    others = sum((one.checksum, one.size) != (careful.checksum, careful.size) for one in streams)
    return f"{others} got something else" if others else f"done {len(lines)} {careful.size * len(streams)}"


class Crowd:
    """Normal readers in a separate process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def opened(self) -> None:
        """Wait until all streams are open."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n", "not all could open their streams"

    def done(self, lines: int) -> int:
        """Wait until all have had so many lines, once and in order; returns the bytes they had."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        assert words[:2] == ["done", str(lines)], " ".join(words)
        return int(words[2])


@contextlib.contextmanager
def crowd(port: int, run_id: str, count: int, token: str) -> Iterator[Crowd]:
    """They are gone afterwards."""
    command = [sys.executable, "-S", str(Path(__file__)), str(port), run_id, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(token)
    process.stdin.close()
    try:
        yield Crowd(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.stdin.read()))
