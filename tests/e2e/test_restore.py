"""A database restored from a backup: readers from the abandoned future are told to start again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support import nursery
from support.databases import CHOSEN
from support.mutations import SPEC
from support.server import Server, running
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.skipif(CHOSEN != "sqlite", reason="copies the file; test_backup_of_postgres.py")


def new_epoch(data_dir: Path) -> tuple[int, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    words = ("server", "new-epoch", "--data-dir", str(data_dir))
    done = nursery.pilot(words, cwd="/", env=env, timeout=PATIENCE)
    return done.returncode, done.stderr


def back_up(server: Server, target: Path) -> None:
    """As docs/operations.md says."""
    with sqlite3.connect(target) as copy, sqlite3.connect(server.data_dir / "pilothouse.db") as source:
        source.backup(copy)


def put_back(server: Server, backup: Path) -> None:
    for file in server.data_dir.glob("pilothouse.db*"):
        file.unlink()
    shutil.copy(backup, server.data_dir / "pilothouse.db")


def cursor_of(server: Server, run_id: str) -> str:
    """Behind the newest entry of a run that waits."""
    headers = {"Authorization": f"Bearer {server.admin}"}
    url = f"{server.url}/api/v1/events?stream=run/{run_id}"
    last = ""
    with server.http.stream("GET", url, headers=headers) as events:
        for line in events.iter_lines():
            last = line.removeprefix("id: ") if line.startswith("id: ") else last
            if line.startswith("event: gate.opened") or line == "event: step.started":
                break
    assert last
    return last


def events(server: Server, cursor: str) -> int:
    """The status of an attempt to go on from there."""
    headers = {"Authorization": f"Bearer {server.admin}"}
    with server.http.stream("GET", f"{server.url}/api/v1/events?cursor={cursor}", headers=headers) as answer:
        if answer.status_code == 410:
            assert json.loads(answer.read())["code"] == "CURSOR_EXPIRED"
        return answer.status_code


async def socket_code(server: Server, run_id: str, cursor: str) -> int:
    url = f"{server.ws}/api/v1/workflow-runs/{run_id}/stream?token={server.admin}&cursor={cursor}"
    async with connect(url) as ws:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.recv()
    return ws.close_code or 0


@pytest.mark.parametrize("end", [Server.stop, Server.kill9])
async def test_a_reader_with_a_newer_cursor_starts_again(
    tmp_path: Path, end: Callable[[Server], object]
) -> None:
    with running(tmp_path) as server:
        pipeline = server.pipeline("restored", SPEC)
        old_run = server.trigger(pipeline)
        server.login("admin")
        before = cursor_of(server, old_run)
        back_up(server, tmp_path / "backup.db")
        newer = cursor_of(server, server.trigger(pipeline))
        head = server.data_dir / "journal-head"
        reached = int(newer.split(".")[1])
        await eventually(lambda: json.loads(head.read_bytes())["next"] >= reached)
        end(server)
        server.restart()  # that alone changes nothing
        assert events(server, newer) == 200
        end(server)
        put_back(server, tmp_path / "backup.db")
        server.restart()
        assert "journal.new_epoch" in server.log()
        for cursor in (newer, before):
            assert events(server, cursor) == 410
            assert await socket_code(server, old_run, cursor) == 4410
        fresh = cursor_of(server, old_run)
        for _ in range(3):  # until the offset of the abandoned cursor is there again
            server.trigger(pipeline)
        assert events(server, newer) == 410
        assert events(server, fresh) == 200
        end(server)
        server.restart()
        assert events(server, fresh) == 200


def test_the_command_begins_an_epoch_of_a_stopped_server(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        run_id = server.trigger(server.pipeline("restored", SPEC))
        cursor = cursor_of(server, run_id)
        code, said = new_epoch(server.data_dir)
        assert (code, "another server" in said) == (1, True)
        assert events(server, cursor) == 200
        server.stop()
        code, said = new_epoch(server.data_dir)
        assert (code, "new epoch" in said) == (0, True)
        server.restart()
        assert events(server, cursor) == 410
        assert "journal.new_epoch" not in server.log(), "not twice"
    code, said = new_epoch(tmp_path / "nothing")
    assert (code, "no server was started" in said) == (1, True)
    assert not (tmp_path / "nothing").exists()
