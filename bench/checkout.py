"""The second run of a large repository with one changed file: bytes sent and time to the first step.

A real server and agent. The repository has 10,000 incompressible files, 1 GiB in total, and is sent with the code
of ``pilot pipeline run``. The time from the assignment of the first step to its first output is
measured with and without a prepared copy of the last tree on the agent. The reference is
a fresh clone of depth 1 from the same disk.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.common import HERE, Lab, Options, Row, Server, median, missed
from pilothouse.cli.checkout.known import KnownCommit, NewPack, StoredPack
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.repository import read_repository
from pilothouse.cli.checkout.sending import Packed, pack_tree
from pilothouse.cli.checkout.tree import read_tree

MIB = 1 << 20
FILE = 105 << 10  # bytes; 10,000 of them are 1 GiB
LIMIT = 4 << 30  # maximum bytes sent and checked out
SECONDS, KIB = 1.0, 64
"""Targets of the second run."""
RUNS = 4
SPARE_WITHIN = 120.0  # seconds

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


@dataclass(frozen=True, slots=True)
class Ran:
    """One run. ``client``: seconds to read, pack, upload and trigger; ``begins``: seconds from assignment to step."""

    sent: int
    client: float
    begins: float


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Build the repository, run it, then repeatedly change one file and run it again."""
    files = 600 if options.quick else 10_000
    source = lab.directory / "source"
    _build(source, files)
    with lab.server(max_blob=LIMIT) as server, _agent(lab, server) as client:
        first = client.run(source)
        ready = [_again(lab, source, client, copy=True) for _ in range(RUNS)]
        bare = [_again(lab, source, client, copy=False) for _ in range(RUNS)]
    clone = median([_clone(source, lab.directory / f"clone-{number}") for number in range(RUNS)])
    size = f"{files * FILE // MIB} MiB"
    yield Row(
        f"first run of a repository of {size}",
        f"{first.begins:.2f} s, {first.sent / MIB:.0f} MiB sent in {first.client:.1f} s",
    )
    begins = median([run.begins for run in ready])
    yield Row(
        f"second run of {size}, hand-out to first step",
        f"{begins:.2f} s",
        f"{clone:.2f} s (git clone --depth 1)",
        f"{begins / clone:.2f}×",
        f"≤ {SECONDS:g} s",
        begins <= SECONDS,
        missed(begins, SECONDS, least=False),
    )
    yield Row(
        "the same, the agent's copy of the tree not ready",
        f"{median([run.begins for run in bare]):.2f} s",
        f"{clone:.2f} s (git clone --depth 1)",
        f"{median([run.begins for run in bare]) / clone:.2f}×",
    )
    sent = max(run.sent for run in (*ready, *bare)) / 1024
    yield Row(
        f"second run of {size}, sent and fetched",
        f"{sent:.1f} KiB, {median([run.client for run in ready]):.2f} s",
        bar=f"≤ {KIB} KiB",
        met=sent <= KIB,
        why=missed(sent, KIB, least=False),
    )


def _build(source: Path, files: int) -> None:
    source.mkdir()
    _git(source, "init", "-q", "-b", "main")
    for number in range(files):
        directory = source / f"{number // 100:03}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number % 100:02}").write_bytes(os.urandom(FILE))
    # Large files go directly into one pack instead of separate files, each with fsync.
    _git(source, "-c", "core.bigFileThreshold=1", "add", ".")
    _git(source, "commit", "-q", "-m", "everything")


def _again(lab: Lab, source: Path, client: _Client, *, copy: bool) -> Ran:
    """Another run, with one file changed. ``copy``: the agent has a copy of the last tree ready, or else none."""
    objects = lab.directory / "agent" / "objects"
    deadline = time.monotonic() + SPARE_WITHIN
    while not (found := list(objects.glob("*/copy.json"))):
        if time.monotonic() > deadline:
            raise RuntimeError("the agent makes no copy of the tree")
        time.sleep(0.1)
    if not copy:
        found[0].unlink()
    (source / "000" / "01").write_bytes(os.urandom(100))
    _git(source, "commit", "-q", "-a", "-m", "change")
    return client.run(source)


def _git(source: Path, *arguments: str) -> str:
    settings = ["core.compression=0", "core.fsync=none", "gc.auto=0", "user.name=b", "user.email=b@b.example"]
    words = [word for setting in settings for word in ("-c", setting)]
    return subprocess.run(
        ["git", *words, *arguments], cwd=source, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def _clone(source: Path, target: Path) -> float:
    began = time.monotonic()
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{source}", str(target)], check=True)
    return time.monotonic() - began


class _Client:
    """The parts of ``pilot pipeline run`` that are measured."""

    def __init__(self, server: Server) -> None:
        headers = {"Authorization": f"Bearer {server.token}"}
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{server.port}/api/v1", headers=headers, timeout=120
        )
        made = self._ask("POST", "/pipelines", json={"name": "checkout"})["detail"]
        self._pipeline = made["pipelineId"]

    def run(self, source: Path) -> Ran:
        """Upload the work tree and run it."""
        began = time.monotonic()
        repository, options = read_repository(source), CheckoutOptions(depth=1)
        tree = read_tree(repository, options)
        commit = tree.parts[0].repository.commit
        key = tree.parts[0].repository.key
        known = {key: [_known(each) for each in self._ask_known(key)]}
        with tempfile.TemporaryDirectory(dir=source.parent) as directory:
            packed = pack_tree(tree, options, known, Path(directory), LIMIT)
            body = {"spec": SPEC, **self._send(packed), "branch": "main"}
        run = self._ask("POST", f"/pipelines/{self._pipeline}/trigger", json=body)["detail"]["runId"]
        client = time.monotonic() - began
        return Ran(packed.size, client, self._wait(run, commit))

    def _ask_known(self, key: str) -> list[Any]:
        return list(self._ask("GET", "/checkouts/known", params={"repository": key})["commits"])

    def _send(self, packed: Packed) -> dict[str, Any]:
        ids = {pack.sha256: self._upload(pack) for pack in packed.new_packs}
        repositories = [
            {
                "key": each.key,
                "commit": each.commit,
                "depth": each.depth,
                "packs": [ids[pack.sha256] if isinstance(pack, NewPack) else pack.id for pack in each.packs],
            }
            for each in packed.repositories
        ]
        return {"checkout": self._upload(packed.archive), "repositories": repositories}

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

    def _upload(self, pack: NewPack) -> str:
        with pack.file.open("rb") as file:
            return str(self._ask("POST", "/blobs", content=file)["id"])

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        if not answer.is_success:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()


def _known(answer: Any) -> KnownCommit:
    packs = tuple(StoredPack(pack["id"], pack["sha256"], pack["size"]) for pack in answer["packs"])
    return KnownCommit(answer["commit"], answer["depth"], packs)


@contextlib.contextmanager
def _agent(lab: Lab, server: Server) -> Iterator[_Client]:
    """A real agent of this server and a client."""
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
        try:
            agent.wait(60)
        except subprocess.TimeoutExpired:  # does not invalidate the measurements
            agent.kill()
            agent.wait()
