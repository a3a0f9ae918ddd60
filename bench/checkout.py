"""The second run of a large repository with one changed file: what travels, and how soon its first step begins.

A real server and a real agent. The repository has files that cannot be compressed. The client's side is made with
plain git commands; what is measured is from the hand-out of the first step to the first thing that it says. The peer
is what runners usually do: a fresh clone of depth 1, from this very disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.common import HERE, Lab, Options, Row, Server, missed

MIB = 1 << 20
SECONDS, KIB = 1.0, 64
"""The bars of the second run."""
RUNS = 4

SPEC = {
    "jobs": [
        {
            "name": "look",
            "steps": [
                {
                    "name": "look",
                    "uses": "shell",
                    "args": {"command": "date +now=%s%N; git status --porcelain; git rev-parse HEAD"},
                }
            ],
        }
    ]
}


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Builds the repository, runs it, then changes one file and runs it again, a few times."""
    files = 64 if options.quick else 1000
    source = lab.directory / "source"
    _build(source, files)
    with lab.server(max_blob=4 << 30) as server, _agent(lab, server) as client:
        runs = [client.run(source)]
        for number in range(RUNS):
            (source / "file-0001").write_bytes(os.urandom(100))
            _git(source, "commit", "-q", "-a", "-m", f"change {number}")
            runs.append(client.run(source))
    clones = [_clone(source, lab.directory / f"clone-{number}") for number in range(RUNS)]
    first, again = runs[0], sorted(runs[1:])[RUNS // 2]
    size = f"{files} MiB"
    yield Row(f"first run of a repository of {size}", f"{first[0]:.2f} s, {first[1] / MIB:.0f} MiB sent")
    yield Row(
        f"second run of {size}, hand-out to first step",
        f"{again[0]:.2f} s",
        f"{sorted(clones)[RUNS // 2]:.2f} s (git clone --depth 1)",
        f"{again[0] / sorted(clones)[RUNS // 2]:.2f}×",
        f"≤ {SECONDS:g} s",
        again[0] <= SECONDS,
        missed(again[0], SECONDS, least=False),
    )
    sent = max(run[1] for run in runs[1:]) / 1024
    yield Row(
        f"second run of {size}, sent and fetched",
        f"{sent:.1f} KiB",
        bar=f"≤ {KIB} KiB",
        met=sent <= KIB,
        why=missed(sent, KIB, least=False),
    )


def _build(source: Path, files: int) -> None:
    source.mkdir()
    _git(source, "init", "-q", "-b", "main")
    for number in range(files):
        (source / f"file-{number:04}").write_bytes(os.urandom(MIB))
    _git(source, "add", ".")
    _git(source, "commit", "-q", "-m", "everything")
    _git(source, "repack", "-a", "-d", "-q")  # as a repository is that was cloned


def _git(source: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    settings = [
        "-c",
        "core.compression=0",
        "-c",
        "pack.window=0",  # random files have nothing in common
        "-c",
        "gc.auto=0",
        "-c",
        "user.name=b",
        "-c",
        "user.email=b@b.example",
    ]
    return subprocess.run(
        ["git", *settings, *arguments], cwd=source, input=stdin, stdout=subprocess.PIPE, check=True
    ).stdout


def _clone(source: Path, target: Path) -> float:
    began = time.monotonic()
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{source}", str(target)], check=True)
    return time.monotonic() - began


class _Client:
    """What ``pilot pipeline run`` does, as far as it matters here."""

    def __init__(self, server: Server) -> None:
        headers = {"Authorization": f"Bearer {server.token}"}
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{server.port}/api/v1", headers=headers, timeout=120
        )
        made = self._ask("POST", "/pipelines", json={"name": "checkout"})["detail"]
        self._pipeline = made["pipelineId"]

    def run(self, source: Path) -> tuple[float, int]:
        """Send the work tree and run it: seconds from hand-out to first step, and bytes sent."""
        commit = _git(source, "rev-parse", "HEAD").decode().strip()
        known = self._ask("GET", "/checkouts/known", params={"repository": "dir:bench"})["commits"]
        base = known[0] if known else {"packs": [], "commit": ""}
        without = [f"^{base['commit']}"] if known else []
        listed = _git(source, "rev-list", "--objects", "--max-count=1", commit, *without)
        ids = b"".join(line.split()[0] + b"\n" for line in listed.splitlines())
        pack = _git(source, "pack-objects", "--stdout", "-q", stdin=ids)
        digests = [each["sha256"] for each in base["packs"]] + [hashlib.sha256(pack).hexdigest()]
        archive = _archive(commit, digests)
        packs = [each["id"] for each in base["packs"]] + [self._upload(pack)]
        repository = {"key": "dir:bench", "commit": commit, "depth": 1, "packs": packs}
        body = {
            "spec": SPEC,
            "checkout": self._upload(archive),
            "repositories": [repository],
            "branch": "main",
        }
        run = self._ask("POST", f"/pipelines/{self._pipeline}/trigger", json=body)["detail"]["runId"]
        return self._wait(run, commit), len(pack) + len(archive)

    def _wait(self, run: str, commit: str) -> float:
        while (view := self._ask("GET", f"/workflow-runs/{run}"))["status"] in (
            "pending",
            "queued",
            "running",
        ):
            time.sleep(0.1)
        said = self._http.get(f"/workflow-runs/{run}/logs").text.split()
        if view["status"] != "succeeded" or said[1:] != [commit]:
            raise RuntimeError(f"the run {view['status']}, and its step said {said}: {view['jobs']}")
        queued = view["jobs"][0]["steps"][0]["attempts"][0]["queued_at"]
        return int(said[0].removeprefix("now=")) / 1e9 - datetime.fromisoformat(queued).timestamp()

    def _upload(self, data: bytes) -> str:
        return str(self._ask("POST", "/blobs", content=data)["id"])

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        if not answer.is_success:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()


def _archive(commit: str, packs: list[str]) -> bytes:
    repository = {
        "path": "",
        "key": "dir:bench",
        "commit": commit,
        "branch": "main",
        "depth": 1,
        "packs": packs,
    }
    manifest = {"version": 1, "git": True, "repositories": [{**repository, "shallow": [commit]}]}
    packed, text = io.BytesIO(), json.dumps(manifest).encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return packed.getvalue()


@contextlib.contextmanager
def _agent(lab: Lab, server: Server) -> Iterator[_Client]:
    """A real agent of this server, and a client."""
    token = server.ask("registration")["token"]
    options = {
        "--server": f"http://127.0.0.1:{server.port}",
        "--grpc": server.grpc,
        "--name": "bench",
        "--slots": "2",
        "--data-dir": str(lab.directory / "agent"),
        "--max-checkout": str(4 << 30),
    }
    words = [word for pair in options.items() for word in pair]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    with (lab.directory / "agent.log").open("ab") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "pilothouse", "agent", *words],
            cwd=HERE.parent,
            env={**environment, "PILOT_AGENT_TOKEN": token},
            stdout=log,
            stderr=log,
        )
    try:
        yield _Client(server)
    finally:
        agent.terminate()
        agent.wait(20)
