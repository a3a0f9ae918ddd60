"""kill -9 again and again of server, agents, or both, under load: everything acknowledged is there, once, in order.

Clients start runs, wait for them, and cancel some; two agents run them; a third, the witness, records everything
that was acknowledged to it; viewers of each kind watch. Only work of killed agents may be lost, and it must be
marked lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.faults.audience import Audience
from support.faults.checker import Journal
from support.faults.commits import doom, mortal, revive, until_dead
from support.faults.fleet import PATIENT, ROUNDS, AgentProcess, Fleet, chance, fleet, on, shell, until
from support.faults.load import Lane, lanes, settle
from support.faults.story import LOST, Entry, check_story
from support.faults.witness import Witness
from support.server import spec_for
from support.waiting import eventually

KILLS = 2 if ROUNDS == 1 else 4 * ROUNDS
LINES = 25
ALLOWED = {"plain/s0": 1, "plain/s1": 1, "safe/s0": 3, "safe/s1": 3, "tried/s0": 2}


def work(made: Fleet, ledger: Path) -> dict[str, Any]:
    """Jobs without retries, with a retry on failure, and with a rerun when lost; on two agents."""
    say = (
        f'echo "$PILOT_STEP_RUN_ID" >> {ledger}; i=0; '
        f'while [ $i -lt {LINES} ]; do i=$((i+1)); echo "$PILOT_STEP_RUN_ID $i"; sleep 0.01; done'
    )
    failing = f"{say}; mark={made.directory}/mark-$PILOT_RUN_ID; test -e $mark || {{ touch $mark; exit 3; }}"
    safe = on("b", {"name": "safe", "onLost": "rerun", "steps": [shell("s0", say), shell("s1", say)]})
    tried = on("a", {"name": "tried", "steps": [{**shell("s0", failing), "retry": {"maxAttempts": 2}}]})
    plain = on("a", {"name": "plain", "steps": [shell("s0", say), shell("s1", say)]})
    return {"jobs": [*plain["jobs"], *safe["jobs"], *tried["jobs"]]}


class Killer:
    """Kills processes at random moments and restarts them."""

    def __init__(self, made: Fleet, rng: random.Random) -> None:
        self.made, self.rng = made, rng
        self.kills: Counter[str] = Counter()

    async def strike(self, whom: str) -> None:
        """Kill once after a random time; half of the times only after an agent has connected."""
        if whom == "commit":
            await asyncio.to_thread(until_dead, self.made)
            self.kills["server"] += 1 + await asyncio.to_thread(revive, self.made, self.rng)
            return
        if self.rng.random() < 0.5:
            await eventually(lambda: "online" in map(self._status, self.made.agents), 120)
        await asyncio.sleep(self.rng.uniform(0.05, 0.9))  # the moment of the kill is the point
        victims: list[Any] = [self.made.server] if whom == "server" else [self.rng.choice(self.made.agents)]
        if whom == "both":
            victims.append(self.made.server)
        self.rng.shuffle(victims)
        for victim in victims:
            await asyncio.to_thread(victim.kill9)
            self.kills["agent" if isinstance(victim, AgentProcess) else "server"] += 1
            await asyncio.sleep(self.rng.choice((0, 0, 0.1, 0.5)))
        self.rng.shuffle(victims)
        for victim in victims:
            if isinstance(victim, AgentProcess):
                victim.start(online=False)  # it may be killed again before it has been let in
            else:
                await asyncio.to_thread(victim.restart)

    def _status(self, agent: AgentProcess) -> str:
        try:
            return self.made.status(agent)
        except httpx.TransportError:
            return "away"


@pytest.mark.parametrize("whom", ["server", "agent", "both", "commit"])
async def test_nothing_acknowledged_is_lost(
    tmp_path: Path, whom: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``commit``: the server dies right before a commit, or right after it and before the response."""
    rng, ledger = chance(f"storm {whom}"), tmp_path / "ledger"
    if whom == "commit":
        mortal(monkeypatch)
    with fleet(tmp_path, **PATIENT) as made:
        for name in ("a", "b"):
            made.agent(name, slots=6).start()
        killer, audience = Killer(made, rng), Audience(made.server, made.server.admin)
        tell, loop = audience.follow, asyncio.get_running_loop()
        mixed = made.server.pipeline("mixed", work(made, ledger))
        attested = made.server.pipeline("attested", spec_for("witness", "s0", "s1"))
        crew = (
            Lane(made, "watched", mixed, rng, tell=lambda run_id: loop.call_soon_threadsafe(tell, run_id)),
            Lane(made, "plain", mixed, rng),
            Lane(made, "fickle", mixed, rng, cancels=0.6),
            Lane(made, "attested", attested, rng),
        )
        witness = Witness(made.server, "witness", rng)
        async with witness.at_work(made.server.registration_token(max_uses=1)):
            with lanes(*crew):
                if whom == "commit":
                    made.server.kill9()
                    revive(made, rng)
                for _ in range(KILLS * (3 if whom == "commit" else 1)):
                    await killer.strike(whom)
                if whom == "commit":  # the last one may survive
                    made.server.kill9()
                    doom(tmp_path, "never")
                    made.server.restart()
                outcomes = await asyncio.to_thread(settle, *crew)
                assert witness.idle
        journal = Journal(made.server.data_dir)
        witness.check(journal)
        seen = await audience.agrees(journal)
        audience.leave()
        await asyncio.to_thread(_check, made, journal, crew, outcomes, ledger)
        _report(whom, killer, journal, witness, outcomes, seen)


def _check(
    made: Fleet, journal: Journal, crew: tuple[Lane, ...], outcomes: dict[str, str], ledger: Path
) -> None:
    journal.check()
    acknowledged = {run_id for lane in crew for run_id in lane.runs.values()}
    there = {entry.stream.removeprefix("run/") for entry in journal.entries if entry.type == "run.created"}
    assert there == acknowledged, "a run is lost, or nobody has heard of it"
    assert all(outcomes[run_id] == "cancelled" for lane in crew for run_id in lane.cancelled)
    started: set[str] = set()
    for run_id in acknowledged:
        entries = journal.of_run(run_id)
        check_story(entries, ALLOWED)
        assert made.show(run_id)["status"] == outcomes[run_id] == entries[-1 - _late(entries)].body["status"]
        for entry in entries:
            if entry.type == "step.started":
                started.add(entry.body["step_run_id"])
        if run_id not in crew[-1].runs.values():
            _check_lines(entries)
    told = ledger.read_text().split()
    assert len(told) == len(set(told)), "one attempt ran twice"
    assert set(told) <= started, "a step ran before its start was acknowledged"
    until(lambda: Journal(made.server.data_dir).leases == 0, what="nothing is leased any more")
    assert [made.busy(agent) for agent in made.agents] == [0, 0]
    assert made.server.failures() == []
    assert [agent.failures() for agent in made.agents] == [[], []]
    again = made.run("again", work(made, ledger))
    assert made.ended(again, 60)["status"] == "succeeded", "it still works"


def _late(entries: list[Entry]) -> int:
    """Number of lines of lost attempts received after their end."""
    return len(entries) - 1 - next(at for at, entry in enumerate(entries) if entry.type == "run.completed")


def _check_lines(entries: list[Entry]) -> None:
    """Each attempt's lines are a prefix of its output, and all of it if it succeeded."""
    lines: dict[str, list[str]] = {}
    for entry in entries:
        if entry.type == "step.logged":
            lines.setdefault(entry.body["step_run_id"], []).extend(entry.body["lines"])
    for entry in entries:
        if entry.type == "attempt.completed":
            attempt, body = entry.body["step_run_id"], entry.body
            had = lines.get(attempt, [])
            assert had == [f"{attempt} {n}" for n in range(1, len(had) + 1)], f"{entry.node}: {had}"
            whole = body["status"] == "succeeded" or body["error"] == "exit code 3"
            assert not whole or len(had) == LINES, f"{entry.node} has {len(had)} lines"
            known = whole or body["status"] in ("cancelled", "skipped") or body["error"].startswith(LOST)
            assert known, f"{entry.node}: {body['error']}"


def _report(
    whom: str, killer: Killer, journal: Journal, witness: Witness, outcomes: dict[str, str], seen: int
) -> None:
    types = Counter(entry.type for entry in journal.entries)
    lines = sum(len(e.body["lines"]) for e in journal.entries if e.type == "step.logged")
    attested = sum(map(len, witness.lines.values())), sum(map(len, witness.events.values()))
    print(
        f"storm of {whom}: killed {dict(killer.kills)}; runs {dict(Counter(outcomes.values()))}, "
        f"{types['step.started']} starts, {len(journal.entries)} entries, {lines} lines ({seen} seen live), "
        f"acknowledged to the witness: {attested[0]} lines, {attested[1]} events in {len(witness.states)} steps "
        f"({len(witness.too_late)} begun too late), "
        f"{witness.repeats} calls repeated"
    )
