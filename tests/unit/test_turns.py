"""Work without hurry has a share of each iteration of the event loop, and those who want it get it in turns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from pilothouse.journal.turns import Turns
from support.waiting import eventually


def spend(seconds: float) -> None:
    """CPU time of this thread."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


class Many:
    """Workers that each do pieces of 2 ms of CPU time; ``done``: how many, in which order."""

    def __init__(self, turns: Turns, workers: int, pieces: int) -> None:
        self.turns = turns
        self.left = dict.fromkeys(range(workers), pieces)
        self.done: list[int] = []
        self._work: dict[int, Callable[[], None]] = {n: lambda n=n: self._go(n) for n in self.left}  # type: ignore[misc]

    def start(self) -> None:
        for work in self._work.values():
            work()

    def _go(self, worker: int) -> None:
        while self.left[worker]:
            if self.turns.over:
                self.turns.add(self._work[worker])
                return
            spend(0.002)
            self.left[worker] -= 1
            self.done.append(worker)

    @property
    def over(self) -> bool:
        return not any(self.left.values())


async def test_others_get_the_loop_between_the_turns() -> None:
    many = Many(Turns(), 50, 4)
    most = 0

    async def other() -> None:
        nonlocal most
        before = 0
        while not many.over:
            most, before = max(most, len(many.done) - before), len(many.done)
            await asyncio.sleep(0)

    asyncio.get_running_loop().call_soon(many.start)
    await other()
    assert len(many.done) == 200
    assert most <= 8, "so many pieces were done at once"


async def test_everyone_gets_a_turn_before_somebody_gets_many() -> None:
    many = Many(Turns(share=0.0001), 5, 3)
    many.start()
    await eventually(lambda: many.over)
    assert set(many.done[:6]) == {0, 1, 2, 3, 4}
    assert Counter(many.done) == dict.fromkeys(range(5), 3)


async def test_work_that_is_added_often_is_done_once() -> None:
    turns, done = Turns(share=0), []
    assert not turns.over
    assert turns.over

    def work() -> None:
        done.append(1)

    for _ in range(3):
        turns.add(work)
    await eventually(lambda: done)
    await asyncio.sleep(0)
    assert done == [1]
