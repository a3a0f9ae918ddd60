"""Server and agent in separate network namespaces, with delayed, lost, duplicated and corrupted packets.

Each test runs over netem, if the kernel has it, and over a relay.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.faults.fleet import PATIENT, ROUNDS, AgentProcess, Fleet, chance, dummy, fleet, on, shell, until
from support.faults.netns import (
    AGENT,
    BITS,
    CUT,
    FINE,
    OTHER,
    SERVER,
    Network,
    Trouble,
    inside,
    namespaces,
    netem,
    relay,
    run,
)
from support.faults.readers import Reader, followers
from support.faults.talk import all_is_right, talkative

TIMINGS = {**PATIENT, "lease": 120.0, "agent_offline_after": 60.0, "ws_heartbeat": 1.0, "ws_pong_wait": 2.0}
"""Lease long enough for keepalives to detect a partition and for the agent to reconnect."""


@dataclass
class Apart:
    """A fleet with its agents in a separate network namespace."""

    made: Fleet
    network: Network
    agents: str

    def agent(self, name: str) -> AgentProcess:
        """A new one, started."""
        port = self.made.server.settings["grpc_port"]
        agent = self.made.agent(name, grpc=f"{SERVER}:{port}", netns=self.agents)
        return agent.start()

    def both(self, trouble: Trouble) -> None:
        """The same in both directions."""
        self.network.set(trouble, trouble)


@pytest.fixture(scope="module", params=["netem", "relay"])
def apart(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """The thread of the tests is with the server."""
    rng = chance("namespaces")
    with contextlib.ExitStack() as stack:
        server, agent = stack.enter_context(namespaces())
        if request.param == "netem":
            network: Network = stack.enter_context(netem(server, agent))
        else:
            network = stack.enter_context(relay(server, agent, str(rng.random())))
        stack.enter_context(inside(server))
        directory = tmp_path_factory.mktemp("apart")
        made = stack.enter_context(fleet(directory, host="0.0.0.0", **TIMINGS))
        yield Apart(made, network, agent)


@pytest.fixture(autouse=True)
def _fine(apart: Apart) -> Iterator[None]:
    apart.both(FINE)
    yield
    apart.both(FINE)


@pytest.fixture
def name() -> str:
    return f"n{uuid.uuid4().hex[:8]}"


@pytest.fixture
def ledger(apart: Apart, name: str) -> Path:
    return apart.made.directory / f"{name}-ledger"


FAR = Trouble(delay=0.04, jitter=0.01)
BAD = {
    "far away": FAR,
    "lossy": Trouble(delay=0.02, loss=0.05),
    "out of order": Trouble(delay=0.03, jitter=0.03),
    "doubled": Trouble(duplicate=0.2),
    "spoilt": Trouble(corrupt=0.03),
    "narrow": Trouble(delay=0.02, rate=40_000.0),
    "all of it": Trouble(delay=0.03, jitter=0.02, loss=0.03, duplicate=0.03, corrupt=0.01, rate=200_000.0),
}
SHORT = ("lossy", "all of it")


def test_the_configured_network_faults_occur(apart: Apart) -> None:
    """Precondition of the other tests."""
    with echo(apart) as answers:
        assert len(answers(20)) == 20
        apart.both(Trouble(loss=0.5))
        assert 0 < len(answers(60)) < 45  # a quarter of them, on the average
        apart.both(Trouble(corrupt=1.0))
        assert len(answers(20)) < 20  # detected by the checksum
        apart.network.set(FINE, CUT)
        assert answers(5) == []
        apart.both(Trouble(delay=0.04))
        assert min(answers(10)) >= 0.08
        apart.both(FINE)
        assert len(answers(20)) == 20


@contextlib.contextmanager
def echo(apart: Apart) -> Iterator[Callable[[int], list[float]]]:
    """Send so many datagrams from the agents' side, and give how long each took to come back, of those that did."""
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        here.bind((SERVER, 0))
        with inside(apart.agents):
            there = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        there.connect(here.getsockname())
        there.settimeout(1)

        def give_back() -> None:
            while (word := here.recvfrom(2000))[0] != b"enough":
                here.sendto(*word)

        def answers(count: int) -> list[float]:
            sent, took = {}, []
            for number in range(count):
                sent[f"{number} {time.monotonic_ns()} of {count}".encode()] = time.monotonic()
                there.send(list(sent)[-1])
            with contextlib.suppress(TimeoutError):
                while sent:
                    if began := sent.pop(there.recv(2000), 0):
                        took.append(time.monotonic() - began)
            return took

        echoing = threading.Thread(target=give_back, daemon=True)
        echoing.start()
        try:
            yield answers
        finally:
            here.sendto(b"enough", here.getsockname())
            echoing.join()


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=() if how in SHORT else pytest.mark.long) for how in BAD]
)
def test_packets_that_do_not_arrive_as_they_were_sent(
    apart: Apart, name: str, ledger: Path, how: str
) -> None:
    agent = apart.agent(name)
    apart.both(BAD[how])
    run_id = apart.made.run(name, talkative(name, ledger))
    all_is_right(apart.made, run_id, ledger)
    assert agent.failures() == []


CUTS = {"both ways": (CUT, CUT), "to the server": (CUT, FINE), "to the agent": (FINE, CUT)}


@pytest.mark.parametrize("way", CUTS)
def test_cut_for_some_seconds(apart: Apart, name: str, ledger: Path, way: str) -> None:
    rng, agent = chance(f"cut {way}"), apart.agent(name)
    run_id = apart.made.run(name, talkative(name, ledger))
    apart.made.running(run_id, 2)
    for _ in range(ROUNDS):
        apart.network.set(*CUTS[way])
        time.sleep(rng.uniform(2, 5))  # nothing gets through for so long
        apart.both(FINE)
        time.sleep(rng.uniform(0, 1))
    all_is_right(apart.made, run_id, ledger)
    assert agent.failures() == []


def test_the_agents_link_goes_down(apart: Apart, name: str, ledger: Path) -> None:
    """The kernel drops the address's routes and reports an error on every socket."""
    agent = apart.agent(name)
    run_id = apart.made.run(name, talkative(name, ledger))
    apart.made.running(run_id, 2)
    run("ip", "-n", apart.agents, "link", "set", "wire", "down")
    time.sleep(3)  # it is down for so long
    run("ip", "-n", apart.agents, "link", "set", "wire", "up")
    all_is_right(apart.made, run_id, ledger)
    assert agent.failures() == []


def test_the_agents_address_changes(apart: Apart, name: str, ledger: Path) -> None:
    """A laptop that changes networks: requests on the old connection are never answered."""
    agent = apart.agent(name)
    run_id = apart.made.run(name, talkative(name, ledger))
    apart.made.running(run_id, 2)
    readdress(apart, AGENT, OTHER)
    try:
        all_is_right(apart.made, run_id, ledger)
    finally:
        readdress(apart, OTHER, AGENT)
    assert agent.failures() == []


def readdress(apart: Apart, old: str, new: str) -> None:
    """Give the agents' machine another address."""
    run("ip", "-n", apart.agents, "addr", "del", f"{old}/{BITS}", "dev", "wire")
    run("ip", "-n", apart.agents, "addr", "add", f"{new}/{BITS}", "dev", "wire")


def test_viewers_without_network_are_removed(apart: Apart, name: str) -> None:
    """No end of the connection ever comes; they do not answer the heartbeat."""
    server = apart.made.server
    here = apart.made.agent(f"{name}-here").start()
    run_id = apart.made.run(name, on(here.name, {"name": "j", "steps": [dummy("s", hang=True)]}))
    apart.made.running(run_id)
    before = followers(server)
    with contextlib.ExitStack() as stack:
        with inside(apart.agents):
            for _ in range(20):
                sock = stack.enter_context(
                    socket.create_connection((SERVER, server.settings["port"]), timeout=60)
                )
                sock.sendall(Reader(server, server.admin, run_id, "ws").request)
                assert b" 101 " in sock.recv(4096)
        until(lambda: followers(server) == before + 20, what="all are in")
        apart.both(CUT)
        until(lambda: followers(server) == before, 120, "all are forgotten")
    server.ask("POST", f"/workflow-runs/{run_id}/cancel")
    apart.made.ended(run_id)


@pytest.mark.long
def test_cut_until_keepalives_fail_on_both_sides(apart: Apart, name: str, ledger: Path) -> None:
    """Keepalives close the connection on both sides; the step continues and its output arrives later."""
    agent = apart.agent(name)
    gate = apart.made.directory / f"{name}-gate"
    script = f"seq 1 100; until [ -e {gate} ]; do sleep 0.05; done; seq 101 200"
    run_id = apart.made.run(name, on(name, {"name": "j", "steps": [shell("s", script)]}))
    until(lambda: len(apart.made.logs(run_id)) == 100, what="the first lines")
    apart.both(CUT)
    until(lambda: agent.said("agent.disconnected"), 90, "the agent has noticed")
    gate.touch()
    until(lambda: agent.said("agent.step_finished"), what="the step has ended")
    until(lambda: apart.made.status(agent) == "offline", 120, "the server has noticed")
    apart.both(FINE)
    assert apart.made.ended(run_id, 120)["status"] == "succeeded"
    assert apart.made.logs(run_id) == [str(n) for n in range(1, 201)]
    assert len(apart.made.attempts(run_id)) == 1


@pytest.mark.long
def test_random_network_faults(apart: Apart, name: str, ledger: Path) -> None:
    """Random network faults during consecutive runs."""
    rng, agent = chance("weather"), apart.agent(name)
    for number in range(ROUNDS):
        ledger.unlink(missing_ok=True)
        run_id = apart.made.run(f"{name}-{number}", talkative(name, ledger))
        for _ in range(6):
            ways = [rng.choice([*BAD.values(), FINE, CUT]) for _ in range(2)]
            apart.network.set(*ways)
            time.sleep(rng.uniform(0.1, 1.5))  # it is like this for so long
        apart.both(FINE)
        all_is_right(apart.made, run_id, ledger)
    assert agent.failures() == []
