"""A stand-in for the server of ``pilot pipeline run``: it keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = "p1"
RUN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
SPEC = "name: x\njobs: []\n"


class Server:
    """Answers what a run asks for. ``seen``: method, path and body of each request.

    Until ``slowly`` is set, ``pause`` seconds pass before the known commits are told and before each 256 KiB of a
    blob are read (0.1 s of those where ``pause`` is 0).
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.known: list[dict[str, Any]] = []
        self.refused = ""
        self.lacking = False
        self.slowly: threading.Event | None = None
        self.pause = 0.0
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and document."""
        self.seen.append((method, path, body))
        plain = path.partition("?")[0].removeprefix("/api/v1")
        if plain == self.refused:
            return 413, {"message": "too large", "code": "PAYLOAD_TOO_LARGE"}
        match method, plain:
            case _, "/pipelines/spec/validate":
                if self.lacking:
                    problem = {"message": "it lacks something", "line": 2, "path": "jobs"}
                    details = {"problems": [problem]}
                    return 400, {"errMsg": "invalid", "errorCode": "SPEC_INVALID", "details": details}
                return 200, {"detail": {"warnings": [], "jobsCount": 1}}
            case "GET", "/checkouts/known":
                if self.slowly is not None:
                    self.slowly.wait(self.pause)
                return 200, {"commits": self.known}
            case "POST", "/blobs":
                return 201, {"id": f"blob{len(self.sent('/blobs'))}", "sha256": "", "size": len(body)}
            case "GET", "/projects":
                project = {"projectId": PROJECT, "name": "default", "isDefault": True}
                return 200, {"detail": {"list": [project], "total": 1, "page": 1, "pageSize": 100}}
            case "GET", "/pipelines":
                return 200, {"detail": {"list": [], "total": 0, "page": 1, "pageSize": 100}}
            case ("POST", "/pipelines") | ("GET", "/pipelines/pl"):
                return 200, {"detail": {"pipelineId": "pl", "name": "repo", "lastCommitSha": ""}}
            case "POST", "/pipelines/pl/trigger":
                return 201, {"detail": {"runId": RUN}}
        return 200, {"detail": {"pipelineId": "pl", "commitSha": "x"}}

    def sent(self, end: str) -> list[bytes]:
        """Bodies of POSTs to paths that end so."""
        return [
            body for method, path, body in self.seen if method == "POST" and path.split("?")[0].endswith(end)
        ]

    @property
    def trigger(self) -> dict[str, Any]:
        """The body of the trigger."""
        [body] = self.sent("/trigger")
        found: dict[str, Any] = json.loads(body)
        return found


@contextmanager
def serving(server: Server) -> Iterator[None]:
    """It, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            left, parts = int(self.headers.get("Content-Length") or 0), []
            while left > 0:
                if server.slowly is not None and self.path.startswith("/api/v1/blobs"):
                    server.slowly.wait(server.pause or 0.1)
                parts.append(self.rfile.read(min(left, 1 << 18)))
                left -= len(parts[-1])
            body = b"".join(parts)
            status, document = server.answer(self.command, self.path, body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _handle

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    yield
    http.shutdown()
    thread.join()
    http.server_close()
