"""Requests byte by byte: bodies of callers who may not send them, headers given twice, connections that stay open."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from support.faults.watch import Memory
from support.http_server import error, everything, until
from support.server import Server, running
from support.waiting import PATIENCE, eventually

HALF = 2_000_000
"""Bytes announced, of which half are sent: less than the server's bound on bodies."""

ROOM = 32
"""MiB that the server's memory may grow, whatever strangers send: one read of 64 KiB on each of 500 connections. A
busy server is late to refuse, and has read from all of them by then. Half of all bodies would be 500 MiB."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("strange")) as server:
        yield server


@pytest.fixture(scope="module")
def viewer(server: Server) -> str:
    return server.user("vera", "viewer")


def connect(server: Server) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", int(server.settings["port"])))
    sock.settimeout(PATIENCE)
    return sock


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


ROUTES = [
    ("POST", "/api/v1/pipelines"),
    ("POST", "/api/v1/blobs"),
    ("PUT", "/api/v1/secrets/name"),
    ("POST", "/api/v1/registration-tokens"),
    ("PATCH", "/api/v1/users/admin"),
    ("POST", "/api/v1/pipelines/none/spec/save"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("caller", ["stranger", "guess", "viewer"])
def test_a_body_is_not_awaited_from_who_may_not_send_it(
    server: Server, viewer: str, method: str, path: str, caller: str
) -> None:
    token = {"stranger": "", "guess": "guess"}.get(caller, viewer)
    lines = ["Content-Type: application/json"] + [f"Authorization: Bearer {token}"] * bool(token)
    status = 403 if caller == "viewer" else 401
    size = HALF if path.startswith(("/api/v1/pipelines", "/api/v1/blobs")) else 10_000
    for more, sent in (
        (["Expect: 100-continue", f"Content-Length: {size}"], b""),
        ([f"Content-Length: {size}"], b'{"name": "' + b"x" * (size // 2)),
        ([f"Content-Length: {size}"], b""),
        (["Transfer-Encoding: chunked"], b'9\r\n{"name":\n\r\n'),
    ):
        with connect(server) as sock:
            sock.sendall(head(method, path, *lines, *more) + sent)
            answer = until(sock, b"}")
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
            assert b"\r\nconnection: close\r\n" in answer.lower()
            assert everything(sock) == b""


def test_who_may_send_a_body_is_told_to_go_on(server: Server) -> None:
    body = b'{"name": "announced"}'
    lines = ["Content-Type: application/json", f"Authorization: Bearer {server.admin}"]
    lines += ["Expect: 100-continue", f"Content-Length: {len(body)}"]
    with connect(server) as sock:
        sock.sendall(head("POST", "/api/v1/projects", *lines))
        assert until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert until(sock, b"}").startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("caller", ["stranger", "viewer", "login"])
def test_half_bodies_take_no_memory(server: Server, viewer: str, caller: str) -> None:
    path = "/api/v1/auth/login" if caller == "login" else "/api/v1/pipelines"
    size = 16_000 if caller == "login" else HALF
    lines = ["Content-Type: application/json", f"Content-Length: {size}"]
    lines += [f"Authorization: Bearer {viewer}"] if caller == "viewer" else []
    message = head("POST", path, *lines) + b"x" * (size // 2)
    open_ones = []
    with Memory(server) as memory:
        for _ in range(500):
            sock = connect(server)
            sock.setblocking(False)
            sock.send(message)  # what the kernels take
            open_ones.append(sock)
        assert server.call("GET", "/auth/me").status_code == 200
        for sock in open_ones:
            sock.close()
    assert memory.growth < ROOM


# -- headers --------------------------------------------------------------------------------------------


WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@pytest.mark.parametrize(
    "name", ["Authorization", "Host", "Cookie", "Origin", "X-Request-ID", "Idempotency-Key"]
)
@pytest.mark.parametrize("path", ["/api/v1/ws", "/api/v1/auth/me", "/healthz"])
def test_headers_given_twice(server: Server, path: str, name: str) -> None:
    value = {"Authorization": f"Bearer {server.admin}"}.get(name, "http://localhost")
    twice = [f"{name}: {value}"] * (1 if name == "Host" else 2)  # the other Host is that of every request
    with connect(server) as sock:
        sock.sendall(head("GET", path, *twice, *(WEBSOCKET if path.endswith("/ws") else [])))
        status, code = error(everything(sock))
    # The library refuses some itself.
    assert status == 400
    assert code == "HEADER_REPEATED" or (code, path) == ("MALFORMED_REQUEST", "/api/v1/ws")


def test_a_token_twice_in_the_address(server: Server) -> None:
    with connect(server) as sock:
        sock.sendall(head("GET", f"/api/v1/ws?token={server.admin}&token=x", *WEBSOCKET))
        assert b'"error":"token must be given once"' in until(sock, b"token must be given once")


def test_what_is_no_request_gets_an_error_body(server: Server) -> None:
    for data in (b"\x16\x03\x01\n\n", head("GET", "/healthz", "Content-Length: 1", "Content-Length: 2")):
        with connect(server) as sock:
            sock.sendall(data)
            said = everything(sock)
        assert error(said) == (400, "MALFORMED_REQUEST")
        assert b"\r\nx-content-type-options: nosniff\r\n" in said


# -- streams --------------------------------------------------------------------------------------------


async def test_open_streams_count_and_carry_the_headers(server: Server) -> None:
    def connections() -> float:
        return server.metric("pilothouse_http_connections")

    await eventually(lambda: connections() == 1)  # the one that asks
    bearer = f"Authorization: Bearer {server.admin}"
    with connect(server) as events, connect(server) as channels:
        events.sendall(head("GET", "/api/v1/events", bearer))
        said = until(events, b":\n\n\r\n").lower()
        assert b"\r\ncontent-type: text/event-stream\r\n" in said
        for line in (
            b"x-content-type-options: nosniff",
            b"cache-control: no-store",
            b"x-frame-options: deny",
        ):
            assert said.count(b"\r\n" + line + b"\r\n") == 1
        channels.sendall(head("GET", "/api/v1/ws", bearer, *WEBSOCKET))
        assert b" 101 " in until(channels, b"\r\n\r\n")
        assert connections() == 3
    await eventually(lambda: connections() == 1)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/9\r\n\r\n",
        head(
            "GET",
            "/api/v1/none",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
    ],
)
def test_strangers_do_not_write_into_the_log(server: Server, request_: bytes) -> None:
    before = len(server.log())
    with connect(server) as sock:
        sock.sendall(request_)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock).startswith(b"HTTP/1.1 4")
    assert server.call("GET", "/healthz").is_success  # whatever was written about it is there by now
    assert server.log()[before:] == ""
