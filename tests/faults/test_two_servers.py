"""Two servers on one PostgreSQL, each with agents: killed in turn under load, nothing is lost and no run fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.faults.fleet import PATIENT, ROUNDS, AgentProcess, Fleet, chance, dummy, on, shell, until
from support.faults.postgres import StoredInPostgres
from support.faults.proxy import proxy
from support.postgres import Postgres
from support.server import Server
from support.waiting import PATIENCE

pytestmark = pytest.mark.postgres
TIMES = 1 + ROUNDS
LINES = 150 * TIMES
AGENTS = ("a", "b")


class Triggers(threading.Thread):
    """Triggers runs for the agents of both servers on both; each request is retried until it is answered."""

    def __init__(self, fleets: list[Fleet]) -> None:
        super().__init__(daemon=True)
        spec = [on(name, {"name": "j", "steps": [dummy("one"), dummy("two")]}) for name in AGENTS]
        pipelines = [
            fleets[0].server.pipeline(f"for-{name}", it) for name, it in zip(AGENTS, spec, strict=True)
        ]
        self._asked = cycle([(fleet.server, pipeline) for fleet in fleets for pipeline in pipelines])
        self._token = fleets[0].server.admin
        self.runs: list[str] = []
        self.done = threading.Event()
        self.refused: set[int] = set()

    def run(self) -> None:
        number = 0
        while not self.done.wait(0.1):
            number += 1
            server, pipeline = next(self._asked)
            while not self.done.is_set() and not self._trigger(server, pipeline, f"key-{number}"):
                time.sleep(0.05)

    def _trigger(self, server: Server, pipeline: str, key: str) -> bool:
        more: dict[str, Any] = {"json": {}, "headers": {"Idempotency-Key": key}}
        try:
            answer = server.call("POST", f"/pipelines/{pipeline}/trigger", self._token, **more)
        except httpx.TransportError:
            return False  # the server is away
        if answer.is_success:
            self.runs.append(answer.json()["detail"]["runId"])
        else:
            self.refused.add(answer.status_code)
        return answer.is_success


@contextmanager
def two_servers(directory: Path, postgres: Postgres, name: str) -> Iterator[list[Fleet]]:
    """Two servers with their own data directories, the same key and one database."""
    with ExitStack() as stack:
        made = []
        for number in range(2):
            own = directory / f"server-{number}"
            server = Server(own, database_url=postgres.url(name), **PATIENT)
            server.data_dir.mkdir(parents=True)
            (server.data_dir / "server.key").write_bytes(bytes(32))
            fleet = Fleet(own, server)
            stack.callback(fleet.close)
            server.start()
            made.append(fleet)
        yield made


def talk(ledger: Path, name: str) -> str:
    """A script that records its execution in the ledger and prints its lines."""
    return f'echo {name} >> {ledger}; i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo "{name} $i"; sleep 0.04; done'


def connected(agent: AgentProcess, before: int) -> None:
    until(lambda: agent.said("agent.connected") > before, 120, f"agent {agent.name} connects again")


def test_servers_killed_in_turn_under_load(
    tmp_path: Path, postgres: Postgres, migrated_postgres: str
) -> None:
    rng, name, ledger = chance("two servers"), postgres.create(migrated_postgres), tmp_path / "ledger"
    with two_servers(tmp_path, postgres, name) as fleets:
        agents = [fleet.agent(it, slots=4).start() for fleet, it in zip(fleets, AGENTS, strict=True)]
        # Each server is asked for a run of the other's agent.
        long = {
            fleet.run(f"long-{it}", on(it, {"name": "j", "steps": [shell("talk", talk(ledger, it))]})): it
            for fleet, it in zip(fleets, reversed(AGENTS), strict=True)
        }
        until(lambda: all(fleets[0].logs(run_id) for run_id in long), what="the steps begin to talk")
        load = Triggers(fleets)
        load.start()
        for fleet, agent in [*zip(fleets, agents, strict=True)] * TIMES:
            time.sleep(rng.uniform(0.1, 0.9))  # the moment of the kill is the point
            before = agent.said("agent.connected")
            fleet.server.kill9()
            time.sleep(rng.uniform(0.0, 1.0))
            fleet.server.restart()
            connected(agent, before)
        until(lambda: len(load.runs) > 4 * TIMES, what="there is load")
        load.done.set()
        load.join(PATIENCE)
        assert not load.is_alive()
        for run_id in [*long, *load.runs]:
            shown = fleets[0].ended(run_id)
            assert shown["status"] == "succeeded", shown
        check(StoredInPostgres(postgres, name), load, long, fleets)
        assert sorted(ledger.read_text().split()) == list(AGENTS), "a step ran twice"
        assert load.refused <= {503}
    postgres.drop(name)


def check(stored: StoredInPostgres, load: Triggers, long: dict[str, str], fleets: list[Fleet]) -> None:
    """Nothing ran twice, and nothing was marked lost."""
    stored.check()
    assert len(load.runs) > 4 * TIMES
    assert len(set(load.runs)) == len(load.runs), "one key, two runs"
    for run_id in load.runs:
        assert stored.starts(run_id) == {"j/one": 1, "j/two": 1}
        stored.check_run(run_id, {})
    for run_id, it in long.items():
        assert stored.starts(run_id) == {"j/talk": 1}
        stored.check_run(run_id, {"j/talk": [f"{it} {number}" for number in range(1, LINES + 1)]})
    lost = [entry for entry in stored.entries if str(entry.body.get("error", "")).startswith("lost:")]
    assert lost == []
    assert stored.leases == 0
    for fleet in fleets:
        assert fleet.unforeseen() == []


def test_an_agent_goes_on_at_the_other_server(
    tmp_path: Path, postgres: Postgres, migrated_postgres: str
) -> None:
    """Its server is killed for good; its steps continue and are reported to the other server."""
    name, ledger = postgres.create(migrated_postgres), tmp_path / "ledger"
    with two_servers(tmp_path, postgres, name) as fleets, proxy(fleets[0].server.grpc) as line:
        gone, left = fleets
        agent = left.agent("a", grpc=line.address).start()
        run_id = left.run("long", on("a", {"name": "j", "steps": [shell("talk", talk(ledger, "a"))]}))
        until(lambda: left.logs(run_id), what="the step begins to talk")
        before = agent.said("agent.connected")
        gone.server.kill9()
        line.lead_to(left.server.grpc)
        line.cut()
        connected(agent, before)
        shown = left.ended(run_id)
        assert shown["status"] == "succeeded", shown
        after = left.run("after", on("a", {"name": "j", "steps": [dummy("d")]}))
        assert left.ended(after)["status"] == "succeeded"
        stored = StoredInPostgres(postgres, name)
        stored.check_run(run_id, {"j/talk": [f"a {number}" for number in range(1, LINES + 1)]})
        assert stored.starts(run_id) == {"j/talk": 1}
        assert left.unforeseen() == []
    postgres.drop(name)
