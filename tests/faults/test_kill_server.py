"""kill -9 of the server, at random moments, under load."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from support.faults.audience import Audience, check_surfaces
from support.faults.checker import Journal
from support.faults.fleet import PATIENT, ROUNDS, Fleet, chance, dummy, fleet, on, shell
from support.server import Server

KILLS = 1 + ROUNDS


def talk(ledger: Path, name: str, bursts: int) -> str:
    """A script that records its id in the ledger and prints numbered lines in bursts."""
    return "\n".join(
        [
            f'echo "{name} $PILOT_STEP_RUN_ID $$" >> {ledger}',
            "i=0",
            f"while [ $i -lt {bursts * 5} ]; do",
            f'  for _ in 1 2 3 4 5; do i=$((i+1)); echo "{name} $i"; done',
            '  echo "::progress $((i % 101)) so far"',
            "  sleep 0.05",
            "done",
            f'echo "::output said={name}-$i"',
        ]
    )


def load(ledger: Path, number: int, bursts: int) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """A spec of two jobs at once, and the lines each step must have."""
    names = [f"r{number}-{at}" for at in range(3)]
    shells = [shell(f"s{at}", talk(ledger, name, bursts)) for at, name in enumerate(names[:2])]
    mute = dummy(
        "dummy",
        lines=bursts * 4,
        interval=0.07,
        text=f"{names[2]} {{n}}",
        outputs={"n": number},
        progress=[50],
    )
    spec = on("a", {"name": "talk", "steps": shells}, {"name": "quiet", "steps": [mute]})
    said = {f"talk/s{at}": numbered(name, bursts * 5) for at, name in enumerate(names[:2])}
    return spec, {**said, "quiet/dummy": numbered(names[2], bursts * 4)}


def numbered(name: str, count: int) -> list[str]:
    return [f"{name} {n}" for n in range(1, count + 1)]


class Triggers(threading.Thread):
    """Starts runs continuously, each with an idempotency key, and retries until it is answered."""

    def __init__(self, server: Server, pipeline_id: str) -> None:
        super().__init__(daemon=True)
        self._server, self._pipeline = server, pipeline_id
        self.done = threading.Event()
        self.acknowledged: dict[str, set[str]] = {}

    def run(self) -> None:
        number = 0
        while not self.done.wait(0.05):
            number += 1
            for _ in range(2):  # repeated request: the same run
                self._trigger(f"key-{number}")

    def _trigger(self, key: str) -> None:
        while True:
            try:
                answer = self._server.call(
                    "POST", f"/pipelines/{self._pipeline}/trigger", json={}, headers={"Idempotency-Key": key}
                )
            except httpx.TransportError:
                time.sleep(0.05)  # unavailable: retried
                continue
            assert answer.status_code in (200, 201), answer.text
            self.acknowledged.setdefault(key, set()).add(answer.json()["detail"]["runId"])
            return


async def _killed_while_it_happens(fleet: Fleet, rng: random.Random, kills: int) -> None:
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.1, 0.9))  # the moment of the kill is the point
        await asyncio.to_thread(fleet.server.kill9)
        await asyncio.sleep(rng.choice((0, 0, 0.3)))
        await asyncio.to_thread(fleet.server.restart)


async def test_no_line_no_event_no_run_is_lost_and_no_step_runs_twice(tmp_path: Path) -> None:
    rng, ledger = chance("kill server"), tmp_path / "ledger"
    with fleet(tmp_path, **PATIENT) as made:
        made.agent("a", slots=8).start()
        audience = Audience(made.server, made.server.admin)
        triggers = Triggers(
            made.server, made.server.pipeline("more", on("a", {"name": "j", "steps": [dummy("d")]}))
        )
        runs = {}
        try:
            for number in range(3):
                spec, expected = load(ledger, number, 20 * KILLS)
                run_id = made.run(f"load{number}", spec)
                runs[run_id] = expected
                audience.watch(run_id, expected)
            triggers.start()
            await _killed_while_it_happens(made, rng, KILLS)
            triggers.done.set()
            await asyncio.to_thread(triggers.join, 30)
            for run_id in runs:
                shown = await asyncio.to_thread(made.ended, run_id, 120 + 10 * ROUNDS)
                assert shown["status"] == "succeeded", shown
            await audience.check()
        finally:
            triggers.done.set()
            audience.leave()
        await asyncio.to_thread(_check, made, runs, ledger, triggers.acknowledged)


def _check(
    made: Fleet, runs: dict[str, dict[str, list[str]]], ledger: Path, acknowledged: dict[str, set[str]]
) -> None:
    for ids in acknowledged.values():
        assert len(ids) == 1, "one key, two runs"
        assert made.ended(next(iter(ids)))["status"] == "succeeded"
    total = made.server.ask("GET", "/workflow-runs")["pagination"]["total"]
    assert total == len(acknowledged) + len(runs), "a run that nobody has heard of"
    journal = Journal(made.server.data_dir)
    journal.check()
    for run_id, expected in runs.items():
        journal.check_run(run_id, expected)
        check_surfaces(made.server, run_id, expected)
        assert set(journal.starts(run_id).values()) == {1}
        outputs = {o["name"]: o["steps"][-1]["outputs"] for o in made.show(run_id)["jobs"]}
        assert outputs["talk"]["said"].rsplit("-", 1)[1] == str(len(expected["talk/s1"]))
        assert set(outputs["quiet"]) == {"n"}
    told = [line.split()[0] for line in ledger.read_text().splitlines()]
    assert sorted(told) == sorted(f"r{number}-{at}" for number in range(3) for at in range(2)), "run twice"
    assert journal.leases == 0
    assert made.server.failures() == []
    assert made.agents[0].failures() == []


async def test_many_tiny_steps_each_run_once(tmp_path: Path) -> None:
    rng, ledger = chance("tiny steps"), tmp_path / "ledger"
    jobs = [
        {
            "name": f"j{j}",
            "steps": [shell(f"s{s}", f"echo j{j}/s{s} >> {ledger}; echo done") for s in range(15 * ROUNDS)],
        }
        for j in range(4)
    ]
    with fleet(tmp_path, **PATIENT) as made:
        made.agent("a", slots=4).start()
        run_id = made.run("tiny", on("a", *jobs))
        await _killed_while_it_happens(made, rng, KILLS)
        assert (await asyncio.to_thread(made.ended, run_id, 120 + 10 * ROUNDS))["status"] == "succeeded"
        nodes = [f"{job['name']}/{step['name']}" for job in jobs for step in job["steps"]]
        assert sorted(ledger.read_text().split()) == sorted(nodes)
        journal = Journal(made.server.data_dir)
        journal.check()
        journal.check_run(run_id, {node: ["done"] for node in nodes})
        assert made.server.failures() == []
        assert made.agents[0].failures() == []
