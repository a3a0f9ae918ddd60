"""Whoever loses a right while the body of their request arrives no longer makes that request."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from support.http_server import everything
from support.server import Server
from support.waiting import PATIENCE

FILE = "application/octet-stream"


class Slow:
    """A request of which the last byte has not been sent, and whose checks at its beginning have passed."""

    def __init__(self, server: Server, token: str, method: str, path: str, body: Any) -> None:
        self._body = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = FILE if isinstance(body, bytes) else "application/json"
        lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(self._body)}"]
        lines += ["Expect: 100-continue", "Connection: close", "", ""]
        self._sock = socket.create_connection(("127.0.0.1", int(server.settings["port"])))
        self._sock.settimeout(PATIENCE)
        self._sock.sendall("\r\n".join(lines).encode())
        assert self._sock.recv(25).startswith(b"HTTP/1.1 100")
        self._sock.sendall(self._body[:-1])

    def end(self) -> int:
        """Send the last byte; the status of the answer."""
        with self._sock:
            self._sock.sendall(self._body[-1:])
            return int(everything(self._sock).split()[1])


def deactivate(server: Server, name: str, token: str, project: str) -> None:
    server.ask("DELETE", f"/users/{name}")


def end_logins(server: Server, name: str, token: str, project: str) -> None:
    server.ask("DELETE", f"/auth/sessions?user={name}")


def log_out(server: Server, name: str, token: str, project: str) -> None:
    server.ask("POST", "/auth/logout", token)


def demote(server: Server, name: str, token: str, project: str) -> None:
    server.ask("PATCH", f"/users/{name}", json={"role": "viewer"})


def remove(server: Server, name: str, token: str, project: str) -> None:
    server.ask("DELETE", f"/projects/{project}/members/{name}")


@pytest.mark.parametrize(
    ("lose", "status"),
    [(deactivate, 401), (end_logins, 401), (log_out, 401), (demote, 403), (remove, 404)],
)
def test_a_user_who_loses_their_rights_meanwhile(
    shared_server: Server, lose: Callable[[Server, str, str, str], None], status: int
) -> None:
    name = f"slow-{uuid4().hex[:8]}"
    token = shared_server.user(name)
    project = shared_server.project(name, [name])
    secret = {"value": "kept", "projectId": project}
    requests = [
        Slow(shared_server, token, "POST", "/pipelines", {"name": name, "projectId": project}),
        Slow(shared_server, token, "PUT", "/secrets/LATE", secret),
    ]
    upload = Slow(shared_server, token, "POST", f"/blobs?project={project}", b"late")
    form = Slow(shared_server, token, "POST", f"/uploads?name=late&projectId={project}", b"late")
    lose(shared_server, name, token, project)
    assert [request.end() for request in requests] == [status, status]
    for request in (upload, form):
        assert request.end() == (403 if lose is remove else status)
    assert shared_server.ask("GET", f"/uploads?projectId={project}")["total"] == 0
    assert shared_server.ask("GET", f"/secrets?projectId={project}")["total"] == 0
    assert shared_server.ask("GET", f"/pipelines?projectId={project}")["total"] == 0


def test_an_admin_who_becomes_a_viewer_meanwhile(shared_server: Server) -> None:
    name = f"slow-{uuid4().hex[:8]}"
    token = shared_server.user(name, "admin")
    friend = {"username": f"{name}-friend", "password": "correct horse battery", "role": "admin"}
    requests = [
        Slow(shared_server, token, "PATCH", f"/users/{name}", {"role": "admin"}),
        Slow(shared_server, token, "POST", "/users", friend),
        Slow(shared_server, token, "POST", "/registration-tokens", {"description": name}),
    ]
    demote(shared_server, name, token, "")
    assert [request.end() for request in requests] == [403, 403, 403]
    assert shared_server.ask("GET", f"/users/{name}")["role"] == "viewer"
    assert shared_server.call("GET", f"/users/{name}-friend").status_code == 404


def test_who_keeps_their_rights_is_served(shared_server: Server) -> None:
    name = f"slow-{uuid4().hex[:8]}"
    token = shared_server.user(name)
    project = shared_server.project(name, [name])
    made = Slow(shared_server, token, "POST", "/pipelines", {"name": name, "projectId": project})
    upload = Slow(shared_server, token, "POST", f"/blobs?project={project}", b"in time")
    assert (made.end(), upload.end()) == (201, 201)
