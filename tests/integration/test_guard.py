"""The guard: an agent is killed, and nothing of its steps survives; nor of one that was killed with its guard."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pilothouse.agent import guard as guard_module
from pilothouse.agent.guard import Guard, GuardFailed
from pilothouse.agent.reaping.groups import PREFIX
from pilothouse.agent.reaping.supervisor import Request
from support.steps import alive, guard, written
from support.waiting import eventually

BACKENDS = ["cgroup2", "cgroup1", "subreaper"]
# An agent in miniature: it has two steps started that take themselves out of sight, and then hangs.
AGENT = """
import asyncio, os, sys
from pilothouse.agent.guard import Guard
from pilothouse.agent.reaping.supervisor import Request
async def main(backend, directory):
    guard = Guard(backend)
    for script in sys.argv[3:]:
        await guard.start(Request(["sh", "-c", script], directory, {"PATH": os.environ["PATH"]}, []))
    print(guard.pid, flush=True)
    await asyncio.sleep(300)
asyncio.run(main(*sys.argv[1:3]))
"""
PLAIN = "echo $$ > plain.pid; while :; do sleep 1; done"
STRIPPED = "trap '' TERM HUP; (setsid env -i /bin/sh -c 'echo $$ > stripped.pid; exec sleep 300' &); exit 0"


class Agent:
    """Its guard and supervisors are children of the guard."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        assert process.stdout is not None
        self.process, self.directory = process, directory
        self.guard = psutil.Process(int(process.stdout.readline()))

    async def steps(self) -> list[int]:
        return [int(await written(self.directory / f"{name}.pid")) for name in ("plain", "stripped")]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    guard(request.param)  # skips the test where there is none
    return str(request.param)


@pytest.fixture
def agent(tmp_path: Path, backend: str) -> Iterator[Agent]:
    command = [sys.executable, "-c", AGENT, backend, str(tmp_path), PLAIN, STRIPPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True) as process:
        found = Agent(process, tmp_path)
        yield found
        process.kill()
        for path in tmp_path.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)


def leftovers(pid: int) -> list[Path]:
    """The control groups of the agent whose guard has this pid."""
    return [path for path in Path("/sys/fs/cgroup").glob(f"*/{PREFIX}{pid}-*") if path.is_dir()]


async def test_nothing_survives_a_killed_agent(agent: Agent, backend: str) -> None:
    steps = await agent.steps()
    assert len(leftovers(agent.guard.pid)) == (backend != "subreaper")
    bystander = await guard(backend).start(Request(["sleep", "300"], "/", {"PATH": os.environ["PATH"]}, []))
    for process in (agent.guard, *agent.guard.children()):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
    assert all(map(alive, [agent.guard.pid, *steps]))
    agent.process.kill()
    await eventually(lambda: not any(map(alive, steps)))
    await eventually(lambda: not alive(agent.guard.pid))
    assert leftovers(agent.guard.pid) == []
    assert not bystander.gone.done(), "a step of another agent is left alone"
    bystander.kill(5)
    await bystander.gone


async def test_killing_the_agents_whole_group_does_not_reach_the_guard(agent: Agent) -> None:
    steps = await agent.steps()
    os.killpg(agent.process.pid, signal.SIGKILL)
    await eventually(lambda: not any(map(alive, steps)))


async def test_killed_together_with_the_guard(agent: Agent) -> None:
    """Then its supervisors are left to do it."""
    steps = await agent.steps()
    for pid in (agent.guard.pid, agent.process.pid):
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not any(map(alive, steps)))


async def test_killed_together_with_guard_and_supervisors(agent: Agent, backend: str) -> None:
    """Then the next agent to start does it, where there are control groups to know the processes by."""
    if backend == "subreaper":
        pytest.skip("without control groups nothing is known of them then")
    steps = await agent.steps()
    supervisors = [process.pid for process in agent.guard.children()]
    # All at once, as the kernel does when memory runs out: each is stopped before those that it would continue.
    for pid in (agent.process.pid, agent.guard.pid, *supervisors):
        os.kill(pid, signal.SIGSTOP)
    for pid in (*supervisors, agent.guard.pid, agent.process.pid):
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not any(map(alive, supervisors)))
    await eventually(lambda: not alive(agent.guard.pid))
    assert all(map(alive, steps))
    next_one = await asyncio.to_thread(Guard, backend)
    assert not any(map(alive, steps))
    assert leftovers(agent.guard.pid) == []
    await asyncio.to_thread(next_one.close)


async def test_closing_the_guard_ends_what_is_left(backend: str) -> None:
    own = await asyncio.to_thread(Guard, backend)
    assert own.running
    step = await own.start(Request(["sleep", "300"], "/", {"PATH": os.environ["PATH"]}, []))
    await asyncio.to_thread(own.close)
    assert not own.running
    await step.gone
    assert leftovers(own.pid) == []


def test_a_guard_that_does_not_stand_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(GuardFailed):
        Guard()


async def test_supervisors_serve_many_steps_and_few_wait(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "MAX_IDLE", 2)
    own = await asyncio.to_thread(Guard, backend)
    environment = {"PATH": os.environ["PATH"]}

    def supervisors() -> list[int]:
        return [process.pid for process in psutil.Process(own.pid).children()]

    async def one(text: str) -> None:
        step = await own.start(Request(["sh", "-c", text], str(tmp_path), environment, []))
        await step.gone
        os.close(step.stdout)
        os.close(step.stderr)

    await asyncio.gather(*(one("sleep 0.5") for _ in range(5)))
    await eventually(lambda: len(supervisors()) == 2)
    before = set(supervisors())
    for _ in range(4):
        await one("true")
    assert set(supervisors()) == before
    os.kill(supervisors()[0], signal.SIGKILL)
    os.kill(supervisors()[-1], signal.SIGKILL)
    await eventually(lambda: not before & set(supervisors()))
    for _ in range(3):  # those were killed while they had nothing to do
        await one("true")
    await asyncio.to_thread(own.close)
