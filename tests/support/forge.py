"""A forge: bare repositories that real git serves over http (``git http-backend``) and ssh (``sshd``)."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.checkout_kit import commit, git
from support.waiting import PATIENCE, eventually

TOKEN = "forge-token-7d1f"


@dataclass
class Forge:
    """``url``: of the http server; ``token``: what it wants, as password of any user, empty for nothing.

    ``requests``: path and ``Authorization`` of each request. ``redirect``: another server, to which every request
    is sent on.
    """

    root: Path
    url: str = ""
    token: str = TOKEN
    redirect: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def make(self, name: str, files: dict[str, str] | None = None, branch: str = "main") -> Path:
        """A bare repository with one commit; returns a clone of it, to be changed and pushed."""
        bare, clone = self.root / f"{name}.git", self.root / "clones" / name
        bare.parent.mkdir(parents=True, exist_ok=True)
        clone.parent.mkdir(parents=True, exist_ok=True)
        git(self.root, "init", "-q", "--bare", f"--initial-branch={branch}", str(bare))
        git(bare, "config", "http.receivepack", "true")
        git(self.root, "clone", "-q", str(bare), str(clone))
        git(clone, "checkout", "-q", "-B", branch)
        for path, text in (files or {}).items():
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            (clone / path).write_text(text)
        self.push(clone)
        return clone

    def push(self, clone: Path, message: str = "next") -> str:
        """Commit everything in a clone and push it; returns the commit."""
        made = commit(clone, message)
        git(clone, "push", "-q", "origin", "HEAD")
        return made

    def http(self, name: str) -> str:
        """The address of a repository over http."""
        return f"{self.url}/{name}.git"


@contextlib.contextmanager
def forge(root: Path) -> Iterator[Forge]:
    """It, on a port of its own."""
    root.mkdir(parents=True, exist_ok=True)
    served = Forge(root)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            given = self.headers.get("Authorization", "")
            served.requests.append((self.path, given))
            body = self._body()
            if served.redirect:
                self.send_response(302)
                self.send_header("Location", served.redirect + self.path)
                self.end_headers()
            elif served.token and not _accepted(given, served.token):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="forge"')
                self.end_headers()
            else:
                self._backend(body)

        do_GET = do_POST = _handle

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _backend(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            env = {
                "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "forge",
                "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_GLOBAL": "/dev/null",
                "REMOTE_ADDR": "127.0.0.1",
            }  # fmt: skip
            done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True)
            head, _, answer = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _accepted(given: str, token: str) -> bool:
    kind, _, pair = given.partition(" ")
    return kind == "Basic" and base64.b64decode(pair).decode().partition(":")[2] == token


@dataclass(frozen=True)
class SshForge:
    """``known_hosts``: a line with the server's key; ``key``: the private key that it accepts."""

    port: int
    user: str
    known_hosts: str
    key: str

    def url(self, bare: Path) -> str:
        """The address of a repository."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{bare}"


@contextlib.asynccontextmanager
async def ssh_forge(directory: Path) -> AsyncIterator[SshForge]:
    """A real sshd for the user of the tests."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    allowed = directory / "authorized_keys"
    shutil.copy(directory / "client.pub", allowed)
    allowed.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    options = {
        "Port": str(port), "ListenAddress": "127.0.0.1", "HostKey": str(directory / "host"), "UsePAM": "no",
        "AuthorizedKeysFile": str(allowed), "StrictModes": "no", "PasswordAuthentication": "no",
        "PidFile": "none", "PermitRootLogin": "yes",
    }  # fmt: skip
    (directory / "config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(directory / "config")], stderr=subprocess.DEVNULL)
    try:
        await eventually(lambda: _listening(port))
        host = (directory / "host.pub").read_text().split()
        yield SshForge(
            port, os.environ.get("USER") or "root", f"[127.0.0.1]:{port} {host[0]} {host[1]}\n",
            (directory / "client").read_text(),
        )  # fmt: skip
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
