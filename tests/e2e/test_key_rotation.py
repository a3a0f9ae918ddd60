"""``pilot server rotate-keys``: with the server running and stopped, and killed at any time; nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.secrets import store
from pilothouse.secrets.service import Secrets
from pilothouse.storage import Database
from pilothouse.storage.keyring import Keyring, KeyringBox, read_keys
from support import nursery
from support.fake_agent import registered
from support.server import Server, running, spec_for
from support.waiting import PATIENCE, eventually

ROUNDS = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("rotation")) as server:
        yield server


def environment(server: Server) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    url = server.settings.get("database_url")
    return {**kept, "PILOT_DATA_DIR": str(server.data_dir), **({"PILOT_DATABASE_URL": url} if url else {})}


def rotate(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    words = ("server", "rotate-keys", *options)
    return nursery.pilot(words, cwd="/", env=environment(server), timeout=2 * PATIENCE)


def key_file(server: Server) -> Path:
    return server.data_dir / "server.key"


def database(server: Server) -> Database:
    url = server.settings.get("database_url")
    return Database(url) if url else Database.at(server.data_dir / "pilothouse.db")


def stored(server: Server) -> tuple[dict[str, str], int]:
    """All secrets, and how many of them (or of former values) are not encrypted with the newest key."""
    box = KeyringBox(Keyring.load(key_file(server)), "secrets")
    opened, secrets = database(server), Secrets(box, None)  # type: ignore[arg-type]
    try:
        with opened.read() as conn:
            names = [row.name for row in conn.execute(store.secrets.select())]
            outdated, place = 0, store.START
            while place is not None:
                found = store.outdated_values(conn, box.prefix, place, 1000)
                outdated, place = outdated + len(found.values), found.then
            return secrets.values(conn, server.default_project, names), outdated
    finally:
        opened.close()


def put(server: Server, name: str, value: str) -> None:
    server.ask("PUT", f"/secrets/{name}", json={"value": value})


def create(server: Server, token: str, name: str, key: str) -> Any:
    answer = server.call("POST", "/projects", token, json={"name": name}, headers={"Idempotency-Key": key})
    return answer.status_code, answer.json()["detail"]["projectId"], "idempotency-replayed" in answer.headers


async def test_a_running_server_goes_on(server: Server) -> None:
    """Its logins, secrets and repeated answers stay good, and agents get the secrets."""
    for name in ("ONE", "TWO"):
        put(server, name, f"the former value of {name}")
        put(server, name, f"the value of {name}")
    login = server.login("admin")
    first = create(server, login, "rotated", "k1")
    done = rotate(server, "--active-in", "0s")
    assert done.returncode == 0, done.stderr
    assert len(read_keys(key_file(server))) == 2
    assert stored(server) == ({"ONE": "the value of ONE", "TWO": "the value of TWO"}, 0)
    assert server.call("GET", "/auth/me", login).status_code == 200
    assert create(server, login, "rotated", "k1") == (*first[:2], True)
    spec = spec_for("rotated")
    spec["jobs"][0]["env"] = {"KEY": "${{ secrets.ONE }}"}
    pipeline = server.pipeline("rotated", spec)
    async with await registered(server, "rotated", labels={"only": "rotated"}) as agent:
        await agent.connect()
        server.trigger(pipeline)
        task = await agent.task()
        assert task.env["KEY"] == "the value of ONE"
    # It writes with the new key as soon as it has read the file again.
    await eventually(lambda: (put(server, "THREE", "three"), stored(server)[1] == 0)[1])
    fresh = server.login("admin")
    server.stop()
    server.restart()
    for token in (login, fresh):
        assert server.call("GET", "/auth/me", token).status_code == 200
    assert create(server, login, "rotated", "k1") == (*first[:2], True)
    assert "secrets.unreadable" not in server.log()
    assert server.failures() == []


def test_a_key_for_later_is_not_used_before(server: Server) -> None:
    """So that all servers of a database can be given the file."""
    before = stored(server)[0]
    done = rotate(server, "--active-in", "1h", "-o", "json")
    assert done.returncode == 0, done.stderr
    put(server, "FOUR", "four")
    assert stored(server) == ({**before, "FOUR": "four"}, 0)
    again = rotate(server)
    assert (again.returncode, "not in use yet" in again.stderr) == (1, True)


def test_nothing_is_rotated_where_no_server_was(tmp_path: Path) -> None:
    env = {**environment_without_pilot(), "PILOT_DATA_DIR": str(tmp_path)}
    done = nursery.pilot(("server", "rotate-keys"), cwd="/", env=env, timeout=PATIENCE)
    assert done.returncode == 1
    assert "no server was started" in done.stderr
    assert list(tmp_path.iterdir()) == []


def environment_without_pilot() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}


def test_it_may_be_killed_at_any_time(tmp_path: Path) -> None:
    """Of a stopped server with 600 secrets; each time what is left is complete, and the server starts."""
    seed = int(os.environ.get("PILOT_FAULT_SEED") or random.randrange(10**6))
    print(f"PILOT_FAULT_SEED={seed}")
    chance = random.Random(seed)
    with running(tmp_path) as server:
        expected = {}
        for number in range(600):
            expected[f"S{number}"] = f"value {number}"
            put(server, f"S{number}", f"value {number}")
        login = server.login("admin")
        server.stop()
        slow = "import time, sys\nfrom pilothouse.secrets import rotation\nrotation.BATCH = 20\n"
        slow += "from pilothouse.cli.app import run\nsys.exit(run())\n"
        for _ in range(ROUNDS):
            words = [sys.executable, "-c", slow, "server", "rotate-keys", "--active-in", "0s"]
            child = subprocess.Popen(words, env=environment(server), stderr=subprocess.PIPE)
            try:
                child.wait(chance.uniform(0.5, 1.5))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            assert child.stderr is not None
            child.stderr.close()
            box = Keyring.load(key_file(server))
            assert 1 <= len(box.keys) <= ROUNDS + 1
        server.restart()
        assert server.call("GET", "/auth/me", login).status_code == 200
        assert stored(server)[0] == expected
        server.stop()
        done = rotate(server, "--active-in", "0s")
        assert done.returncode == 0, done.stderr
        server.restart()
        assert stored(server) == (expected, 0)
        assert server.call("GET", "/auth/me", login).status_code == 200
        assert "secrets.unreadable" not in server.log()
