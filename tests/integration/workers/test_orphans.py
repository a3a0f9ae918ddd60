"""Workers never outlive their parent, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # test_pool.py covers both

PARENT = """
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from support import worker_jobs as jobs
from pilothouse.workers.pool import Pool

async def main():
    pool = Pool([jobs.worker_pid, getattr(jobs, sys.argv[2])], workers=2)
    pids = await pool.run(jobs.worker_pid, caller="a")
    task = asyncio.create_task(pool.run(getattr(jobs, sys.argv[2]), *json.loads(sys.argv[3]), caller="b"))
    await asyncio.sleep(0)
    print(pids, os.getpid(), flush=True)
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
TESTS = str(Path(__file__).parents[2])


@pytest.mark.parametrize("job", ["burn_python", "burn_c", "gate", "worker_pid"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_worker_outlives_its_parent(job: str, number: int, tmp_path: Path) -> None:
    """Not while it computes with the interpreter's lock held, not while it waits, not while it is idle."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    arguments = json.dumps([str(fifo)] if job == "gate" else [])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, TESTS, job, arguments], stdout=subprocess.PIPE, env={}
    ) as parent:
        assert parent.stdout is not None
        assert await asyncio.to_thread(parent.stdout.readline)
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert workers
        if job.startswith("burn"):
            await eventually(lambda: max(each.cpu_times().user for each in workers) > 0.3, timeout=60)
        parent.send_signal(number)
        parent.wait()
    try:
        await eventually(lambda: not any(each.is_running() and each.status() != "zombie" for each in workers))
    finally:
        for each in workers:
            if each.is_running():
                each.kill()


async def test_signals_to_the_group_do_not_reach_workers() -> None:
    """As Ctrl-C in a terminal, or a service manager that ends a whole group: the parent decides."""
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; signal.signal(2, signal.SIG_IGN)\n" + PARENT,
            TESTS,
            "worker_pid",
            "[]",
        ],
        stdout=subprocess.PIPE,
        env={},
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert await asyncio.to_thread(parent.stdout.readline)
        workers = psutil.Process(parent.pid).children()
        os.killpg(parent.pid, signal.SIGINT)
        for each in workers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                each.send_signal(number)
        await asyncio.sleep(0.3)
        assert all(each.is_running() and each.status() != "zombie" for each in workers)
        parent.kill()
