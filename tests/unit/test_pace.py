"""Requests without a rate limit begin a few at a time, and addresses take turns."""

from __future__ import annotations

import asyncio

from pilothouse.edge.pace import Pace


class Door:
    """Requests that come in; ``begun``: their addresses, with the number of the iteration of the event loop."""

    def __init__(self, at_once: int = 2) -> None:
        self.pace = Pace(at_once)
        self.begun: list[tuple[int, str]] = []
        self.iteration = 0

    def come(self, *addresses: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._one(address)) for address in addresses]

    async def _one(self, address: str) -> None:
        await self.pace.turn(address)
        self.begun.append((self.iteration, address))

    async def go_on(self, iterations: int) -> None:
        for _ in range(iterations):
            await asyncio.sleep(0)
            self.iteration += 1


async def test_a_flood_begins_little_by_little() -> None:
    door = Door()
    door.come(*["a"] * 100)
    await door.go_on(120)
    assert len(door.begun) == 100
    each = [sum(1 for at, _ in door.begun if at == iteration) for iteration in range(120)]
    assert max(each) <= 2


async def test_one_request_does_not_wait_behind_the_flood_of_another_address() -> None:
    door = Door()
    door.come(*["a"] * 100)
    await door.go_on(3)
    door.come("b")
    await door.go_on(5)
    assert "b" in [address for _, address in door.begun]
    assert len(door.begun) < 20


async def test_a_single_request_does_not_wait() -> None:
    door = Door()
    for _ in range(3):
        task = asyncio.create_task(door.pace.turn("a"))
        await asyncio.sleep(0)
        assert task.done()
        await door.go_on(2)


async def test_a_request_that_is_cancelled_takes_nobodys_turn() -> None:
    door = Door(at_once=1)
    tasks = door.come("a", "a", "a", "a")
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await door.go_on(4)
    assert [address for _, address in door.begun] == ["a", "a"]
    assert tasks[3].done()
    assert not tasks[3].cancelled()
