"""Pages of the past that a herd shares."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pilothouse.journal import CursorExpired, Entry, Selection
from pilothouse.journal.pages import Key, Page, Pages


def entry(offset: int, size: int = 10) -> Entry:
    return Entry(offset, "run/1", "step", "step.logged", 0, "project/1", b"x" * size)


class Disk:
    """Counts reads and blocks them until released."""

    def __init__(self, size: int = 10) -> None:
        self.read: list[Key] = []
        self.go = asyncio.Event()
        self._size = size

    async def load(self, key: Key) -> Page:
        self.read.append(key)
        await self.go.wait()
        if key[2] < 0:
            raise CursorExpired("gone")
        return Page([entry(key[2], self._size)], False, key[2] + 1)


async def test_a_herd_reads_a_page_once() -> None:
    disk = Disk()
    pages = Pages(disk.load)
    coming = [asyncio.create_task(pages.get(Selection("run/1"), 5)) for _ in range(50)]
    await asyncio.sleep(0)
    disk.go.set()
    got = await asyncio.gather(*coming)
    assert len({id(page.entries[0]) for page in got}) == 1, (
        "all share the entries, and so their encoded frames"
    )
    assert (await pages.get(Selection("run/1"), 5)) is got[0]
    assert len(disk.read) == 1


async def test_selections_do_not_mix() -> None:
    disk = Disk()
    disk.go.set()
    pages = Pages(disk.load)
    for selection in (Selection("run/1"), Selection("run/2"), Selection("run/1", subject="a"), Selection()):
        await pages.get(selection, 5)
    assert len(disk.read) == 4
    await pages.get(Selection("run/1", type="step.*"), 5)  # the type is tested by the reader, not by the page
    assert len(disk.read) == 4


async def test_who_leaves_does_not_take_it_from_the_others() -> None:
    disk = Disk()
    pages = Pages(disk.load)
    leaving, staying = (asyncio.create_task(pages.get(Selection("run/1"), 5)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    disk.go.set()
    assert (await staying).head == 6
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_what_cannot_be_read_is_tried_again() -> None:
    disk = Disk()
    disk.go.set()
    pages = Pages(disk.load)
    for _ in range(2):
        with pytest.raises(CursorExpired):
            await pages.get(Selection("run/1"), -1)
    assert len(disk.read) == 2


async def test_it_keeps_a_bounded_number_of_bytes() -> None:
    disk = Disk(size=1000)
    disk.go.set()
    pages = Pages(disk.load, max_bytes=40_000)
    for offset in range(20):
        await pages.get(Selection("run/1"), offset)
    await pages.get(Selection("run/1"), 19)
    assert len(disk.read) == 20, "the newest is still there"
    await pages.get(Selection("run/1"), 0)
    assert len(disk.read) == 21, "the oldest has made room"


async def test_the_bound_is_kept_to_the_byte() -> None:
    """Three pages fit exactly; a fourth takes the place of the one that was asked for longest ago, and of no other."""
    disk = Disk(size=1000)
    disk.go.set()
    size = Page([entry(0, 1000)], False, 1).size
    assert size == 500 + entry(0, 1000).size
    pages = Pages(disk.load, max_bytes=3 * size)
    for offset in (0, 1, 2, 0, 3, 4):
        await pages.get(Selection("run/1"), offset)
    assert [key[2] for key in disk.read] == [0, 1, 2, 3, 4]
    for offset in (0, 3, 4):
        await pages.get(Selection("run/1"), offset)
    assert [key[2] for key in disk.read] == [0, 1, 2, 3, 4], "the newest three are there"
    for offset in (1, 2):
        await pages.get(Selection("run/1"), offset)
    assert [key[2] for key in disk.read] == [0, 1, 2, 3, 4, 1, 2]


async def test_an_error_that_nobody_waits_for_is_not_reported() -> None:
    """asyncio reports errors of tasks that nobody has looked at, once they are collected."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    disk = Disk()
    pages = Pages(disk.load)
    leaving = asyncio.create_task(pages.get(Selection("run/1"), -1))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    disk.go.set()
    loading = asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]
    await asyncio.wait(loading)
    del loading, leaving
    await asyncio.sleep(0)
    gc.collect()
    assert reported == []
