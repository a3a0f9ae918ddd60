"""Background work of which only one server of a database does each round."""

from __future__ import annotations

import asyncio

from pilothouse.edge import store
from pilothouse.edge.module import Periodic
from pilothouse.server.background import Background
from support.kernel import Kernel
from support.waiting import eventually

NAME, ROUND = "test.work", 60_000


async def test_one_server_holds_the_lease_until_its_round_is_over(kernel: Kernel) -> None:
    async def take(server: str) -> bool:
        return await kernel.write(
            lambda tx: store.take_periodic_lease(tx.conn, NAME, server, tx.now, tx.now + ROUND)
        )

    assert await take("one")
    assert not await take("two"), "the other one does it"
    kernel.clock.advance(30)
    assert await take("one"), "its holder renews it"
    kernel.clock.advance(59)
    assert not await take("two")
    kernel.clock.advance(1)
    assert await take("two"), "the holder did not come back"
    assert not await take("one")


async def test_exclusive_work_is_done_by_one_server_and_other_work_by_each(kernel: Kernel) -> None:
    done: list[str] = []

    def work(server: str) -> list[Periodic]:
        async def once() -> None:
            done.append(f"{server} alone")

        async def each() -> None:
            done.append(f"{server} too")

        return [Periodic("alone", once, every=3600, exclusive=True), Periodic("each", each, every=3600)]

    servers = [Background(kernel.storage, name, work(name)) for name in ("one", "two")]
    for server in servers:
        server.start()
    await eventually(lambda: {"one too", "two too"} <= set(done) and "one alone" in done)
    await kernel.write(lambda tx: None)  # the second server has asked for the lease by then
    await asyncio.gather(*(server.stop() for server in servers))
    assert sorted(done) == ["one alone", "one too", "two too"]


async def test_a_server_that_stops_gives_its_leases_up(kernel: Kernel) -> None:
    done: list[str] = []

    def background(server: str) -> Background:
        async def once() -> None:
            done.append(server)

        return Background(kernel.storage, server, [Periodic("alone", once, every=3600, exclusive=True)])

    for name in ("one", "two"):
        server = background(name)
        server.start()
        await eventually(lambda: name in done)  # noqa: B023 - awaited within the iteration
        await server.stop()
    assert done == ["one", "two"]


async def test_work_that_fails_is_tried_again(kernel: Kernel) -> None:
    rounds: list[int] = []

    async def fails_once() -> None:
        rounds.append(len(rounds))
        if len(rounds) == 1:
            raise RuntimeError("a bad row")

    background = Background(kernel.storage, "one", [Periodic("fails", fails_once, every=3600)])
    background.start()
    await eventually(lambda: rounds == [0, 1])
    await background.stop()
