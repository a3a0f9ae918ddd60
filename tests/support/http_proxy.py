"""A real HTTP proxy: absolute requests and CONNECT, to names that only it can resolve."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit


class HttpProxy(socketserver.ThreadingTCPServer):
    """``hosts``: the address behind each ``HOST:PORT`` it knows; ``seen``: first lines of what it was asked."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, hosts: Mapping[str, str], authorization: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hosts, self.authorization = dict(hosts), authorization
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: HttpProxy

    def handle(self) -> None:
        first = self.rfile.readline().decode("latin-1").strip()
        headers: list[str] = []
        while line := self.rfile.readline().decode("latin-1").strip():
            headers.append(line)
        if not first:
            return
        self.server.seen.append(first)
        method, target, version = first.split()
        given = [h.partition(": ")[2] for h in headers if h.lower().startswith("proxy-authorization:")]
        if self.server.authorization and given != [self.server.authorization]:
            self._say("407 Proxy Authentication Required")
            return
        connect = method == "CONNECT"
        parts = urlsplit(target if not connect else f"//{target}")
        address = self.server.hosts.get(f"{parts.hostname}:{parts.port}")
        if address is None:
            self._say("502 Bad Gateway")
            return
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            if connect:
                self._say("200 Connection established", "")
            else:
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                kept = [h for h in headers if not h.lower().startswith(("proxy-", "connection:"))]
                head = "\r\n".join([f"{method} {path} {version}", *kept, "Connection: close", "", ""])
                upstream.sendall(head.encode("latin-1"))
            self._pump(upstream)

    def _say(self, status: str, more: str = "Content-Length: 0\r\nConnection: close\r\n") -> None:
        self.wfile.write(f"HTTP/1.1 {status}\r\n{more}\r\n".encode())
        self.wfile.flush()

    def _pump(self, upstream: socket.socket) -> None:
        def upwards() -> None:
            with contextlib.suppress(OSError):
                while data := self.rfile.read1(1 << 16):
                    upstream.sendall(data)
                upstream.shutdown(socket.SHUT_WR)

        threading.Thread(target=upwards, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := upstream.recv(1 << 16):
                self.wfile.write(data)
                self.wfile.flush()


@contextlib.contextmanager
def proxying(hosts: Mapping[str, str], authorization: str = "") -> Iterator[HttpProxy]:
    """A running one."""
    with HttpProxy(hosts, authorization) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


def dead_address() -> str:
    """An address without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
