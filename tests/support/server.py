"""A real server in a process of its own, on free ports and a fresh data directory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from pilothouse.server.operations import KEEP
from support import nursery
from support.databases import drop_database, server_database
from support.waiting import PATIENCE

PASSWORD = "correct horse battery"
_PROGRAM = """
import json, sys
import pilothouse
pilothouse.__version__ = "".join(sys.argv[2:]) or pilothouse.__version__
import uvloop
from pilothouse.server.main import serve
from pilothouse.server.settings import Settings
sys.exit(uvloop.run(serve(Settings(**json.loads(sys.argv[1])))))
"""
_UNLIMITED = {"ratelimit_login": "off", "ratelimit_sessions": "off", "ratelimit_default": "off"}
_READY = re.compile(r"pilothouse ready http=(https?://\S+:(\d+)) grpc=(\S+:(\d+))")

S = TypeVar("S", bound="Server")
Process = subprocess.Popen[str] | nursery.Forked


class Server:
    """One server. ``settings`` are those of ``pilothouse.server.settings``; unlimited unless said otherwise.

    ``version``: the release that it takes itself for from its next start on; empty: what it is.

    Its data is in its directory, or in a new database of our PostgreSQL (``support.databases``).
    """

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.data_dir = directory / "data"
        self.version = ""
        self._database = None if "database_url" in settings else server_database()
        self.settings: dict[str, Any] = {
            "port": 0,
            "grpc_port": 0,
            "log_format": "json",
            "admin_password": PASSWORD,
            **_UNLIMITED,
            **settings,
            "data_dir": str(self.data_dir),
        }
        if self._database is not None:
            self.settings["database_url"] = self._database
        self.log_file = directory / "server.log"
        self._process: Process | None = None
        self._tokens: dict[str, str] = {}
        self._exited: int | None = None
        self._seen = 0
        self.url = self.grpc = ""
        self.issued: set[str] = set()
        """Tokens that it handed out, which it must neither store nor log."""
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        self.http = httpx.Client(verify=False, cookies=no_cookies, timeout=PATIENCE)
        """A client with connection reuse but without cookies: credentials are always explicit."""

    # -- the process ------------------------------------------------------------------------------------

    def spawn(self) -> Process:
        """Start the process and wait for nothing."""
        arguments = json.dumps(self.settings), self.version
        # What is imported already knows its release, and is not what a test puts on the path.
        if not self.version and "PYTHONPATH" not in os.environ:
            self._process = nursery.server(_PROGRAM, arguments, self.log_file)
            return self._process
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        with self.log_file.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        return self._process

    def start(self: S) -> S:
        """Start and wait for the ready line with the ports, which a restart reuses."""
        process = self.spawn()
        line = first_line(process, 100)  # at once if it ends; so long only on a machine that is busy
        if not line:  # its output has ended, so it has ended, or is about to
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        match = _READY.fullmatch(line.rstrip("\n"))
        assert match, f"no ready line but {line!r}; exit code {process.poll()}\n{self.log()}"
        self.url, self.grpc = match[1], match[3]
        self.settings["port"], self.settings["grpc_port"] = int(match[2]), int(match[4])
        return self

    def stop(self) -> float:
        """SIGTERM; it must exit with 0 within 10 s (decisions.md). Returns the seconds it took."""
        process = self._running()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
        assert code == 0, f"exit code {code}\n{self.log()}"
        return time.monotonic() - began

    def kill9(self) -> None:
        """No goodbye."""
        process = self._running()
        process.kill()
        process.wait(PATIENCE)

    def restart(self: S) -> S:
        """Start again on the same ports and the same data directory."""
        return self.start()

    def close(self) -> None:
        """For teardown: whatever is left of it ends."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        self.http.close()
        if self._database is not None:
            drop_database(self._database)

    @property
    def alive(self) -> bool:
        """Whether the process runs and answers."""
        if self._process is None or self._process.poll() is not None:
            return False
        return self.http.get(f"{self.url}/readyz").status_code == 200

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._running().pid

    def log(self) -> str:
        """Everything on its stderr so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def forget_failures(self) -> None:
        """What its log tells so far is somebody else's business."""
        self._seen = len(self.log())

    def failures(self) -> list[str]:
        """Unexpected errors in its log: internal errors and unhandled exceptions."""
        found, trace = [], None
        for line in self.log()[self._seen :].splitlines():
            if line.startswith("Traceback"):
                trace = []
            elif trace is not None and line.startswith((" ", "\t")):
                trace.append(line.strip())
            elif trace is not None:
                ours = [at for at in trace if "/pilothouse/" in at]
                found += [f"{line[:300]}, at {ours[-1]}"] if ours else []
                trace = None
            elif '"level": "error"' in line or "never retrieved" in line:
                found.append(line[:2000])
        return found

    def shown_secrets(self) -> list[str]:
        """Where its log or its files show the password of the tests' users, or a token that it handed out."""
        files = [path for path in (self.log_file, *self.data_dir.rglob("*")) if path.is_file()]
        secrets = [secret.encode() for secret in (PASSWORD, *self.issued)]
        found = []
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                data = path.read_bytes()
                found += [f"{path.name}: {secret[:12]!r}…" for secret in secrets if secret in data]
        return found

    def _running(self) -> Process:
        assert self._process is not None, "not started"
        return self._process

    # -- talking to it ----------------------------------------------------------------------------------

    @property
    def ws(self) -> str:
        """The address for WebSockets."""
        return self.url.replace("http", "ws", 1)

    @property
    def admin(self) -> str:
        """A token of ``admin``; the same until a restart loses nothing."""
        if "admin" not in self._tokens:
            self._tokens["admin"] = self.login("admin", PASSWORD)
        return self._tokens["admin"]

    def call(self, method: str, path: str, token: str | None = "admin", **more: Any) -> httpx.Response:
        """Send one request; ``path`` is relative to ``/api/v1`` unless it has the base. ``token`` None: unauthenticated."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {self.admin if token == 'admin' else token}"
        root = path if path.startswith(("/api/", "/healthz", "/readyz", "/metrics", "/openapi")) else ""
        url = self.url + (root or f"/api/v1{path}")
        return self.http.request(method, url, headers=headers, **more)

    def ask(self, method: str, path: str, token: str | None = "admin", **more: Any) -> Any:
        """The same, where it must succeed: the body, out of its envelope."""
        answer = self.call(method, path, token, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        body = answer.json() if answer.content else None
        return body["detail"] if isinstance(body, dict) and body.get("msg") == "success" else body

    def metric(self, series: str) -> float:
        """The value of a series (its name, with its labels as ``/metrics`` shows them) now.

        An answer may be ``KEEP`` seconds old, so it is asked for when those have passed.
        """
        time.sleep(KEEP)
        text = self.call("GET", "/metrics", None).text
        [value] = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        return float(value)

    def login(self, username: str, password: str = PASSWORD) -> str:
        """A session token."""
        answer = self.call("POST", "/auth/login", None, json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        token = str(answer.json()["token"])
        self.issued.add(token)
        return token

    def user(self, name: str, role: str = "user", projects: list[str] | None = None) -> str:
        """Create a user (by default in the default project); returns a token."""
        body = {"username": name, "password": PASSWORD, "role": role, "projects": projects}
        if projects is None:
            del body["projects"]
        self.ask("POST", "/users", json=body)
        return self.login(name)

    def project(self, name: str, members: list[str] | None = None) -> str:
        """A new project's id."""
        made = self.ask("POST", "/projects", json={"name": name, "members": members or []})
        return str(made["projectId"])

    @property
    def default_project(self) -> str:
        """The id of the project that is there from the start."""
        found = self.ask("GET", "/projects")["list"]
        return str(next(project["projectId"] for project in found if project["isDefault"]))

    def registration_token(self, **body: Any) -> str:
        """A token with which agents may register."""
        token = str(self.ask("POST", "/registration-tokens", json=body)["token"])
        self.issued.add(token)
        return token

    def pipeline(self, name: str, spec: Any, token: str = "admin", project: str = "") -> str:
        """A new pipeline with a spec; its id."""
        made = self.ask("POST", "/pipelines", token, json={"name": name, "projectId": project})
        pipeline_id = str(made["pipelineId"])
        self.ask("POST", f"/pipelines/{pipeline_id}/spec/save", token, json={"spec": spec})
        return pipeline_id

    def trigger(self, pipeline_id: str, token: str = "admin", **body: Any) -> str:
        """A new run's id."""
        return str(self.ask("POST", f"/pipelines/{pipeline_id}/trigger", token, json=body)["runId"])


@contextlib.contextmanager
def running(directory: Path, **settings: Any) -> Iterator[Server]:
    """A started server that is surely gone afterwards."""
    server = Server(directory, **settings)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def one_server(tmp_path_factory: pytest.TempPathFactory, database_of_servers: None) -> Iterator[Server]:
    """A server with the usual settings, started once in each test process."""
    with running(tmp_path_factory.mktemp("shared")) as server:
        yield server
        assert server.shown_secrets() == []


@pytest.fixture(scope="module")
def shared_server(one_server: Server) -> Server:
    """The server of all files that need no settings of their own, and leave it running.

    Names of users, projects, agents, pipelines, and secrets are unique in the suite. What a test sees that asks for
    everything (all agents, all events) holds what others have left.
    """
    if not one_server.alive:
        one_server.restart()  # whoever ended it has failed already
    one_server.forget_failures()
    return one_server


def spec_for(agent: str, *steps: str) -> dict[str, Any]:
    """A spec of one job whose steps go to the agent of that name."""
    selector = {"matchLabels": {"only": agent}}
    made = [
        {"name": name, "uses": "shell", "args": {"command": "true"}, "agentSelector": selector}
        for name in steps or ("work",)
    ]
    return {"jobs": [{"name": "build", "steps": made}]}


def first_line(process: Process, seconds: float) -> str:
    """What it says first on stdout; nothing if it ends, or keeps silent for so long."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:  # to the end, so that the server never waits for us
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return ""
