"""Clients that send garbage, floods or incomplete requests: other clients are not affected."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from support.faults.fleet import PATIENT, ROUNDS, Fleet, dummy, fleet, on
from support.faults.readers import CLOSE, PING, TEXT, connections, masked, ws_request
from support.faults.watch import Memory, Pulse

SECONDS = 1.0 * ROUNDS
"""How long a flood lasts, if it is let in."""
ROOM = 32
"""Maximum memory growth of the server in MiB."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("abuse"), **PATIENT) as made:
        made.agent("a").start()
        yield made


@pytest.fixture(autouse=True)
def _fresh(made: Fleet) -> None:
    made.unforeseen()  # of the test before


@pytest.fixture(scope="module")
def running(made: Fleet) -> str:
    """A run that lasts for the whole module."""
    run_id = made.run("hang", on("a", {"name": "j", "steps": [dummy("s", hang=True)]}))
    made.running(run_id)
    return run_id


@pytest.fixture(params=["run", "channels"])
def where(request: pytest.FixtureRequest, running: str) -> str:
    """The path of each WebSocket."""
    return f"/api/v1/workflow-runs/{running}/stream" if request.param == "run" else "/api/v1/ws"


GARBAGE = {
    "not http": b"\x16\x03\x01" + b"\xff" * 5000,
    "bad length": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "huge length": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nabcdefg",
    "chunks of nothing": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "null bytes": b"\0" * 10_000,
    "half a handshake": ws_request("/api/v1/ws")[:-20],
    "half a word": b"GE",
    "nothing": b"",
}


def test_garbage_and_handshakes_that_never_end(made: Fleet) -> None:
    server = made.server
    with connections(server, 20 * len(GARBAGE)) as socks, Pulse(server) as pulse:
        for at, sock in enumerate(socks):
            with contextlib.suppress(OSError):  # the connection may be closed while it sends
                sock.sendall(list(GARBAGE.values())[at % len(GARBAGE)])
        run_id = made.run("amid-garbage", on("a", {"name": "j", "steps": [dummy("s", lines=5000)]}))
        assert made.ended(run_id)["status"] == "succeeded"
        pulse.healthy()
    assert made.unforeseen() == []


ENDLESS = {
    "headers": (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n" * 10_000),
    "a header": (b"GET / HTTP/1.1\r\nX-A: ", b"b" * 65_536),
    "an address": (b"GET /", b"b" * 65_536),
    "a body": (
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n",
        b"b" * 65_536,
    ),
    "requests": (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_requests_without_end(made: Fleet, what: str) -> None:
    """From an unauthenticated client that reads no responses."""
    head, more = ENDLESS[what]
    with Memory(made.server) as memory, Pulse(made.server) as pulse, connections(made.server, 1) as (sock,):
        sent = _flood(sock, head, more)
        pulse.healthy()
        assert memory.growth < ROOM, f"{sent >> 20} MiB sent, grown by {memory.growth:.0f} MiB"
    assert made.unforeseen() == []


def _flood(sock: socket.socket, head: bytes, more: bytes, seconds: float = SECONDS) -> int:
    """Send until the connection is closed or the time is over; returns the number of bytes sent."""
    sock.settimeout(1)
    sent, end = 0, time.monotonic() + seconds
    with contextlib.suppress(OSError):  # connection closed
        sock.sendall(head)
        while time.monotonic() < end:
            sent += sock.send(more)
    return sent


FLOODS = {
    "pings": (b"", masked(PING, b"p" * 125) * 1000),
    "empty pings": (b"", masked(PING, b"") * 10_000),
    "fragments": (masked(TEXT, b"", fin=False), masked(0, b"", fin=False) * 10_000),
    "messages": (b"", masked(TEXT, b"[]") * 5000),
}
PATIENCE = {"pings": 3, "fragments": 5}
"""Slow growth is measured for longer."""


@pytest.mark.parametrize("what", FLOODS)
def test_frames_without_end(made: Fleet, where: str, what: str) -> None:
    """From a client that reads nothing. Pongs that cannot be written must not accumulate."""
    server = made.server
    with Memory(server) as memory, Pulse(server) as pulse, connections(server, 1) as (sock,):
        sock.sendall(ws_request(where, server.admin))
        assert b" 101 " in sock.recv(4096)
        sent = _flood(sock, *FLOODS[what], SECONDS * PATIENCE.get(what, 1))
        pulse.healthy()
        assert memory.growth < ROOM, f"{sent >> 20} MiB sent, grown by {memory.growth:.0f} MiB"
    assert made.unforeseen() == []


FRAMES = {
    "claims to be huge": masked(TEXT, b"x" * 1000, size=1 << 62),
    "huge": masked(TEXT, b"x" * (4 << 20)),
    "reserved opcode": masked(0x3, b"abc"),
    "long ping": masked(PING, b"x" * 200),
    "bad close": masked(CLOSE, b"\x00"),
    "continues nothing": masked(0, b"abc"),
    "unmasked": bytes((0x81, 3)) + b"abc",
    "not text": masked(TEXT, b"\xff\xfe"),
    "noise": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("what", FRAMES)
def test_frames_that_are_none(made: Fleet, where: str, what: str) -> None:
    """The connection is closed."""
    server = made.server
    with connections(server, 3) as socks:
        for sock in socks:
            sock.sendall(ws_request(where, server.admin))
            assert b" 101 " in sock.recv(4096)
            with contextlib.suppress(OSError):  # the connection may be closed while it sends
                sock.sendall(FRAMES[what])
        for sock in socks:
            sock.settimeout(60)
            with contextlib.suppress(ConnectionError):
                while sock.recv(65536):  # until the server has closed it
                    pass
    assert made.unforeseen() == []


def test_clients_that_disconnect_before_the_response(made: Fleet, where: str) -> None:
    server = made.server
    for _ in range(30 * ROUNDS):
        with connections(server, 1) as (sock,):
            sock.sendall(ws_request(where, server.admin))
        with connections(server, 1) as (sock,):
            sock.sendall(ws_request(where, server.admin))
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # a reset, no close handshake
    with Pulse(server) as pulse:
        pulse.healthy()
    assert made.unforeseen() == []
