"""An answer that is the same for everyone is computed once, however many ask."""

from __future__ import annotations

import asyncio

import pytest

from pilothouse.edge.shared import Shared


class Source:
    """Counts computations, each of which ends when the test lets it; ``now``: the clock."""

    def __init__(self) -> None:
        self.made = 0
        self.now = 0.0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def make(self) -> int:
        self.made += 1
        result = self.made
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return result

    def shared(self) -> Shared[int]:
        return Shared(self.make, 0.25, lambda: self.now)


async def test_those_who_ask_meanwhile_share_it() -> None:
    source = Source()
    shared = source.shared()
    asking = [asyncio.create_task(shared.get()) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*asking) == [1] * 50


async def test_it_is_kept_from_its_end_on() -> None:
    source = Source()
    shared = source.shared()
    asking = asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    source.now = 10.0  # it took long
    source.gate.set()
    assert await asking == 1
    source.now = 10.2
    assert await shared.get() == 1
    source.now = 10.3
    assert await shared.get() == 2


async def test_errors_are_told_to_all_and_not_kept() -> None:
    source = Source()
    shared = source.shared()
    source.error = OSError("no")
    source.gate.set()
    for outcome in await asyncio.gather(*(shared.get() for _ in range(3)), return_exceptions=True):
        assert isinstance(outcome, OSError)
    assert source.made == 1
    source.error = None
    assert await shared.get() == 2


async def test_one_who_goes_away_leaves_it_to_the_others() -> None:
    source = Source()
    shared = source.shared()
    first, second = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first
