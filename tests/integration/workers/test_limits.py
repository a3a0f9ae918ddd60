"""What a job may not do: compute, allocate or wait for ever, crash its pool, or leave anything to the next job."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilothouse.workers import frames
from pilothouse.workers.errors import (
    Crashed,
    JobRaised,
    NotPlainData,
    OutOfMemory,
    TimedOut,
    TooLarge,
    WorkError,
)
from pilothouse.workers.limits import MIB, Limits, lower
from pilothouse.workers.pool import Pool
from support import worker_jobs as jobs
from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # test_pool.py covers both

MakePool = Callable[..., Pool]


@pytest.mark.parametrize("job", [jobs.burn_python, jobs.burn_c])
async def test_cpu_time(make_pool: MakePool, job: Callable[[], None]) -> None:
    pool = make_pool(job, jobs.add)
    other = asyncio.create_task(pool.run(jobs.add, 1, 1, caller="b"))
    with pytest.raises(TimedOut) as caught:
        await pool.run(job, caller="a", limits=Limits(cpu=0.2))
    assert caught.value.limit == "cpu"
    assert await other == 2
    assert await pool.run(jobs.add, 1, 2, caller="a") == 3


@pytest.mark.parametrize("job", [jobs.burn_python, jobs.burn_c])
async def test_wall_time_also_of_a_job_that_computes(make_pool: MakePool, job: Callable[[], None]) -> None:
    pool = make_pool(job, jobs.add)
    with pytest.raises(TimedOut) as caught:
        await pool.run(job, caller="a", limits=Limits(wall=0.2))
    assert caught.value.limit == "wall"
    assert await pool.run(jobs.add, 1, 2, caller="a") == 3


async def test_wall_time_of_a_job_that_waits(make_pool: MakePool, gate: Callable[..., Any]) -> None:
    pool = make_pool(jobs.gate)
    with pytest.raises(TimedOut):
        await pool.run(jobs.gate, gate().path, caller="a", limits=Limits(wall=0.2))


async def test_cpu_time_is_counted_for_each_job(make_pool: MakePool) -> None:
    """One worker uses more in all than each of its jobs may."""
    pool = make_pool(jobs.burn_for)
    used = [await pool.run(jobs.burn_for, 0.2, caller="a", limits=Limits(cpu=0.4)) for _ in range(4)]
    assert pool.state().started == 1
    assert used[-1] > 0.8


async def test_memory(make_pool: MakePool) -> None:
    pool = make_pool(jobs.hog, jobs.hog_pieces, jobs.add)
    little = Limits(memory=64 * MIB)
    assert await pool.run(jobs.hog, 50 * MIB, caller="a", limits=little) == 50 * MIB
    with pytest.raises(OutOfMemory):
        await pool.run(jobs.hog, 70 * MIB, caller="a", limits=little)
    with pytest.raises(OutOfMemory):
        await pool.run(jobs.hog_pieces, caller="a", limits=little)
    assert await pool.run(jobs.hog, 70 * MIB, caller="a") == 70 * MIB


async def test_the_result_counts_for_memory(make_pool: MakePool) -> None:
    """Where native code gets no memory it may crash, as the JSON encoder does."""
    pool = make_pool(jobs.echo)
    with pytest.raises((OutOfMemory, Crashed)):
        await pool.run(jobs.echo, "x" * 10 * MIB, caller="a", limits=Limits(memory=9 * MIB))
    assert await pool.run(jobs.echo, 1, caller="a") == 1


async def test_a_worker_whose_jobs_leave_memory_behind_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(jobs.leak)
    pids = [
        await pool.run(jobs.leak, 40 * MIB, caller="a", limits=Limits(memory=100 * MIB)) for _ in range(12)
    ]
    assert 2 <= len(set(pids)) <= 6


async def test_results_are_bounded_and_plain(make_pool: MakePool) -> None:
    pool = make_pool(jobs.both, jobs.unplain)
    limits = Limits(result=1000)
    assert (await pool.run(jobs.both, 900, caller="a", limits=limits))[1] == bytes(900)
    with pytest.raises(TooLarge):
        await pool.run(jobs.both, 1000, caller="a", limits=limits)
    with pytest.raises(NotPlainData):
        await pool.run(jobs.unplain, caller="a")
    assert pool.state().started == 1, "the worker goes on"


@pytest.mark.parametrize("job", [jobs.raise_with, jobs.exit_with])
async def test_an_exception_is_logged_by_type_and_place_without_the_input(
    make_pool: MakePool, job: Callable[[str], None]
) -> None:
    pool = make_pool(job)
    with pytest.raises(JobRaised) as caught:
        await pool.run(job, "a-secret", caller="a")
    assert caught.value.name in ("ValueError", "SystemExit")
    assert caught.value.where.startswith("worker_jobs.py:")
    assert "a-secret" not in str(caught.value)
    with pytest.raises(JobRaised):
        await pool.run(job, "a-secret", caller="a")
    assert pool.state().started == 1, "the worker goes on"


async def test_endless_recursion(make_pool: MakePool) -> None:
    pool = make_pool(jobs.recurse)
    with pytest.raises(JobRaised, match="RecursionError"):
        await pool.run(jobs.recurse, caller="a")


@pytest.mark.parametrize(
    ("job", "argument", "error", "text"),
    [
        (jobs.crash, signal.SIGSEGV, Crashed, "SIGSEGV"),
        (jobs.crash, signal.SIGABRT, Crashed, "SIGABRT"),
        (jobs.crash, signal.SIGKILL, OutOfMemory, "short of memory"),
        (jobs.leave, 0, Crashed, "exit code 0"),
        (jobs.leave, 3, Crashed, "exit code 3"),
    ],
)
async def test_a_crash_fails_that_job_alone(
    make_pool: MakePool, job: Callable[[int], None], argument: int, error: type[WorkError], text: str
) -> None:
    pool = make_pool(job, jobs.add)
    crashing = [asyncio.create_task(pool.run(job, int(argument), caller="a")) for _ in range(3)]
    assert await pool.run(jobs.add, 1, 1, caller="b") == 2
    for task in crashing:
        with pytest.raises(error, match=text):
            await task
    assert await pool.run(jobs.add, 1, 1, caller="a") == 2
    assert pool.state().ended == {"done": 2, error.code: 3}


HEAD = frames.HEAD


@pytest.mark.parametrize(
    "nonsense",
    [
        b"no frame at all, but long enough for a head",
        HEAD.pack(frames.DONE, 999, 0),
        HEAD.pack(frames.STARTED, 1, 0),
        HEAD.pack(77, 1, 0),
        HEAD.pack(frames.RAISED, 1, 0),
        HEAD.pack(frames.DONE, 1, 1) + frames.ENTRY.pack(frames.BYTES, 1 << 40),
        HEAD.pack(frames.DONE, 1, 1) + frames.ENTRY.pack(frames.JSON, 1) + b"{",
        HEAD.pack(frames.DONE, 1, 1) + frames.ENTRY.pack(9, 1) + b"1",
    ],
)
async def test_a_worker_that_breaks_the_protocol_is_replaced(make_pool: MakePool, nonsense: bytes) -> None:
    """Hostile input may have taken it over."""
    pool = make_pool(jobs.write_nonsense, jobs.add)
    with pytest.raises(Crashed):
        await pool.run(jobs.write_nonsense, nonsense, caller="a")
    assert await pool.run(jobs.add, 1, 1, caller="a") == 2
    assert pool.state().started == 2


async def test_workers_that_were_killed_while_idle_cost_no_job(make_pool: MakePool) -> None:
    """Also where the pool has not noticed yet."""
    pool = make_pool(jobs.worker_pid)
    pid = await pool.run(jobs.worker_pid, caller="a")
    os.kill(pid, signal.SIGKILL)
    assert await pool.run(jobs.worker_pid, caller="a") not in (0, pid)
    os.kill(await pool.run(jobs.worker_pid, caller="a"), signal.SIGKILL)
    await eventually(lambda: pool.state().workers == 0)
    assert await pool.run(jobs.worker_pid, caller="a") > 0
    assert pool.state().ended == {"done": 4}


async def test_a_worker_has_nothing_of_the_server(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PILOT_ADMIN_PASSWORD", "a-secret")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        pool = make_pool(jobs.surroundings, jobs.write_to)
        found = await pool.run(jobs.surroundings, caller="a")
    assert {name: value for name, value in found["environment"].items() if name != "LC_CTYPE"} == {}
    assert set(found["descriptors"]) - {"3"} == {"0", "1", "2"}
    assert "open" not in str(found["descriptors"])
    assert found["descriptors"]["1"] == found["descriptors"]["2"] == "/dev/null"
    assert found["session"] == found["pid"], "signals to our group and our terminal do not reach it"
    assert found["ignored"] == [True, True]
    assert found["processes"] == found["core"] == [0, 0]
    assert found["oom_score"] == 1000
    assert await pool.run(jobs.write_to, str(tmp_path / "new"), caller="a") == "File too large"


async def test_lowering_limits_never_raises_one() -> None:
    import resource
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        lower({resource.RLIMIT_NOFILE: 30, resource.RLIMIT_CORE: 0}, child.pid)
        lower({resource.RLIMIT_NOFILE: 50}, child.pid)
        assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (30, 30)
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 0)
        child.communicate(b"\n")
    lower({resource.RLIMIT_NOFILE: 10}, child.pid)
