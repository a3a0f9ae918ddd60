"""`pilot pipeline run` sends the work tree in front of it, and leaves nothing behind where it cannot."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pilothouse.cli.checkout import interrupt
from pilothouse.cli.checkout.git import Git
from support import nursery
from support.checkout_kit import commit, git
from support.checkout_states import base, write
from support.waiting import PATIENCE, eventually

PROJECT = "p1"
RUN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
SPEC = "name: x\njobs: []\n"


class Server:
    """Answers what a run asks for. ``seen``: method, path and body of each request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.known: list[dict[str, Any]] = []
        self.refused = ""
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and document."""
        self.seen.append((method, path, body))
        plain = path.partition("?")[0].removeprefix("/api/v1")
        if plain == self.refused:
            return 413, {"message": "too large", "code": "PAYLOAD_TOO_LARGE"}
        match method, plain:
            case _, "/pipelines/spec/validate":
                return 200, {"detail": {"warnings": [], "jobsCount": 1}}
            case "GET", "/checkouts/known":
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
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
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


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with serving(made):
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = base(tmp_path / "repo")
    write(found, ".pilot.yaml", SPEC)
    commit(found)
    return found


Pilot = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def pilot(tmp_path: Path, server: Server) -> Pilot:
    """``pilot pipeline run --detach`` in a directory."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PILOT_", "GIT_"))
    } | {
        "PILOT_CONFIG_HOME": str(tmp_path / "config"),
        "PILOT_TOKEN": "t",
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }

    def run(directory: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ("pipeline", "run", "--detach", *arguments)
        env = environment | {"PILOT_SERVER": server.url} | more
        return nursery.pilot(words, cwd=directory, env=env, timeout=2 * PATIENCE)

    return run


def test_a_work_tree_is_sent(root: Path, server: Server, pilot: Pilot) -> None:
    git(root, "remote", "add", "origin", "https://me:hush@git.example/team/shop.git")
    git(root, "tag", "v1")
    write(root, "a", "changed")
    done = pilot(root / "dir")
    assert (done.returncode, done.stdout.strip()) == (0, RUN), done.stderr
    assert "sending 1 changed file and " in done.stderr
    head = git(root, "rev-parse", "HEAD").decode().strip()
    assert server.trigger["repositories"] == [
        {"key": "https://git.example/team/shop", "commit": head, "depth": 1, "packs": ["blob1"]}
    ]
    expected = {"branch": "main", "commitSha": head, "tag": "v1", "dirty": True, "checkout": "blob2"}
    assert {name: server.trigger[name] for name in expected} == expected
    pack, archive = server.sent("/blobs")
    assert pack.startswith(b"PACK")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["manifest.json", "files/a"]
    assert not any(b"hush" in body or "hush" in path for _, path, body in server.seen)


def test_what_the_server_knows_is_not_sent(root: Path, server: Server, pilot: Pilot) -> None:
    head = git(root, "rev-parse", "HEAD").decode().strip()
    packs = [{"id": "kept", "sha256": "0" * 64, "size": 7}]
    server.known = [{"commit": head, "depth": 1, "packs": packs}]
    done = pilot(root)
    assert done.returncode == 0, done.stderr
    assert "sending 0 changed files and no new objects of" in done.stderr
    assert len(server.sent("/blobs")) == 1
    assert server.trigger["repositories"][0]["packs"] == ["kept"]
    assert "dirty" not in server.trigger


def test_a_plain_directory_is_sent(tmp_path: Path, server: Server, pilot: Pilot) -> None:
    write(tmp_path / "plain", ".pilot.yaml", SPEC)
    done = pilot(tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert not {"repositories", "dirty", "tag"} & server.trigger.keys()
    assert server.trigger["checkout"] == "blob1"


def test_a_spec_elsewhere_is_only_read(root: Path, tmp_path: Path, server: Server, pilot: Pilot) -> None:
    write(tmp_path / "elsewhere", "y.yaml", SPEC + "checkout: {depth: 0}\n")
    done = pilot(root / "dir", "-f", "../../elsewhere/y.yaml")
    assert done.returncode == 0, done.stderr
    assert server.trigger["repositories"][0]["commit"] == git(root, "rev-parse", "HEAD").decode().strip()
    assert server.trigger["repositories"][0]["depth"] == 0, "its options count"
    assert f"of {root} " in done.stderr


def test_no_checkout(root: Path, server: Server, pilot: Pilot) -> None:
    done = pilot(root, "--no-checkout")
    assert done.returncode == 0, done.stderr
    assert server.trigger["checkout"] == ""
    assert server.trigger["branch"] == "main"
    assert not server.sent("/blobs")


@pytest.mark.parametrize("why", ["too large", "no git", "damaged", "unreadable submodule"])
def test_nothing_is_created_where_the_work_tree_cannot_be_sent(
    root: Path, tmp_path: Path, server: Server, pilot: Pilot, why: str
) -> None:
    environment = {}
    if why == "too large":
        write(root, "large", os.urandom(1 << 16))
        environment["PILOT_MAX_CHECKOUT"] = "10k"
    elif why == "no git":
        environment["PATH"] = str(tmp_path)
    elif why == "damaged":
        (root / ".git/index").write_bytes(b"none")
    else:
        write(root, ".pilot.yaml", SPEC + "checkout: {submodules: true}\n")
        base(root / "inner")
        git(root, "add", "-A")
        (root / "inner/.git/HEAD").write_text("nonsense\n")
    done = pilot(root, **environment)
    assert done.returncode == 1, done
    said = {
        "too large": "is over 10.0 KiB packed; its largest files: large (64.0 KiB)",
        "no git": "is a git work tree, but there is no git in PATH",
        "damaged": "git: fatal: .git/index: index file smaller than expected",
        "unreadable submodule": "inner/.git, but git does not take it for a repository",
    }[why]
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    created = [path for method, path, _ in server.seen if method != "GET" and not path.endswith("/validate")]
    assert created == []


def test_a_refused_upload_starts_nothing(root: Path, server: Server, pilot: Pilot) -> None:
    server.refused = "/blobs"
    done = pilot(root)
    assert done.returncode != 0
    assert "too large" in done.stderr
    assert not server.sent("/trigger")


def test_what_is_left_out_is_said(root: Path, tmp_path: Path, server: Server, pilot: Pilot) -> None:
    git(root, "submodule", "add", "-q", str(base(tmp_path / "library")), "lib\x1b[31m")
    done = pilot(root)
    assert done.returncode == 0, done.stderr
    assert "1 submodule (lib) left out: `checkout: {submodules: true}` in the spec sends them" in done.stderr
    assert "\x1b" not in done.stderr


async def test_a_cancelled_call_of_git_ends(root: Path) -> None:
    """As after Ctrl-C: git, and what it started, is killed, and the thread does not go on."""
    pids: list[int] = []
    after = threading.Event()
    original = interrupt.began

    def began(process: subprocess.Popen[bytes]) -> None:
        pids.append(process.pid)
        original(process)

    def work() -> None:
        git_ = Git(root)
        try:
            git_.answer("-c", "alias.wait=!sleep 600", "wait")
            git_.answer("version")
        finally:
            after.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interrupt, "began", began)
        task = asyncio.create_task(interrupt.in_thread(work))
        await eventually(lambda: bool(pids))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(after.wait, PATIENCE)
    assert len(pids) == 1, "the second call of git did not begin"
