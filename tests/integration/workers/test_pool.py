"""The pool: results, the queue, cancelling, starting and ending of workers."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from pilothouse.workers.errors import NotPlainData, PoolClosed, QueueFull, TooLarge
from pilothouse.workers.limits import Limits
from pilothouse.workers.pool import Pool
from pilothouse.workers.turns import Bounds
from support import worker_jobs as jobs
from support.waiting import eventually

MakePool = Callable[..., Pool]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_results(make_pool: MakePool) -> None:
    pool = make_pool(jobs.add, jobs.echo, jobs.both, jobs.join)
    assert await pool.run(jobs.add, 2, 3, caller="a") == 5
    for value in (None, [], {"ä": [1, 2.5, False]}, b"", b"\0\xff", 2**64 - 1, -(2**63)):
        assert await pool.run(jobs.echo, value, caller="a") == value
    said, data = await pool.run(jobs.both, 70_000, caller="a")
    assert said == {"count": 70_000, "names": ["ä", None, 1.5, True]}
    assert data == bytes(70_000)
    assert await pool.run(jobs.join, b"a" * 3_000_000, b"b" * 30_000_000, caller="a") == (
        b"a" * 3_000_000 + b"b" * 30_000_000
    )
    assert pool.state().started == 1


async def test_only_plain_arguments_of_a_bounded_size(make_pool: MakePool) -> None:
    pool = make_pool(jobs.echo)
    for value in (object(), 2**64, {1: 2}, "\ud800", [b"x"]):
        with pytest.raises(NotPlainData):
            await pool.run(jobs.echo, value, caller="a")
    with pytest.raises(TooLarge):
        await pool.run(jobs.echo, bytes(65 << 20), caller="a")
    for limits in (Limits(cpu=0), Limits(wall=-1), Limits(memory=0), Limits(memory=1 << 40)):
        with pytest.raises(ValueError):
            await pool.run(jobs.echo, 1, caller="a", limits=limits)
    assert pool.state().started == 0


async def test_only_registered_functions_at_the_top_of_a_module(make_pool: MakePool) -> None:
    with pytest.raises(KeyError):
        await make_pool(jobs.echo).run(jobs.add, 1, 2, caller="a")

    def inner() -> None: ...

    for job in (inner, jobs.NOT_A_FUNCTION_AT_THE_TOP, "".join):
        with pytest.raises(ValueError):
            Pool([job])
    with pytest.raises((ValueError, AttributeError)):
        Pool([functools.partial(jobs.add, 1)])


async def test_workers_start_when_needed_and_end_when_idle(make_pool: MakePool) -> None:
    pool = make_pool(jobs.worker_pid, idle=0.2)
    assert pool.state().workers == 0
    pid = await pool.run(jobs.worker_pid, caller="a")
    assert pool.state().workers == 1
    await eventually(lambda: pool.state().workers == 0)
    assert not alive(pid)
    assert await pool.run(jobs.worker_pid, caller="a") != pid
    assert pool.state().started == 2


async def test_a_worker_does_many_jobs(make_pool: MakePool) -> None:
    pool = make_pool(jobs.worker_pid)
    assert len({await pool.run(jobs.worker_pid, caller=f"{i % 3}") for i in range(30)}) == 1


async def test_never_more_processes_than_workers_nor_a_caller_in_all(
    make_pool: MakePool, gate: Callable[..., Any]
) -> None:
    pool = make_pool(jobs.gate, workers=3)
    gates = [gate(str(i)) for i in range(6)]
    running = [
        asyncio.create_task(pool.run(jobs.gate, each.path, caller="ab"[i % 2]))
        for i, each in enumerate(gates)
    ]
    held = [await gates[i].reached() for i in (0, 1, 2)]
    state = pool.state()
    assert (state.workers, state.running, state.waiting) == (3, 3, 3)
    for each in gates[3:]:
        os.close(held.pop(0))
        held.append(await each.reached())
        assert pool.state().workers == 3
    for fd in held:
        os.close(fd)
    assert len(set(await asyncio.gather(*running))) == 3


async def test_a_caller_with_many_jobs_delays_another_by_none(
    make_pool: MakePool, gate: Callable[..., Any]
) -> None:
    pool = make_pool(jobs.gate, jobs.add)
    stands = gate()
    greedy = [asyncio.create_task(pool.run(jobs.gate, stands.path, caller="greedy"))]
    fd = await stands.reached()
    greedy += [asyncio.create_task(pool.run(jobs.add, 1, i, caller="greedy")) for i in range(20)]
    for i in range(5):
        assert await pool.run(jobs.add, i, i, caller="modest") == 2 * i
    assert not any(task.done() for task in greedy)
    os.close(fd)
    await asyncio.gather(*greedy)


async def test_a_flood_of_one_caller(make_pool: MakePool) -> None:
    """1,000 jobs at once: as many as may wait are done, the others refused at once; another caller has its turn."""
    pool = make_pool(jobs.add, bounds=Bounds(per_caller=50, total=100))
    flood = [asyncio.create_task(pool.run(jobs.add, i, 1, caller="flood")) for i in range(1000)]
    await asyncio.sleep(0)
    assert pool.state().waiting == 50
    assert await pool.run(jobs.add, 1, 1, caller="other") == 2
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert [each for each in results if isinstance(each, int)] == list(range(1, 52))
    refused = [each for each in results if isinstance(each, QueueFull)]
    assert len(refused) == 949
    assert {each.bound for each in refused} == {"caller"}
    assert pool.state().ended == {"done": 52, "QUEUE_FULL": 949}


async def test_a_flood_of_many_callers_is_done(make_pool: MakePool) -> None:
    pool = make_pool(jobs.add, bounds=Bounds(per_caller=10, total=1000))
    results = await asyncio.gather(*(pool.run(jobs.add, i, 1, caller=f"{i % 100}") for i in range(1000)))
    assert results == list(range(1, 1001))
    assert pool.state().started <= 2


async def test_cancelling_kills_the_job_and_nothing_else(
    make_pool: MakePool, gate: Callable[..., Any]
) -> None:
    pool = make_pool(jobs.gate, jobs.worker_pid, workers=3)
    first, second = gate("first"), gate("second")
    cancelled = asyncio.create_task(pool.run(jobs.gate, first.path, caller="a"))
    other = asyncio.create_task(pool.run(jobs.gate, second.path, caller="b"))
    fds = [await first.reached(), await second.reached()]
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await eventually(lambda: pool.state().workers == 1)
    assert not other.done()
    for fd in fds:
        os.close(fd)
    await other
    assert await pool.run(jobs.worker_pid, caller="a")
    assert pool.state().ended == {"done": 2, "CANCELLED": 1}


async def test_cancelling_while_it_waits(make_pool: MakePool, gate: Callable[..., Any]) -> None:
    pool = make_pool(jobs.gate, jobs.add, workers=1)
    stands = gate()
    running = asyncio.create_task(pool.run(jobs.gate, stands.path, caller="a"))
    fd = await stands.reached()
    waiting = [asyncio.create_task(pool.run(jobs.add, 1, i, caller="b")) for i in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    os.close(fd)
    await asyncio.wait(waiting)
    assert [task.cancelled() or task.result() for task in waiting] == [1, True, 3]
    await running
    assert pool.state().started == 1


async def test_cancelling_while_a_worker_starts(make_pool: MakePool) -> None:
    pool = make_pool(jobs.add)
    starting = asyncio.create_task(pool.run(jobs.add, 1, 1, caller="a"))
    await asyncio.sleep(0)
    assert pool.state().workers == 1
    starting.cancel()
    await eventually(lambda: pool.state().workers == 0)
    assert await pool.run(jobs.add, 1, 1, caller="a") == 2


async def test_closing_fails_what_runs_and_what_waits(make_pool: MakePool, gate: Callable[..., Any]) -> None:
    pool = make_pool(jobs.gate, jobs.add)
    stands = gate()
    tasks = [asyncio.create_task(pool.run(jobs.gate, stands.path, caller="a"))]
    fd = await stands.reached()
    tasks += [asyncio.create_task(pool.run(jobs.add, 1, 1, caller="a")) for _ in range(3)]
    await asyncio.sleep(0)
    await pool.close()
    os.close(fd)
    for task in tasks:
        with pytest.raises(PoolClosed):
            await task
    with pytest.raises(PoolClosed):
        await pool.run(jobs.add, 1, 1, caller="a")


async def test_jobs_never_block_the_loop(make_pool: MakePool) -> None:
    """Counted, not timed: while a job computes, with the interpreter's lock held, and while tens of MB come back,
    the loop goes round and round."""
    pool = make_pool(jobs.burn_for, jobs.both)

    async def rounds(job: asyncio.Task[Any]) -> int:
        count = 0
        while not job.done():
            count += 1
            await asyncio.sleep(0)
        return count

    await pool.run(jobs.burn_for, 0.0, caller="a")
    assert await rounds(asyncio.create_task(pool.run(jobs.burn_for, 0.3, caller="a"))) > 100
    assert await rounds(asyncio.create_task(pool.run(jobs.both, 50_000_000, caller="a"))) > 100
