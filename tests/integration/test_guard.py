"""The guard: an agent is killed, and nothing of its steps survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pilothouse.agent.guard import (
    COOKIE_VARIABLE,
    Guard,
    GuardFailed,
    Marks,
    find_family,
    kill_family,
    new_cookie,
)

# An agent in miniature: it starts the guard and steps that take themselves out of sight, and then hangs.
DAEMON = """
sh -c 'echo $$ > daemon.pid; trap "" TERM HUP; exec sleep 300' &
exit 0
"""
AGENT = """
import os, subprocess, sys, time
from pilothouse.agent.guard import Guard
cookie, directory = sys.argv[1:]
guard = Guard(cookie)
environment = dict(os.environ, PILOT_GUARD=cookie)
def step(script):
    subprocess.Popen(["sh", "-c", script], env=environment, cwd=directory, start_new_session=True)
step("echo $$ > plain.pid; while :; do sleep 1; done")
step("setsid sh daemon.sh & exit 0")
step("setsid env -i sh -c 'echo $$ > stripped.pid; exec sleep 300' & wait")
print(guard.pid, flush=True)
time.sleep(300)
"""


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, f"not within 15 s: {what}"
        time.sleep(0.02)


def read_pid(path: Path) -> int:
    eventually(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name} is written")
    return int(path.read_text())


@pytest.fixture
def cookie() -> Iterator[str]:
    cookie = new_cookie()
    yield cookie
    kill_family(Marks((f"{COOKIE_VARIABLE}={cookie}".encode(),)), within=5)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another agent."""
    environment = dict(os.environ, **{COOKIE_VARIABLE: new_cookie()})
    with subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def agent(tmp_path: Path, cookie: str) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "daemon.sh").write_text(DAEMON)
    command = [sys.executable, "-c", AGENT, cookie, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True) as process:
        yield process
        process.kill()


def started_by(agent: subprocess.Popen[str], directory: Path) -> tuple[int, list[int]]:
    """The pids of the guard and of the steps."""
    assert agent.stdout is not None
    guard = int(agent.stdout.readline())
    return guard, [read_pid(directory / f"{name}.pid") for name in ("plain", "daemon", "stripped")]


def test_nothing_survives_a_killed_agent(
    tmp_path: Path, agent: subprocess.Popen[str], bystander: subprocess.Popen[bytes]
) -> None:
    guard, steps = started_by(agent, tmp_path)
    os.kill(guard, signal.SIGTERM)
    os.kill(guard, signal.SIGINT)
    assert all(map(alive, [guard, *steps]))

    os.kill(agent.pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, steps)), "all steps are gone")
    eventually(lambda: not alive(guard), "the guard itself is gone")
    assert bystander.poll() is None


def test_killing_the_agents_whole_group_does_not_reach_the_guard(
    tmp_path: Path, agent: subprocess.Popen[str]
) -> None:
    _, steps = started_by(agent, tmp_path)
    os.killpg(agent.pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, steps)), "all steps are gone")


def test_closing_the_guard_ends_what_is_left(tmp_path: Path, cookie: str) -> None:
    guard = Guard(cookie)
    assert guard.running
    environment = {COOKIE_VARIABLE: cookie, "PATH": os.environ["PATH"]}
    step = subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True)
    guard.close()
    assert not guard.running
    assert step.wait(30) == -signal.SIGKILL


def test_a_guard_that_does_not_stand_is_an_error(cookie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(GuardFailed):
        Guard(cookie)


def test_a_family_that_keeps_forking_is_ended(tmp_path: Path, cookie: str) -> None:
    environment = dict(os.environ, **{COOKIE_VARIABLE: cookie})
    # Each generation leaves its session and its parent, which ends at once.
    (tmp_path / "hop.sh").write_text("echo x >> hops; sleep 0.02; setsid sh hop.sh & exit 0")
    subprocess.Popen(["sh", "hop.sh"], env=environment, cwd=tmp_path, start_new_session=True).wait()
    eventually(lambda: (tmp_path / "hops").stat().st_size > 10, "it hops")
    marks = Marks((f"{COOKIE_VARIABLE}={cookie}".encode(),))
    assert kill_family(marks, within=10) == []
    hops = (tmp_path / "hops").stat().st_size
    assert find_family(marks)[0] == []
    time.sleep(0.2)  # longer than several generations
    assert (tmp_path / "hops").stat().st_size == hops


def test_a_mate_of_the_session_belongs_to_the_family(tmp_path: Path, cookie: str) -> None:
    """Its environment cleared, in a group of its own, its parent gone."""
    mate_script = "env -i sh -c 'echo $$ > mate.pid; exec sleep 300'"
    command = ["bash", "-c", f"set -m; ({mate_script} & exit 0); exec sleep 300"]
    environment = dict(os.environ, **{COOKIE_VARIABLE: cookie})
    with subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True) as step:
        mate = read_pid(tmp_path / "mate.pid")
        eventually(lambda: psutil.Process(mate).ppid() != os.getpgid(mate), "its parent is gone")
        assert os.getsid(mate) == step.pid != os.getpgid(mate)
        assert kill_family(Marks((f"{COOKIE_VARIABLE}={cookie}".encode(),)), within=5) == []
        assert not alive(mate)


def test_who_belongs_to_a_family(cookie: str) -> None:
    environment = dict(os.environ, **{COOKIE_VARIABLE: cookie, "STEP": "one"})
    with subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True) as process:
        carried = f"{COOKIE_VARIABLE}={cookie}".encode()

        def pids(*marks: bytes, since: int = 0, session: int = 0) -> list[int]:
            return [member.pid for member in find_family(Marks(marks, session, since))[0]]

        eventually(lambda: pids(carried) == [process.pid], "it is found by its cookie")
        member = find_family(Marks((carried,)))[0][0]
        assert pids(carried, b"STEP=one") == [process.pid]
        assert pids(carried, b"STEP=two") == []
        assert pids(carried, since=member.started) == [process.pid]
        assert pids(carried, since=member.started + 1) == []
        assert pids(b"NOT=THERE", session=process.pid) == [process.pid]
        process.kill()
