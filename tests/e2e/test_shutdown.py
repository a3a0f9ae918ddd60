"""Shutdown and failed starts as seen by operators (decisions.md, "Running it")."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.fake_agent import registered
from support.server import Server, first_line, running, spec_for
from support.waiting import PATIENCE, slowness
from support.watchers import closing, sse, websocket


def fails(server: Server) -> str:
    """Start a server that fails with a one-line error and exit code 1. Returns the line."""
    process = server.spawn()
    try:
        said = first_line(process, PATIENCE)
        assert said == "", f"it started: {said}"
        assert process.wait(PATIENCE) == 1, server.log()
    finally:
        server.close()
    log = server.log()
    assert "Traceback" not in log
    words = [line for line in log.splitlines() if line.startswith("pilothouse cannot start: ")]
    assert len(words) == 1, log
    return words[0]


# -- stopping -------------------------------------------------------------------------------------------


async def test_a_stop_tells_all_clients_to_reconnect(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        async with await registered(server, "stopper") as agent:
            pipeline_id = server.pipeline("stopping", spec_for("stopper"))
            run_id = server.trigger(pipeline_id)
            task = await agent.task()
            await agent.ack(task)
            await agent.lines(task.step_run_id, ["before"])
            params = {"pipelineId": pipeline_id, "jobId": task.job_id, "stepRunId": task.step_run_id}
            run = f"/api/v1/workflow-runs/{run_id}/stream"
            half = _open_push(agent)
            async with (
                websocket(f"{server.ws}{run}?cursor=start", server.admin) as following,
                websocket(f"{server.ws}/api/v1/ws", server.admin) as channels,
                websocket(f"{server.ws}/api/v1/ws", server.admin) as idle,
                websocket(f"{server.ws}{run}") as unauthorized,
                sse(f"{server.url}{run}", server.admin) as run_sse,
                sse(f"{server.url}/api/v1/events", server.admin) as journal,
            ):
                for channel in ("channel_log", "channel_status"):
                    await channels.send(json.dumps({"channel": channel, "params": params}))
                await following.recv()
                await channels.recv()
                sockets = [asyncio.create_task(closing(s)) for s in (following, channels, idle, unauthorized)]
                streams = [asyncio.create_task(_to_the_end(r)) for r in (run_sse, journal)]
                took = await asyncio.to_thread(server.stop)  # asserts exit code 0
                assert [(await s)[0] for s in sockets] == [1001] * 4
                for stream in streams:
                    await stream  # ended, not cut
            assert took < 10 * slowness()
            assert agent.closed is not None
            code, _ = await asyncio.wait_for(agent.closed, PATIENCE)
            assert code is grpc.StatusCode.UNAVAILABLE
            half.cancel()
        assert server.failures() == []
        # And it resumes: nothing was marked lost, and the reader's cursor is valid.
        server.restart()
        assert server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "running"
        assert server.call("GET", f"/workflow-runs/{run_id}/logs").text == "before\n"
        server.stop()


async def _to_the_end(response: Any) -> bytes:
    return b"".join([chunk async for chunk in response.aiter_raw()])


def _open_push(agent: Any) -> Any:
    async def silence() -> Any:
        await asyncio.Event().wait()
        yield

    return agent.rpc("gateway.v1.GatewayService/PushLogs")(silence(), metadata=agent.metadata)


async def test_nobody_can_keep_it_from_stopping(tmp_path: Path) -> None:
    """An idle connection, half a request, a slow upload, a reader who does not read: all at once."""
    with running(tmp_path) as server, ExitStack() as connections:
        token = server.admin

        def connected() -> socket.socket:
            address = ("127.0.0.1", server.settings["port"])
            return connections.enter_context(socket.create_connection(address))

        connected()
        connected().sendall(b"GET /api/v1/workflow-runs HTTP/1.1\r\nHost:")
        head = f"POST /api/v1/blobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        connected().sendall(f"{head}Content-Length: 100000\r\n\r\nbegun".encode())
        async with await registered(server, "filler") as agent:
            run_id = server.trigger(server.pipeline("filling", spec_for("filler")))
            task = await agent.task()
            await agent.ack(task)
            slow = connected()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"GET /api/v1/workflow-runs/{run_id}/stream HTTP/1.1\r\nHost: x\r\n"
            slow.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
            for _ in range(4):
                await agent.lines(task.step_run_id, ["x" * 10_000] * 200)
        server.stop()


def test_a_stop_while_it_starts(tmp_path: Path) -> None:
    server = Server(tmp_path)
    process = server.spawn()
    try:
        assert process.stdout is not None
        process.stdout.readline()  # ready
        process.terminate()
        process.terminate()  # an impatient operator
        assert process.wait(PATIENCE) == 0
    finally:
        server.close()


# -- not starting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["port", "grpc_port"])
def test_a_port_in_use(tmp_path: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in fails(Server(tmp_path, **{which: port}))


def test_a_second_server_on_the_same_data(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "first") as first:
        second = Server(tmp_path / "second")
        second.settings["data_dir"] = str(first.data_dir)
        assert str(first.data_dir) in fails(second)
        assert first.alive
        first.kill9()
        first.restart()  # a lock that outlived its process would keep it from starting
        first.stop()


def test_a_data_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert str(tmp_path / "data") in fails(Server(tmp_path))


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pilothouse.db").write_bytes(b"this is no database " * 100)
    fails(Server(tmp_path, database_url=None))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://pilot:{}@127.0.0.1:1/nobody-listens",
        "postgres://pilot:{}@/no-socket?host=/nowhere",
        "postgresql://pilot:{}@127.0.0.1:port/none",
        "mysql://pilot:{}@127.0.0.1:1/another-kind",
        "no url at all {}",
    ],
)
def test_a_database_url_that_leads_nowhere(tmp_path: Path, url: str) -> None:
    server = Server(tmp_path, database_url=url.format("s3cret-pw"))
    fails(server)
    assert "s3cret-pw" not in server.log()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key; in the first file both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(public + private)
    (tmp_path / "key.pem").write_bytes(private)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_tls_settings_that_do_not_fit(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    (tmp_path / "empty.pem").write_text("")
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "other.pem").write_bytes(other)
    for number, settings in enumerate(
        (
            {"tls_cert": str(tmp_path / "missing.pem"), "tls_key": str(key)},
            {"tls_cert": str(tmp_path / "empty.pem"), "tls_key": str(key)},
            {"tls_cert": str(cert), "tls_key": str(tmp_path / "other.pem")},
        )
    ):
        (tmp_path / str(number)).mkdir()
        fails(Server(tmp_path / str(number), **settings))


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_half_of_the_tls_settings_never_means_plain_grpc(
    tmp_path: Path, certificate: tuple[Path, Path], given: str
) -> None:
    """With a certificate alone HTTP would speak TLS, and agents' credentials would cross the net in the clear."""
    fails(Server(tmp_path, **{given: str(certificate[given == "tls_key"])}))


# -- the first start ------------------------------------------------------------------------------------


def test_the_first_users_password(tmp_path: Path) -> None:
    server = Server(tmp_path)
    del server.settings["admin_password"]
    try:
        server.start()
        file = server.data_dir / "admin-password"
        password = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        assert server.log().count(password) == 1  # printed once
        assert server.login("admin", password)
        server.stop()
        server.restart()
        assert server.log().count(password) == 1  # and never again
        server.stop()
    finally:
        server.close()
    readable = [p.name for p in server.data_dir.rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
    assert [name for name in readable if "key" in name or "password" in name] == []
    assert (server.data_dir / "server.key").exists()
