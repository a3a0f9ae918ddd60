"""A fake server with canned responses for tests of the CLI, and a run for them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

RUN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
OTHER = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60aaaa"


class Fake(BaseHTTPRequestHandler):
    """A fake server: ``answers`` by method and path."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    seen: ClassVar[list[tuple[str, Any, str]]] = []

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        path = self.path.split("?")[0].removeprefix("/api/v1")
        self.seen.append(
            (f"{self.command} {path}", body and json.loads(body), self.headers.get("Authorization", ""))
        )
        status, answer = self.answers.get(
            f"{self.command} {path}", (404, {"message": f"no {path}", "code": "NOT_FOUND"})
        )
        stream = isinstance(answer, list)
        data = b"".join(answer) if stream else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving() -> Iterator[type[Fake]]:
    """Such a server on a port of its own, at ``url``."""
    handler = type("Handler", (Fake,), {"answers": {}, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def summary(id: str, status: str) -> dict[str, Any]:
    return {
        "id": id,
        "kind": "pipeline",
        "name": "hello",
        "status": status,
        "reason": "",
        "project": "p",
        "pipeline_id": "x",
        "trigger": "manual",
        "triggered_by": "admin",
        "branch": "",
        "commit_sha": "",
        "tag": "",
        "dirty": False,
        "rerun_of": None,
        "created_at": "2026-01-10T14:23:45.000Z",
        "started_at": "2026-01-10T14:23:45.000Z",
        "finished_at": None,
        "duration": None,
    }


def story(status: str) -> list[bytes]:
    keys = {"run_id": RUN, "name": "hello", "job_id": "j", "job": "build", "step_id": "s", "step": "compile"}
    told = [
        ("run.started", {}),
        ("step.started", {"agent_id": "local", "attempt": 1}),
        ("step.logged", {"lines": ["\x1b[31mhello\x1b[0m"]}),
        ("run.completed", {"status": status, "reason": "", "duration": 1500}),
    ]
    frames = []
    for number, (type, more) in enumerate(told):
        event = {"type": type, "time": "2026-01-10T14:23:46Z", "source": "/run/x", "data": {**keys, **more}}
        frames.append(f"id: e.{number}.0\nevent: {type}\ndata: {json.dumps(event)}\n\n".encode())
    return frames


def logged_in(fake: type[Fake]) -> tuple[str, ...]:
    return ("--server", fake.url, "--token", "tok")  # type: ignore[attr-defined]


NO_PIPELINES = {"code": 200, "detail": {"list": [], "total": 0, "page": 1, "pageSize": 100}}


def step_view(name: str, status: str = "succeeded", **more: Any) -> dict[str, Any]:
    """A step of a run's view, with one attempt."""
    attempt = {
        "step_run_id": f"attempt-of-{name}",
        "number": 1,
        "status": status,
        "exit_code": 0,
        "error": "",
        "reason": "",
        "agent_id": "local",
        "lines": 1,
        "earlier_run": False,
        "queued_at": None,
        "started_at": None,
        "finished_at": None,
    }
    step = {
        "id": name,
        "name": name,
        "node": name,
        "uses": "shell",
        "status": status,
        "reason": "",
        "outputs": {},
        "progress": 0,
        "continue_on_error": False,
        "kept": False,
        "started_at": None,
        "finished_at": None,
        "attempts": [attempt],
    }
    return {**step, **more}


def job_view(name: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A job of a run's view."""
    times = {"started_at": None, "finished_at": None}
    return {
        "id": name,
        "name": name,
        "status": "succeeded",
        "reason": "",
        "steps": list(steps),
        **times,
        **more,
    }


def chunk(job: str, step: str, *lines: str, **more: Any) -> bytes:
    """A chunk of a log, as ``format=ndjson`` gives it."""
    body = {
        "job": job,
        "step": step,
        "step_run_id": f"attempt-of-{step}",
        "attempt": 1,
        "time": 1768055025123,
    }
    return json.dumps({**body, "first": 1, "lines": lines, **more}).encode() + b"\n"


END = json.dumps({"cursor": "0123abcd.9.0", "status": "succeeded"}).encode() + b"\n"
"""The last object of a log."""


def logged(fake: type[Fake], *chunks: bytes) -> None:
    """A run of one job and step, over, with this log."""
    view = {**summary(RUN, "succeeded"), "variables": {}, "jobs": [job_view("build", step_view("compile"))]}
    fake.answers[f"GET /workflow-runs/{RUN}"] = (200, view)
    fake.answers[f"GET /workflow-runs/{RUN}/logs"] = (200, [*chunks, END])


def watched(fake: type[Fake], status: str) -> None:
    view = {**summary(RUN, "running"), "variables": {}, "jobs": []}
    fake.answers.update(
        {
            f"GET /workflow-runs/{RUN}": (200, view),
            "GET /workflow-runs": (
                200,
                {
                    "runs": [summary(RUN, status), summary(OTHER, "failed")],
                    "pagination": {"page": 1, "limit": 100, "total": 2, "total_pages": 1},
                },
            ),
            "GET /events": (200, story(status)),
            "GET /pipelines": (200, NO_PIPELINES),
        }
    )
