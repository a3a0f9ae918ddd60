"""Receivers of notifications: a web server that verifies signatures, and a mail server."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as SmtpServer
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from standardwebhooks import Webhook


@dataclass
class Got:
    """One request. ``event``: its document."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    def verified(self, key: str) -> Any:
        """The document, if the signature is right."""
        return Webhook(key).verify(self.body, self.headers)


@dataclass
class Receiver:
    """A web server. ``answers``: statuses by path, the last one stays; ``slow``: paths that answer after ``release``."""

    port: int = 0
    got: list[Got] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    said: bytes = b""
    slow: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str) -> list[Got]:
        """The requests of a path."""
        return [one for one in list(self.got) if one.path == path]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, path: str) -> int:
        """The status of the next answer."""
        left = self.answers.get(path, [200])
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A web server on a free port."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            receiver.got.append(Got(self.path, dict(self.headers.items()), body, time.monotonic()))
            if self.path in receiver.slow:
                receiver.release.wait(120)
            status = receiver.answer(self.path)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", receiver.url("/elsewhere"))
            self.send_header("content-length", str(len(receiver.said)))
            self.end_headers()
            self.wfile.write(receiver.said)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that are killed
    receiver.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        server.server_close()


@dataclass
class Mailbox:
    """A mail server that takes mail from who has logged in, after STARTTLS. ``refuse``: what it says to the next mails;
    ``ca``: the file with its certificate."""

    user: str
    password: str
    port: int = 0
    ca: str = ""
    mails: list[tuple[list[str], Message]] = field(default_factory=list)
    refuse: list[str] = field(default_factory=list)

    async def handle_DATA(self, server: SmtpServer, session: Session, envelope: Envelope) -> str:
        if self.refuse:
            return self.refuse.pop(0)
        assert session.ssl, "mail without TLS"
        assert isinstance(envelope.content, bytes)
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"

    def check(
        self, server: SmtpServer, session: Session, envelope: Envelope, mechanism: str, given: Any
    ) -> AuthResult:
        right = isinstance(given, LoginPassword) and (given.login, given.password) == (
            self.user.encode(),
            self.password.encode(),
        )
        return AuthResult(success=right, handled=False)


@contextmanager
def mail_server(key: Path, certificate: Path, user: str, password: str) -> Iterator[Mailbox]:
    """A mail server on a free port of 127.0.0.1."""
    mailbox = Mailbox(user, password)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    more: dict[str, Any] = {"tls_context": context, "require_starttls": True, "auth_required": True}
    # The library connects to the port that it is given, to see whether the server is there.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        mailbox.port = free.getsockname()[1]
    controller = Controller(mailbox, "127.0.0.1", mailbox.port, authenticator=mailbox.check, **more)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()
