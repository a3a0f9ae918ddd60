"""Every test of the pool runs on both event loops, and leaves no process behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from pilothouse.workers.pool import Pool


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Gate:
    """A named pipe that keeps a job (``worker_jobs.gate``) running until it is opened."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)

    async def reached(self) -> int:
        """Wait until a job stands at it; returns the descriptor that lets it go when it is closed."""
        while True:
            try:
                return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                await asyncio.sleep(0.01)


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Gate]:
    return lambda name="gate": Gate(tmp_path / name)


@pytest.fixture
async def make_pool() -> AsyncIterator[Callable[..., Pool]]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    pools: list[Pool] = []

    def make(*jobs: Callable[..., Any], **options: Any) -> Pool:
        pools.append(Pool(jobs, **options))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()
        assert pool.state().workers == 0
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
