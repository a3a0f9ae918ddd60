"""Bad networks between server and agent: cut, slow, silent, and healed again."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from support.faults.checker import Journal
from support.faults.fleet import PATIENT, QUICK, ROUNDS, AgentProcess, Fleet, chance, fleet, on, shell, until
from support.faults.proxy import Proxy, proxy
from support.faults.talk import all_is_right, talkative


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("patient"), **PATIENT) as made:
        yield made


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("quick"), **QUICK) as made:
        yield made


@pytest.fixture
def name() -> str:
    return f"n{uuid.uuid4().hex[:8]}"


@pytest.fixture
def slow_line(patient: Fleet) -> Iterator[Proxy]:
    with proxy(patient.server.grpc) as made:
        yield made


@pytest.fixture
def line(quick: Fleet) -> Iterator[Proxy]:
    with proxy(quick.server.grpc) as made:
        yield made


def test_cut_again_and_again(patient: Fleet, slow_line: Proxy, name: str) -> None:
    rng, ledger = chance("cuts"), patient.directory / f"{name}-ledger"
    agent = patient.agent(name, grpc=slow_line.address).start()
    for number in range(ROUNDS):
        ledger.unlink(missing_ok=True)
        run_id = patient.run(f"{name}-{number}", talkative(name, ledger))
        for _ in range(8):
            time.sleep(rng.uniform(0.1, 0.6))  # the moment of the cut is the point
            slow_line.cut()
        all_is_right(patient, run_id, ledger)
    assert agent.failures() == []


def test_every_connection_breaks_after_some_bytes(patient: Fleet, slow_line: Proxy, name: str) -> None:
    """Cut in the midst of messages, at a different place each time."""
    rng, ledger = chance("byte limit"), patient.directory / f"{name}-ledger"
    agent = patient.agent(name, grpc=slow_line.address).start()
    run_id = patient.run(name, talkative(name, ledger))
    for _ in range(10 * ROUNDS):
        slow_line.limit = rng.randrange(300, 30_000)
        slow_line.cut()
        time.sleep(0.3)  # the network is bad for so long
    slow_line.limit = None
    slow_line.cut()
    all_is_right(patient, run_id, ledger)
    assert agent.failures() == []


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"delay": 0.15}, id="delayed"),
        pytest.param({"rate": 60_000.0}, id="throttled", marks=pytest.mark.long),
    ],
)
def test_slow(patient: Fleet, slow_line: Proxy, name: str, how: dict[str, float]) -> None:
    ledger = patient.directory / f"{name}-ledger"
    patient.agent(name, grpc=slow_line.address).start()
    slow_line.set(**how)
    run_id = patient.run(name, talkative(name, ledger))
    all_is_right(patient, run_id, ledger)


def test_a_partition_shorter_than_the_lease_has_no_effect(
    patient: Fleet, slow_line: Proxy, name: str
) -> None:
    ledger = patient.directory / f"{name}-ledger"
    patient.agent(name, grpc=slow_line.address).start()
    run_id = patient.run(name, talkative(name, ledger))
    patient.running(run_id, 2)
    slow_line.set(hold=True)
    time.sleep(2.5)  # nothing passes for so long, and the steps end meanwhile
    slow_line.set()
    all_is_right(patient, run_id, ledger)


def _outcome(shown: dict[str, Any]) -> dict[str, Any]:
    """A run as it is shown, but for the count of its lines: those that come late are kept."""
    return json.loads(re.sub(r'"lines": \d+', '"lines": 0', json.dumps(shown)))


def test_a_partition_longer_than_the_lease(quick: Fleet, line: Proxy, name: str) -> None:
    """The step is lost; its late result and output are ignored; the agent gets new work."""
    end = quick.directory / f"{name}-end"
    agent = quick.agent(name, grpc=line.address, slots=1).start()
    script = f"echo begun; until [ -e {end} ]; do sleep 0.05; done; echo '::output late=1'; echo ended"
    run_id = quick.run(name, on(name, {"name": "j", "steps": [shell("s", script)]}))
    quick.running(run_id)
    line.set(hold=True)
    shown = quick.ended(run_id)
    end.touch()  # it succeeds, and the server does not know
    until(lambda: agent.said("agent.step_finished"), what="it has ended")
    before = Journal(quick.server.data_dir).of_run(run_id)
    line.set()
    until(lambda: agent.said("agent.result_too_late"), what="the late result is refused")
    (attempt,) = quick.attempts(run_id)
    assert (shown["status"], attempt["status"], attempt["error"][:6]) == ("failed", "failed", "lost: ")
    assert _outcome(quick.show(run_id)) == _outcome(shown)
    after = Journal(quick.server.data_dir).of_run(run_id)
    assert {e.type for e in after[len(before) :]} <= {"step.logged"}
    assert quick.show(run_id)["jobs"][0]["steps"][0]["outputs"] == {}
    again = quick.run(f"{name}-again", on(name, {"name": "j", "steps": [shell("s", "echo fine")]}))
    assert quick.ended(again)["status"] == "succeeded"


@pytest.mark.parametrize("back", ["on its old connection", "on a new connection"])
def test_a_lost_step_that_still_runs_is_stopped_when_its_agent_reconnects(
    quick: Fleet, line: Proxy, name: str, back: str
) -> None:
    agent = quick.agent(name, grpc=line.address, slots=1).start()
    run_id = quick.run(name, on(name, {"name": "j", "steps": [shell("s", "sleep 600")]}))
    quick.running(run_id)
    line.set(hold=True, refuse=True)
    if back == "on a new connection":
        line.cut()
    assert quick.ended(run_id)["status"] == "failed"
    assert agent.steps()
    line.set()
    until(lambda: quick.status(agent) == "online", what="it is back")
    until(
        lambda: not agent.steps(), what="nobody waits for the step, and its slot is free for others: it ends"
    )


def test_a_suspended_agent_works_again(quick: Fleet, name: str) -> None:
    """A suspended machine: its connection is still open after it was marked offline."""
    agent = quick.agent(name).start()
    agent.freeze()
    until(lambda: quick.status(agent) == "offline", what="it is missed")
    agent.thaw()
    until(lambda: quick.status(agent) == "online", what="it is back")
    run_id = quick.run(name, on(name, {"name": "j", "steps": [shell("s", "echo fine")]}))
    assert quick.ended(run_id)["status"] == "succeeded"


def test_a_rerun_elsewhere_while_the_first_attempt_still_runs(quick: Fleet, line: Proxy, name: str) -> None:
    """``onLost: rerun`` on another agent; late reports of the first apply to its own attempt."""
    first = quick.agent(name, grpc=line.address, slots=1).start()
    second = quick.agent(f"{name}-b", slots=1)
    begun, end = (quick.directory / f"{name}-{it}" for it in ("begun", "end"))
    waiting = f"if mkdir {begun} 2>/dev/null; then until [ -e {end} ]; do sleep 0.05; done; fi"  # the first one waits
    script = f"echo on $PILOT_STEP_RUN_ID; {waiting}; echo end $PILOT_STEP_RUN_ID"
    spec = {"jobs": [{"name": "j", "onLost": "rerun", "steps": [shell("s", script)]}]}
    spec["jobs"][0]["steps"][0]["agentSelector"] = {  # type: ignore[index]
        "matchExpressions": [{"key": "only", "operator": "In", "values": [name, second.name]}]
    }
    run_id = quick.run(name, spec)
    quick.running(run_id)
    until(lambda: quick.logs(run_id), what="its first line")
    line.set(hold=True)
    second.start()
    shown = quick.ended(run_id)
    assert shown["status"] == "succeeded"
    assert first.steps()
    end.touch()
    line.set()
    lost, won = shown["jobs"][0]["steps"][0]["attempts"]
    assert (lost["agent_id"], won["agent_id"]) == (first.name, second.name)
    until(lambda: first.said("agent.step_finished"), what="the first has ended, too")
    until(lambda: not first.steps(), what="and is gone")
    mine = [x for x in quick.logs(run_id) if x.endswith(won["step_run_id"])]
    assert mine == [f"on {won['step_run_id']}", f"end {won['step_run_id']}"]
    assert _outcome(quick.show(run_id)) == _outcome(shown)
    assert [a["status"] for a in quick.attempts(run_id)] == ["failed", "succeeded"]


def test_a_stale_connection_does_not_end_the_agent(patient: Fleet, slow_line: Proxy, name: str) -> None:
    """Delayed bytes of a killed agent's connection arrive after its successor connected."""
    token = patient.server.registration_token(max_uses=1)
    agent = patient.agent(name, grpc=slow_line.address, token=token).start()
    agent.stop()
    slow_line.set(hold=True)
    agent.start(online=False)
    until(lambda: slow_line.open > 0, what="it has a connection that does not get through")
    agent.kill9()
    heir = AgentProcess(patient.server, patient.directory, name, token=token)
    patient.agents.append(heir)
    heir.start()
    slow_line.set()
    run_id = patient.run(name, on(name, {"name": "j", "steps": [shell("s", "echo fine")]}))
    assert patient.ended(run_id)["status"] == "succeeded"
    assert heir.exit_code is None


@pytest.mark.long
@pytest.mark.parametrize("side", ["client", "server"])
def test_half_open(patient: Fleet, slow_line: Proxy, name: str, side: str) -> None:
    """Half-open connection: the other side detects it by keepalive within 30 seconds."""
    agent = patient.agent(name, grpc=slow_line.address).start()
    slow_line.half_close(side)
    run_id = patient.run(name, on(name, {"name": "j", "steps": [shell("s", "echo fine")]}))
    assert patient.ended(run_id, 60)["status"] == "succeeded"
    assert agent.exit_code is None


@pytest.mark.long
def test_a_connection_that_is_dead_for_good(patient: Fleet, slow_line: Proxy, name: str) -> None:
    """Without a reset keepalives detect it; output printed meanwhile is not lost."""
    ledger = patient.directory / f"{name}-ledger"
    agent = patient.agent(name, grpc=slow_line.address).start()
    run_id = patient.run(name, talkative(name, ledger))
    patient.running(run_id, 2)
    slow_line.black_hole()
    shown = patient.ended(run_id, 90)
    told = ledger.read_text().split()
    assert len(told) == len(set(told)), "run twice"
    errors = [a["error"] for a in patient.attempts(run_id) if a["status"] != "succeeded"]
    assert all(error.startswith("lost: ") for error in errors), shown
    again = patient.run(f"{name}-again", on(name, {"name": "j", "steps": [shell("s", "echo fine")]}))
    assert patient.ended(again)["status"] == "succeeded"
    assert agent.exit_code is None
