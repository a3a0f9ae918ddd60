"""Backup and restore of PostgreSQL with the commands of docs/operations.md, on a running server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import DOCS
from support.postgres import Postgres, binaries
from support.server import Server, running, spec_for

pytestmark = pytest.mark.postgres


def commands(beginning: str, url: str, data_dir: Path, backup: Path) -> None:
    """Run the one block of the page that begins so."""
    page = (DOCS / "operations.md").read_text()
    [code] = [
        c
        for c in re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        if c.startswith(beginning)
    ]
    code = code.replace("/var/lib/pilothouse", str(data_dir)).replace("/backup", str(backup))
    environment = {
        **os.environ,
        "PATH": f"{binaries()}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PILOT_DATABASE_URL": url,
    }
    subprocess.run(["sh", "-eu", "-c", code], env=environment, check=True, capture_output=True, timeout=60)


@pytest.fixture
def urls(postgres: Postgres) -> Iterator[list[str]]:
    """Two empty databases, as the page has people write them."""
    names = [postgres.create(), postgres.create()]
    yield [postgres.url(name).replace("+psycopg", "") for name in names]
    for name in names:
        postgres.drop(name)


def started(server: Server, pipeline: str, done: threading.Event) -> None:
    while not done.wait(0.01):
        server.trigger(pipeline)


def test_backup_and_restore(tmp_path: Path, urls: list[str]) -> None:
    backup = tmp_path / "backup"
    for directory in ("first", "second", "backup"):
        (tmp_path / directory).mkdir()
    with running(tmp_path / "first", database_url=urls[0]) as server:
        pipeline = server.pipeline("kept", spec_for("nobody"))
        run_id = server.trigger(pipeline)
        token = server.ask("POST", "/tokens", json={"name": "kept"})["token"]
        content = server.ask("POST", "/blobs", content=b"a checkout, say")
        done = threading.Event()
        busy = threading.Thread(target=started, args=(server, pipeline, done))
        busy.start()
        try:
            commands("pg_dump", urls[0], server.data_dir, backup)
        finally:
            done.set()
            busy.join()
        runs = server.ask("GET", "/workflow-runs")["pagination"]["total"]
        login = server.admin
        url, headers = f"{server.url}/api/v1/events?stream=run/{run_id}", {"Authorization": f"Bearer {login}"}
        with server.http.stream("GET", url, headers=headers) as events:
            cursor = next(
                line.removeprefix("id: ") for line in events.iter_lines() if line.startswith("id: ")
            )
    second = Server(tmp_path / "second", database_url=urls[1])
    second.data_dir.mkdir()
    shutil.copytree(backup / "blobs", second.data_dir / "blobs")
    shutil.copy(backup / "server.key", second.data_dir)
    commands("pg_restore", urls[1], second.data_dir, backup)
    try:
        second.start()
        for known in (token, login):
            assert second.call("GET", f"/workflow-runs/{run_id}", known).status_code == 200
        assert 1 <= second.ask("GET", "/workflow-runs")["pagination"]["total"] <= runs
        assert second.call("GET", f"/blobs/{content['id']}").content == b"a checkout, say"
        expired = second.call("GET", f"/events?stream=run/{run_id}&cursor={cursor}")
        assert (expired.status_code, expired.json()["code"]) == (410, "CURSOR_EXPIRED")
        second.trigger(pipeline)
        assert second.failures() == []
    finally:
        second.close()
