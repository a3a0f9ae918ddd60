"""kill -9 of the agent at random moments: its steps are killed with it and marked lost."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pilothouse.agent.spool import unframe
from pilothouse.wire.gateway.v1.gateway_pb2 import LogBatch
from support.faults.checker import Journal
from support.faults.fleet import (
    PATIENT,
    QUICK,
    ROUNDS,
    AgentProcess,
    Fleet,
    carrying,
    chance,
    fleet,
    on,
    shell,
    until,
)

WITHIN = 60.0
"""Seconds within which all processes of a step must be dead; they would run for ten minutes."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server with a short lease."""
    with fleet(tmp_path_factory.mktemp("quick"), **QUICK) as made:
        yield made


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server whose leases do not expire during a test: lost steps were reported by the agent."""
    with fleet(tmp_path_factory.mktemp("patient"), **PATIENT, log_level="info") as made:
        yield made


@pytest.fixture
def name() -> str:
    return f"a{uuid.uuid4().hex[:8]}"


def stubborn(mark: str) -> str:
    """A script whose child processes try to outlive it."""
    hang = f"python3 -c 'import time; time.sleep(600)' {mark}"
    return "\n".join(
        [
            "trap '' TERM INT HUP",
            f"{hang}-child &",
            f"setsid {hang}-session &",
            f"(setsid sh -c '(exec {hang.replace(chr(39), chr(34))}-daemon) & exit 0' &)",
            f"nohup env -i {hang}-bare >/dev/null 2>&1 &",
            f"perl -e 'fork and exit; exec @ARGV' {hang.replace(chr(39) + 'import', chr(39) + 'import')}-double || true",
            "echo started",
            "wait",
            "sleep 600",
        ]
    )


def test_everything_a_step_has_started_dies_with_the_agent(quick: Fleet, name: str) -> None:
    mark = f"mark-{name}"
    quick.marks.append(mark)
    agent = quick.agent(name).start()
    run_id = quick.run(name, on(name, {"name": "j", "steps": [shell("s", stubborn(mark))]}))
    until(lambda: len({w.pid for w in carrying(f"{mark}-")}) >= 5, what="all children run")
    assert len(agent.steps()) >= 4  # one has cleared its environment
    agent.kill9()
    until(lambda: not agent.steps() and not carrying(f"{mark}-"), WITHIN, "the guard has killed them all")
    shown = quick.ended(run_id)
    assert shown["status"] == "failed"
    (attempt,) = quick.attempts(run_id)
    assert attempt["error"].startswith("lost: "), attempt
    assert quick.status(agent) == "offline"


def test_a_killed_agent_that_never_comes_back(quick: Fleet, name: str) -> None:
    """Its steps are lost when the lease expires, not sooner, and dependent steps fail."""
    agent = quick.agent(name).start()
    steps = [shell("hang", "echo on; sleep 600"), shell("never", "echo never")]
    run_id = quick.run(name, on(name, {"name": "j", "steps": steps}))
    quick.running(run_id)
    agent.kill9()
    began = time.monotonic()
    shown = quick.ended(run_id)
    took = time.monotonic() - began
    assert QUICK["lease"] - 1 < took < QUICK["lease"] + 60, took
    assert [s["status"] for s in shown["jobs"][0]["steps"]] == ["failed", "skipped"]
    assert quick.busy(agent) == 0


def test_restarted_on_the_same_directory(patient: Fleet, name: str) -> None:
    """Steps it no longer runs are lost immediately, their output arrives, and it gets new work."""
    agent = patient.agent(name, slots=2).start()
    lines = 3000
    script = f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i; done; touch {patient.directory}/{name}; sleep 600"
    run_id = patient.run(name, on(name, {"name": "j", "steps": [shell("s", script)]}))
    until((patient.directory / name).exists, what="the step has printed all")
    until(lambda: len(patient.logs(run_id)) > 100, what="some of it has been seen")
    agent.kill9()
    agent.start()
    shown = patient.ended(run_id)
    (attempt,) = patient.attempts(run_id)
    # Not because its lease ran out, which it would in the end.
    assert (shown["status"], attempt["error"]) == ("failed", f"lost: agent {name} no longer runs it")
    printed = until(lambda: patient.logs(run_id), what="its lines")
    assert printed == [f"line {n}" for n in range(1, len(printed) + 1)]
    again = patient.run(f"{name}-again", on(name, *(job(f"j{n}", "echo fine") for n in range(4))))
    assert patient.ended(again)["status"] == "succeeded"
    journal = Journal(patient.server.data_dir)
    journal.check()
    journal.check_run(run_id, {"j/s": printed})


def test_lines_in_the_spool_outlive_agent_and_outage(patient: Fleet, name: str) -> None:
    """Output printed while the server was unavailable, by an agent killed before the server returned."""
    agent = patient.agent(name).start()
    gate, done = patient.directory / f"{name}-gate", patient.directory / f"{name}-done"
    script = f"echo first; until [ -e {gate} ]; do sleep 0.05; done; seq 1 5000; touch {done}; sleep 600"
    run_id = patient.run(name, on(name, {"name": "j", "steps": [shell("s", script)]}))
    until(lambda: patient.logs(run_id) == ["first"], what="the first line")
    patient.server.kill9()
    gate.touch()
    until(done.exists, what="the step has printed all")
    spool = agent.data_dir / "spool" / "logs"
    # It is in the pipe of the step when that says so, and a moment later in the spool.
    until(lambda: b"5000" in _spooled(spool), what="the last line is in the spool")
    agent.kill9()
    patient.server.restart()
    agent.start()
    assert patient.ended(run_id)["status"] == "failed"
    expected = ["first", *(str(n) for n in range(1, 5001))]
    until(lambda: patient.logs(run_id) == expected, what="every line that was printed")
    journal = Journal(patient.server.data_dir)
    journal.check()
    journal.check_run(run_id, {"j/s": expected})


def _spooled(spool: Path) -> bytes:
    """The log lines in an agent's spool."""
    found = b""
    for path in sorted(spool.glob("*.seg")):
        for record, _ in unframe(path.read_bytes()):
            batch = LogBatch.FromString(record)
            packed = batch.compression == LogBatch.COMPRESSION_ZSTD
            found += zstandard.decompress(batch.data) if packed else batch.data
    return found


def job(name: str, *scripts: str, **more: Any) -> dict[str, Any]:
    steps = [shell(f"s{at}", script) for at, script in enumerate(scripts)]
    return {"name": name, "steps": steps, **more}


@pytest.mark.parametrize("level", ["step", "job"])
def test_tried_again_at_most_twice_where_the_spec_says_so(quick: Fleet, name: str, level: str) -> None:
    ledger = quick.directory / f"{name}-ledger"
    agent = quick.agent(name).start()
    work = job("j", f"echo first >> {ledger}", f"echo second $PILOT_STEP_RUN_ID >> {ledger}; sleep 600")
    (work if level == "job" else work["steps"][1])["onLost"] = "rerun"
    run_id = quick.run(name, on(name, work))
    for count in range(1, 4):
        until(
            lambda c=count: ledger.exists() and ledger.read_text().count("second") == c, what=f"try {count}"
        )
        agent.kill9()
        until(lambda: not agent.steps(), WITHIN, "its steps are dead")
        agent.start()
    assert quick.ended(run_id)["status"] == "failed"
    words = ledger.read_text().split()
    assert words.count("second") == 3
    assert words.count("first") == (3 if level == "job" else 1)
    attempts = quick.show(run_id)["jobs"][0]["steps"][1]["attempts"]
    assert [a["status"] for a in attempts] == ["failed"] * 3
    assert all(a["error"].startswith("lost: ") for a in attempts)
    assert len({a["step_run_id"] for a in attempts}) == 3
    assert quick.busy(agent) == 0


def test_a_step_that_must_not_run_twice_does_not_though_its_job_may(quick: Fleet, name: str) -> None:
    ledger = quick.directory / f"{name}-ledger"
    agent = quick.agent(name).start()
    work = job("j", f"echo run >> {ledger}; sleep 600", onLost="rerun")
    work["steps"][0]["onLost"] = "fail"
    run_id = quick.run(name, on(name, work))
    until(ledger.exists, what="it runs")
    agent.kill9()
    agent.start()
    assert quick.ended(run_id)["status"] == "failed"
    assert ledger.read_text().split() == ["run"]


def test_a_rerun_that_is_not_lost_again_succeeds(quick: Fleet, name: str) -> None:
    mark = quick.directory / f"{name}-mark"
    script = f"if [ -e {mark} ]; then echo again; else touch {mark}; echo once; sleep 600; fi"
    agent = quick.agent(name).start()
    run_id = quick.run(name, on(name, job("j", script, onLost="rerun")))
    until(mark.exists, what="it runs")
    agent.kill9()
    agent.start()
    assert quick.ended(run_id)["status"] == "succeeded"
    journal = Journal(quick.server.data_dir)
    journal.check_run(run_id, {"j/s0": [*(["once"] if "once" in quick.logs(run_id) else []), "again"]})


def test_no_capacity_is_lost_however_often_it_is_killed(quick: Fleet, name: str) -> None:
    rng = chance("capacity")
    agent = quick.agent(name, slots=3).start()
    runs = []
    for number in range(2 * ROUNDS):
        runs += [quick.run(f"{name}-{number}-{n}", on(name, job("j", "sleep 0.3; echo x"))) for n in range(4)]
        time.sleep(rng.uniform(0, 0.6))  # the moment of the kill is the point
        agent.kill9()
        agent.start()
    outcomes = {quick.ended(run_id, 120 + 10 * ROUNDS)["status"] for run_id in runs}
    assert outcomes <= {"succeeded", "failed"}
    assert quick.busy(agent) == 0
    _fills(quick, agent)


def _fills(fleet: Fleet, agent: AgentProcess) -> None:
    """As many steps as it has slots run concurrently, and one more waits with a reason."""
    gate = fleet.directory / f"{agent.name}-open"
    jobs = [job(f"j{n}", f"until [ -e {gate} ]; do sleep 0.05; done") for n in range(agent.slots + 1)]
    run_id = fleet.run(f"{agent.name}-fill", on(agent.name, *jobs))
    fleet.running(run_id, agent.slots)
    waiting = until(lambda: [a for a in fleet.attempts(run_id) if a["status"] == "queued" and a["reason"]])
    assert [a["reason"] for a in waiting] == [f"agent {agent.name} is busy"]
    gate.touch()
    assert fleet.ended(run_id)["status"] == "succeeded"


def test_kills_at_random_moments(patient: Fleet, name: str) -> None:
    """Each step is marked lost or has run once with all its lines."""
    rng, ledger = chance("random kills"), patient.directory / f"{name}-ledger"
    agent = patient.agent(name, slots=4).start()
    runs = []
    for number in range(ROUNDS):
        runs.append(patient.run(f"{name}-{number}", on(name, *(_chain(n, ledger) for n in range(4)))))
        _kill_somewhen(agent, rng)
    for run_id in runs:
        shown = patient.ended(run_id)
        for one in shown["jobs"]:
            for step in one["steps"]:
                _check_step(patient, run_id, one["name"], step, ledger)
    journal = Journal(patient.server.data_dir)
    journal.check()
    for run_id in runs:
        journal.check_run(run_id, _lines(journal, run_id))
    assert patient.server.failures() == []


def _chain(number: int, ledger: Path) -> dict[str, Any]:
    script = f"echo $PILOT_STEP_RUN_ID >> {ledger}; for i in $(seq 1 40); do echo $i; sleep 0.005; done"
    return job(f"j{number}", *[script] * 4)


def _kill_somewhen(agent: AgentProcess, rng: random.Random) -> None:
    for _ in range(2):
        time.sleep(rng.uniform(0.05, 1.2))  # the moment of the kill is the point
        agent.kill9()
        until(lambda: not agent.steps(), WITHIN, "its steps are dead")
        agent.start()


def _check_step(fleet: Fleet, run_id: str, job: str, step: dict[str, Any], ledger: Path) -> None:
    lines = fleet.logs(run_id, job=job, step=step["name"])
    assert lines == [str(n) for n in range(1, len(lines) + 1)], "lost, doubled, or out of order"
    told = ledger.read_text().split()
    for attempt in step["attempts"]:
        assert told.count(attempt["step_run_id"]) <= 1, "run twice"
    if step["status"] == "succeeded":
        assert len(lines) == 40
        assert told.count(step["attempts"][-1]["step_run_id"]) == 1
    elif step["status"] == "failed":
        assert step["attempts"][-1]["error"].startswith("lost: "), step
    else:
        assert step["status"] == "skipped"
        assert [attempt["started_at"] for attempt in step["attempts"]] == [None]


def _lines(journal: Journal, run_id: str) -> dict[str, list[str]]:
    from support.faults.checker import lines_by_node

    return lines_by_node(journal.of_run(run_id))
