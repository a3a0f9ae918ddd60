"""On PostgreSQL: kill -9 of the server, and PostgreSQL itself that closes connections, crashes or is unavailable, under load."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pilothouse.client import PilotClient
from support.faults.checker import Journal
from support.faults.fleet import PATIENT, ROUNDS, Fleet, chance, dummy, fleet, on, shell, until
from support.faults.postgres import StoredInPostgres
from support.live_run import followers
from support.postgres import Postgres
from support.server import PASSWORD
from support.waiting import eventually
from support.watchers import Got, RunEvents, follow, lines_of

pytestmark = pytest.mark.postgres
TIMES = 1 + ROUNDS
LINES = 60 * TIMES
BUSY = (503, "STORAGE_BUSY")


@pytest.fixture
def own_postgres(postgres: Postgres) -> Iterator[Postgres]:
    """A server that may be stopped: no other test needs it."""
    directory = Path(tempfile.mkdtemp(prefix="pilot-pg-"))
    try:
        server = Postgres(directory)
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Callers(threading.Thread):
    """Clients that send various requests continuously; ``refused`` holds the error responses.

    Each trigger has a key and is repeated until it is answered: ``started`` are the runs, by key.
    """

    def __init__(self, made: Fleet, pipeline_id: str) -> None:
        super().__init__(daemon=True)
        self.refused: list[tuple[int, str]] = []
        self.started: dict[str, set[str]] = {}
        self.done = threading.Event()
        self._server, self._pipeline = made.server, pipeline_id
        self._token = made.server.admin

    def run(self) -> None:
        number = 0
        while not self.done.wait(0.03):
            number += 1
            for method, path, body in (
                ("GET", "/workflow-runs", None),
                ("GET", "/pipelines", None),
                ("POST", "/auth/login", {"username": "admin", "password": PASSWORD}),
                ("PUT", f"/secrets/S{number}", {"value": "v"}),
            ):
                self._ask(method, path, json=body)
            key = f"key-{number}"
            while not self.done.is_set():
                path = f"/pipelines/{self._pipeline}/trigger"
                answer = self._ask("POST", path, json={}, headers={"Idempotency-Key": key})
                if answer is not None and answer.is_success:
                    self.started.setdefault(key, set()).add(answer.json()["detail"]["runId"])
                    break
                time.sleep(0.03)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        try:
            answer = self._server.call(method, path, self._token, **more)
        except httpx.TransportError:
            return None  # the server is away
        if not answer.is_success:
            body = answer.json()
            self.refused.append((answer.status_code, body.get("errorCode") or body.get("code")))
            assert "retry-after" in answer.headers or answer.status_code != 503
        return answer


class Watching(RunEvents):
    """The run's entries; retries while the database is unavailable."""

    async def watch(self, cursor: str | None) -> AsyncIterator[Got]:
        """See ``support.watchers.Surface``."""
        try:
            async with aclosing(super().watch(cursor)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    yield message
        except AssertionError as error:
            if b"STORAGE_BUSY" not in error.args[0]:
                raise
            raise httpx.ReadError("not now") from error


def said(name: str) -> list[str]:
    return [f"{name} {number}" for number in range(1, LINES + 1)]


def talk(ledger: Path, name: str) -> str:
    """A script that records its execution in the ledger and prints its lines."""
    return (
        f'echo {name} >> {ledger}; i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "{name} $i"; '
        f'sleep 0.04; done; echo "::output said=$i"'
    )


async def by_client(made: Fleet, run_id: str) -> list[str]:
    """The lines that the product's own client shows."""
    found: list[str] = []
    async with (
        PilotClient(made.server.url, made.server.admin) as client,
        aclosing(client.watch_run(run_id)) as events,
    ):
        async for event in events:
            if event.type == "step.logged":
                found += event.data["lines"]
    return found


class Load:
    """Runs on an agent, their viewers, and clients with other requests."""

    def __init__(self, made: Fleet, directory: Path) -> None:
        self._made, self._ledger = made, directory / "ledger"
        made.agent("a", slots=8).start()
        self.callers = Callers(
            made, made.server.pipeline("more", on("a", {"name": "j", "steps": [dummy("d")]}))
        )
        self.runs: dict[str, str] = {}
        self._watching: list[tuple[str, asyncio.Task[list[str]]]] = []
        for name in ("one", "two"):
            steps = [shell("talk", talk(self._ledger, name))]
            run_id = made.run(name, on("a", {"name": "j", "steps": steps}))
            self.runs[run_id] = name
        until(lambda: all(made.logs(run_id) for run_id in self.runs), what="the steps begin to talk")

    async def __aenter__(self) -> Load:
        made = self._made
        for run_id, name in self.runs.items():
            seeing = follow(Watching(made.server, made.server.admin, run_id))
            self._watch(name, by_client(made, run_id))
            self._watch(name, _lines(seeing))
        await eventually(lambda: followers(made.server) >= len(self._watching))
        self.callers.start()
        return self

    def _watch(self, name: str, watching: Any) -> None:
        self._watching.append((name, asyncio.create_task(watching)))

    async def __aexit__(self, *_: object) -> None:
        self.callers.done.set()
        for _, task in self._watching:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._watching), return_exceptions=True)

    async def ends(self) -> None:
        """The runs succeed, and every viewer received every line once and in order."""
        self.callers.done.set()
        await asyncio.to_thread(self.callers.join, 40)
        for run_id in self.runs:
            shown = await asyncio.to_thread(self._made.ended, run_id, 60 + 10 * ROUNDS)
            assert shown["status"] == "succeeded", shown
            assert shown["jobs"][0]["steps"][0]["outputs"] == {"said": str(LINES)}
        async with asyncio.timeout(60):
            for name, task in self._watching:
                assert await task == said(name)

    def check(self, stored: Callable[[], Journal]) -> None:
        """Acknowledged changes are stored; nothing is duplicated or partial."""
        for ids in self.callers.started.values():
            assert len(ids) == 1, "one key, two runs"
            assert self._made.ended(next(iter(ids)))["status"] == "succeeded"
        journal = stored()
        journal.check()
        runs = {entry.stream for entry in journal.entries if entry.type == "run.created"}
        known = {*self.runs, *(next(iter(ids)) for ids in self.callers.started.values())}
        assert {f"run/{run_id}" for run_id in known} <= runs
        assert len(runs) <= len(known) + 1, "at most one whose caller stopped asking before he was answered"
        for run_id, name in self.runs.items():
            journal.check_run(run_id, {"j/talk": said(name)})
            assert journal.starts(run_id) == {"j/talk": 1}
            assert self._made.logs(run_id) == said(name)
        assert sorted(self._ledger.read_text().split()) == ["one", "two"], "a step ran twice"
        assert set(self.callers.refused) <= {BUSY}
        told = self._made.agents[0].log()
        assert not re.search("SQL|psycopg|Unexpected <class", told), "insides of the server reach the agent"


async def _lines(watching: Any) -> list[str]:
    return lines_of(await watching)


@contextmanager
def loaded(directory: Path, postgres: Postgres, name: str) -> Iterator[tuple[Fleet, Load]]:
    """A server on that database, under load."""
    with fleet(directory, database_url=postgres.url(name), **PATIENT) as made:
        yield made, Load(made, directory)


async def test_a_killed_server_loses_nothing(
    tmp_path: Path, postgres: Postgres, migrated_postgres: str
) -> None:
    rng, name = chance("kill the server on postgres"), postgres.create(migrated_postgres)
    with loaded(tmp_path, postgres, name) as (made, load):
        async with load:
            for _ in range(TIMES):
                await asyncio.sleep(rng.uniform(0.1, 0.9))  # the moment of the kill is the point
                await asyncio.to_thread(made.server.kill9)
                await asyncio.to_thread(made.server.restart)
            await load.ends()
        await asyncio.to_thread(load.check, lambda: StoredInPostgres(postgres, name))
        assert made.server.failures() == []
    postgres.drop(name)


def hangs_up(postgres: Postgres, name: str, rng: random.Random) -> None:
    """Closes all connections and accepts new ones immediately."""
    postgres.hang_up(name)


def crashes(postgres: Postgres, name: str, rng: random.Random) -> None:
    """Crashes and recovers from its write-ahead log."""
    postgres.stop(signal.SIGQUIT)
    postgres.start()


def is_away(postgres: Postgres, name: str, rng: random.Random) -> None:
    """Shut down in order under load, and started a little later."""
    postgres.stop(signal.SIGINT)
    time.sleep(rng.uniform(0.5, 1.5))
    postgres.start()


@pytest.mark.parametrize("it", [hangs_up, crashes, is_away])
async def test_the_server_outlives_postgresql(
    tmp_path: Path, own_postgres: Postgres, it: Callable[[Postgres, str, random.Random], None]
) -> None:
    """Requests get 503 meanwhile; then the server recovers by itself without lost or partial changes."""
    rng, name = chance(f"postgres {it.__name__}"), own_postgres.create()
    with loaded(tmp_path, own_postgres, name) as (made, load):
        pid = made.server.pid
        async with load:
            for _ in range(TIMES):
                await asyncio.sleep(rng.uniform(0.1, 0.9))
                await asyncio.to_thread(it, own_postgres, name, rng)
                await asyncio.to_thread(until, lambda: made.server.alive, 60, "it is ready again")
            await load.ends()
        assert made.server.pid == pid
        await asyncio.to_thread(load.check, lambda: StoredInPostgres(own_postgres, name))
        unforeseen = [line for line in made.server.failures() if not _told(line)]
        assert unforeseen == []


def _told(line: str) -> bool:
    """The server's log messages about an unavailable database."""
    return "storage.commit_failed" in line or "server.background_failed" in line


def test_what_a_server_without_its_database_says(tmp_path: Path, own_postgres: Postgres) -> None:
    name = own_postgres.create()
    with fleet(tmp_path, database_url=own_postgres.url(name)) as made:
        server, token = made.server, made.server.admin
        own_postgres.stop(signal.SIGINT)
        assert server.call("GET", "/healthz", None).status_code == 200
        assert server.call("GET", "/readyz", None).status_code == 503
        for method, path in (("GET", "/projects"), ("GET", "/workflow-runs"), ("POST", "/pipelines")):
            answer = server.call(method, path, token, json={"name": "p"} if method == "POST" else None)
            body = answer.json()
            assert (answer.status_code, body.get("errorCode") or body.get("code")) == BUSY
            assert answer.headers["retry-after"]
            assert str(own_postgres.directory) not in answer.text
        own_postgres.start()
        until(lambda: server.alive, 60, "it is ready again")
        assert server.call("POST", "/pipelines", token, json={"name": "p"}).status_code == 201
        server.stop()


def test_an_agent_leaves_while_the_database_is_away(tmp_path: Path, own_postgres: Postgres) -> None:
    """Its disconnect cannot be stored; it can reconnect and works."""
    name = own_postgres.create()
    with fleet(tmp_path, database_url=own_postgres.url(name), **PATIENT) as made:
        agent = made.agent("a").start()
        until(lambda: made.server.ask("GET", "/agents/a")["status"] == "online", what="it is let in")
        own_postgres.stop(signal.SIGINT)
        agent.kill9()
        until(lambda: "fleet.detach_failed" in made.server.log(), 60, "its end is noticed")
        own_postgres.start()
        until(lambda: made.server.alive, 60, "it is ready again")
        agent.start()
        run_id = made.run("after", on("a", {"name": "j", "steps": [shell("s", "echo fine")]}))
        assert made.ended(run_id)["status"] == "succeeded"
        assert [line for line in made.server.failures() if not _told(line)] == []
