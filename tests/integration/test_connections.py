"""How long HTTP clients may take, and how many connections they may have."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from typing import Any

import pytest

from pilothouse.access.errors import Refusal
from pilothouse.edge.network import TrustedProxies
from pilothouse.edge.streaming import PATIENCE as PATIENCE_OFFERED
from pilothouse.server import deadlines, listener, protocols
from pilothouse.server.connections import (
    ABANDONED,
    LOCAL,
    NEW,
    SPAN,
    Connections,
    default_per_address,
    default_total,
)
from pilothouse.workers.errors import Abandoned
from pilothouse.workers.turns import Bounds, Turns
from support.certificates import self_signed
from support.http_server import Small, error, everything, serving, until
from support.waiting import PATIENCE, eventually, slowness

SHORT = 0.4
GET = b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEAD_WAIT": SHORT, "BODY_GRACE": SHORT, "CHECK": 0.1, "READER_SILENCE": 1.0}.items():
        monkeypatch.setattr(deadlines, name, value)
    monkeypatch.setattr(listener, "HANDSHAKE_WAIT", SHORT)
    monkeypatch.setattr(protocols, "LINGER", SHORT)


def app(small: Small) -> Any:
    """``/read`` reads all, ``/large`` answers much, ``/ignore`` refuses without reading, ``/ws`` is a socket."""

    async def answer(send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        if status >= 400:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            small.seen.append("websocket")
            await receive()
            return
        small.seen.append(scope["path"])
        if scope["path"] == "/ignore":
            await answer(send, 401, b"who are you?")
            return
        if scope["path"] == "/stream":  # as edge/streaming.py serves a client of HTTP/1.0
            scope["extensions"][PATIENCE_OFFERED]()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(512):
                await send({"type": "http.response.body", "body": b"x" * (64 << 10), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if scope["path"] == "/large":
            await answer(send, 200, b"x" * (32 << 20))
            return
        size, more = 0, scope["path"] == "/read"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                small.seen.append("disconnected")
                return
            size, more = size + len(message["body"]), message["more_body"]
        await answer(send, 200, str(size).encode())

    return serve


@pytest.fixture(scope="module")
def small() -> Any:
    with serving(app) as small:
        yield small


def waited(sock: socket.socket) -> tuple[bytes, float]:
    """What the server says until it ends the connection, and after how many seconds it does."""
    began = time.monotonic()
    return everything(sock), time.monotonic() - began


# -- heads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"\r\n", b"G", GET[:-2], HANDSHAKE[:-2], GET[:-2] + b"X-A: b"])
def test_a_head_has_a_time(small: Small, start: bytes) -> None:
    with small.connect() as sock:
        sock.sendall(start)
        said, took = waited(sock)
    assert took >= SHORT * 0.9
    if start in (b"", b"\r\n"):
        assert said == b""
    else:
        assert error(said) == (408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize("trickle", [b"\r\n", b"G", b"X-A: b\r\n"])
def test_a_trickle_does_not_make_it_longer(small: Small, trickle: bytes) -> None:
    """Empty lines before a request, a long method, headers without end."""
    with small.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n" if trickle.startswith(b"X") else b"")
        sock.settimeout(0.05)
        began, said = time.monotonic(), b"open"
        while said and time.monotonic() - began < PATIENCE:
            try:
                sock.sendall(trickle)
                said = sock.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                break
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("more", [b"", b"\r\n", GET[:10]])
def test_the_next_request_of_a_connection_has_the_same_time(small: Small, more: bytes) -> None:
    with small.connect() as sock:
        for _ in range(3):
            sock.sendall(GET)
            until(sock, b"\r\n\r\n0")
        sock.sendall(more)
        said, _ = waited(sock)  # without a byte: the time of idle connections
    if more == GET[:10]:
        assert error(said) == (408, "REQUEST_TIMEOUT")
    else:
        assert said == b""


def test_a_request_that_comes_in_parts_is_answered_and_the_next_too(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "BODY_GRACE", PATIENCE)
    with small.connect() as sock:
        sock.sendall(POST.replace(b"1000000", b"3") + b"ab")
        time.sleep(SHORT / 2)  # they come apart
        sock.sendall(b"c" + GET)
        assert b"\r\n\r\n3HTTP/1.1 200 " in until(sock, b"\r\n\r\n0")


# -- bodies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [POST, POST + b"half", CHUNKED, CHUNKED + b"5\r\nab"])
def test_a_body_has_a_minimum_rate(small: Small, head: bytes) -> None:
    with small.connect() as sock:
        sock.sendall(head)
        said, took = waited(sock)
    assert error(said) == (408, "REQUEST_TIMEOUT")
    assert took >= SHORT * 0.9


def test_a_trickle_of_a_body_is_too_slow(small: Small) -> None:
    with small.connect() as sock:
        sock.sendall(CHUNKED)
        sock.settimeout(0.05)
        said, began = b"", time.monotonic()
        while not said and time.monotonic() - began < PATIENCE:
            try:
                sock.sendall(b"1\r\na\r\n")
                said = sock.recv(1 << 16)
            except TimeoutError:
                continue
    assert error(said) == (408, "REQUEST_TIMEOUT")


def test_a_body_that_comes_fast_enough_is_read(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "BODY_SILENCE", PATIENCE)
    with small.connect() as sock:
        sock.sendall(POST + b"x" * 900_000)
        time.sleep(SHORT * 2)  # a pause of what has come faster before
        sock.sendall(b"x" * 100_000)
        until(sock, b"\r\n\r\n1000000")


def test_a_pause_has_an_end(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "BODY_SILENCE", SHORT)
    with small.connect() as sock:
        sock.sendall(POST + b"x" * 900_000)
        assert error(everything(sock)) == (408, "REQUEST_TIMEOUT")


async def test_the_application_learns_of_it(small: Small) -> None:
    await eventually(lambda: len(small.connections) == 0)  # of the tests before
    small.seen.clear()
    with small.connect() as sock:
        sock.sendall(POST)
        everything(sock)
    await eventually(lambda: small.seen == ["/read", "disconnected"])  # after the client does


def test_an_answer_before_the_body_arrives_and_the_rest_is_thrown_away(small: Small) -> None:
    with small.connect() as sock:
        sock.sendall(POST.replace(b"/read", b"/ignore") + b"x" * 500_000)
        until(sock, b"who are you?")
        sock.sendall(b"x" * 500_000 + GET)  # no second request
        assert everything(sock) == b""


def test_a_body_without_end_is_thrown_away_only_so_long(small: Small) -> None:
    with small.connect() as sock:
        sock.sendall(POST.replace(b"1000000", b"1000000000").replace(b"/read", b"/ignore"))
        with pytest.raises(OSError, match=r"reset|pipe"):
            for _ in range(1000):
                sock.sendall(b"x" * 1_000_000)


# -- answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(small: Small, connection: str) -> None:
    with small.connect() as sock:
        sock.sendall(f"GET /large HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n\r\n".encode())
        assert sock.recv(1) == b"H"
        await eventually(lambda: len(small.connections) == 0)
        assert len(everything(sock)) < 32 << 20


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_reader_of_a_stream_may_stop_reading(small: Small, version: str) -> None:
    """The time for a reader does not hold for it; another answer, which began later, is cut off meanwhile."""
    with small.connect() as stream, small.connect() as other:
        stream.sendall(f"GET /stream HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        assert stream.recv(1) == b"H"
        other.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.recv(1) == b"H"
        await eventually(lambda: len(small.connections) == 1)
        size = 0
        while size < 32 << 20:
            got = len(stream.recv(2 << 20))
            assert got, f"cut off after {size}"
            size += got


def test_a_slow_reader_is_not(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    silence = slowness()
    monkeypatch.setattr(deadlines, "READER_SILENCE", silence)
    with small.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.sendall(GET.replace(b"fast", b"large"))
        size, began = 0, time.monotonic()
        while size < 32 << 20:
            got = len(sock.recv(2 << 20))
            assert got, f"cut off after {size}"
            size += got
            if time.monotonic() - began < 2.5 * silence:
                time.sleep(0.2 * silence)
    assert time.monotonic() - began > 2 * silence


# -- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = self_signed()
    (directory / "key").write_bytes(key)
    (directory / "certificate").write_bytes(certificate)
    with serving(app, tls_cert=directory / "certificate", tls_key=directory / "key") as small:
        yield small


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01", GET])
async def test_a_handshake_has_a_time_and_counts(tls: Small, start: bytes) -> None:
    with tls.connect() as sock:
        sock.sendall(start)
        if start != GET:
            await eventually(lambda: len(tls.connections) == 1)
        assert GET not in everything(sock)
    await eventually(lambda: len(tls.connections) == 0)


async def test_requests_over_tls(tls: Small) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with tls.connect(tls=trusting) as sock:
        sock.sendall(GET)
        assert until(sock, b"\r\n\r\n0").startswith(b"HTTP/1.1 200")
        assert len(tls.connections) == 1
        sock.sendall(POST.replace(b"/read", b"/ignore") + b"half")
        until(sock, b"who are you?")
    await eventually(lambda: len(tls.connections) == 0)
    with tls.connect(tls=trusting) as sock:
        sock.sendall(GET[:-2])
        assert error(everything(sock)) == (408, "REQUEST_TIMEOUT")


# -- how many -------------------------------------------------------------------------------------------


def elsewhere() -> tuple[str, str]:
    """Addresses of this machine that are not loopback, IPv4 and IPv6; skips the test without them."""
    found = []
    for family, target in ((socket.AF_INET, "192.0.2.250"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((target, 9))
            except OSError:
                pytest.skip("this machine has only loopback addresses")
            found.append(sock.getsockname()[0])
    return found[0], found[1]


def opened(small: Small, host: str, many: int) -> list[socket.socket]:
    """Connections on which a request was answered."""
    made = [small.connect(host) for _ in range(many)]
    for sock in made:
        sock.sendall(GET)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    return made


@pytest.mark.parametrize("family", [0, 1])
async def test_connections_of_one_address_are_bounded(family: int) -> None:
    host = elsewhere()[family]
    bounds = Connections(100, 3, TrustedProxies())
    with serving(app, bounds, "::") as small:
        made = opened(small, host, 3)
        for request in (GET, HANDSHAKE, b""):
            with small.connect(host) as sock:
                sock.sendall(request)
                said = everything(sock)
                assert error(said) == (429, "TOO_MANY_CONNECTIONS")
                assert b"\r\nretry-after: " in said
        made += opened(small, "127.0.0.1", 5)  # callers on the machine are not bounded by their address
        made[0].close()
        await eventually(lambda: len(bounds) == 7)
        made += opened(small, host, 1)
        for sock in made:
            sock.close()
        await eventually(lambda: len(bounds) == 0)


async def test_a_trusted_proxy_speaks_for_many() -> None:
    host = elsewhere()[0]
    with serving(app, Connections(100, 3, TrustedProxies([host])), "0.0.0.0") as small:
        for sock in opened(small, host, 6):
            sock.close()


async def test_all_connections_are_bounded_and_some_are_for_the_machine_itself() -> None:
    host = elsewhere()[0]
    bounds = Connections(LOCAL * 4 + 2, 1000, TrustedProxies())
    with serving(app, bounds, "0.0.0.0") as small:
        made = opened(small, host, LOCAL * 3 + 2)
        with small.connect(host) as sock:
            assert error(everything(sock)) == (503, "SERVER_BUSY")
        made += opened(small, "127.0.0.1", LOCAL)
        with small.connect() as sock:
            assert error(everything(sock)) == (503, "SERVER_BUSY")
        for sock in made:
            sock.close()
        await eventually(lambda: len(bounds) == 0)
        opened(small, host, 1)[0].close()


async def test_an_open_websocket_counts(small: Small) -> None:
    await eventually(lambda: len(small.connections) == 0)
    with small.connect() as sock:
        sock.sendall(HANDSHAKE)
        assert b" 101 " in sock.recv(1000)
        time.sleep(SHORT * 2)  # the deadline of the head was another matter
        assert len(small.connections) == 1
    await eventually(lambda: len(small.connections) == 0)


async def test_no_file_left_is_no_end(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection waits in the backlog until there is one."""
    monkeypatch.setattr(listener, "PAUSE", 0.1)
    failing = [OSError(24, "Too many open files")] * 3
    real = listener.Connections.enter

    class Failing(socket.socket):
        def accept(self) -> Any:
            if failing:
                raise failing.pop()
            return super().accept()

    monkeypatch.setattr(socket, "socket", Failing)
    with serving(app) as starved:
        monkeypatch.undo()
        opened(starved, "127.0.0.1", 2)
    assert not failing
    assert listener.Connections.enter is real


def test_defaults() -> None:
    assert 64 <= default_total() <= 65_536
    assert [default_per_address(total) for total in (16, 64, 768, 65_536)] == [16, 16, 192, 1024]


async def test_an_address_that_abandons_its_requests_gets_no_new_connections() -> None:
    began: list[str] = []

    def endless(small: Small) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            began.append(scope["path"])
            while (await receive())["type"] != "http.disconnect":
                pass

        return answer

    now = [0.0]
    bounds = Connections(1000, 1000, TrustedProxies(), lambda: now[0])
    with serving(endless, bounds) as small:
        for number in range(ABANDONED):
            with small.connect(source="127.0.0.2") as sock:
                sock.sendall(GET * 3)
                # A connection that is reset before the server has read of it has asked for nothing.
                await eventually(lambda n=number: len(began) > n)  # type: ignore[misc]
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await eventually(lambda: len(bounds) == 0)
        with small.connect(source="127.0.0.2") as sock:
            assert error(everything(sock)) == (429, "TOO_MANY_CONNECTIONS")
        assert len(began) <= ABANDONED  # the requests that waited for another one were dropped
        now[0] += SPAN / 1000 + 1
        count = len(began)
        with small.connect(source="127.0.0.2") as sock:
            sock.sendall(GET)
            await eventually(lambda: len(began) > count)


async def test_a_job_of_a_client_that_has_gone_is_not_begun() -> None:
    found: list[str] = []

    def waiting(small: Small) -> Any:
        turns = Turns(1, Bounds())

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            try:
                await turns.take("caller", 1)
            except Abandoned:
                found.append("abandoned")
            else:
                found.append("begun")
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body"})

        return answer

    bounds = Connections(100, 100, TrustedProxies())
    with serving(waiting, bounds) as small:
        with small.connect() as first, small.connect() as second:
            first.sendall(GET)
            await eventually(lambda: found == ["begun"])
            second.sendall(GET)
            await eventually(lambda: len(bounds) == 2)
        await eventually(lambda: found == ["begun", "abandoned"])


def test_new_connections_of_an_address_are_bounded() -> None:
    now = [0.0]
    bounds = Connections(10_000, 10, TrustedProxies(["10.0.0.9"]), lambda: now[0])

    def comes_and_goes(address: str) -> bool:
        leave = bounds.enter(address)
        if isinstance(leave, Refusal):
            assert leave.code == "TOO_MANY_CONNECTIONS"
            return False
        leave()
        return True

    assert all(comes_and_goes("10.0.0.1") for _ in range(NEW))
    assert not comes_and_goes("10.0.0.1")
    assert comes_and_goes("10.0.0.2")
    assert all(comes_and_goes(address) for address in ("10.0.0.9", "127.0.0.1") for _ in range(NEW + 1))
    now[0] += SPAN / 1000
    assert comes_and_goes("10.0.0.1")
