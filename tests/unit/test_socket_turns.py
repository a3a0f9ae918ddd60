"""The input of all WebSockets shares a part of each iteration of the event loop, however many send at once."""

from __future__ import annotations

import asyncio
from typing import Any

from pilothouse.journal.turns import Turns
from pilothouse.server.websocket import SLICE, MessageSocket
from support.faults.readers import masked
from support.waiting import eventually


class Transport:
    """It takes everything."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None: ...

    def set_protocol(self, protocol: object) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def sockets(turns: Turns, count: int, heard: list[int]) -> list[MessageSocket]:
    """That many sockets; ``heard`` has the number of each whose message was delivered."""
    found = []
    for n in range(count):
        transport: Any = Transport()
        socket = MessageSocket(transport, set(), 1 << 20, turns)
        socket.listen(lambda message, n=n: heard.append(n))  # type: ignore[misc]
        found.append(socket)
    return found


async def test_only_a_part_of_the_input_is_parsed_in_an_iteration() -> None:
    heard: list[int] = []
    message = masked(1, b"x" * (SLICE - 8))  # a frame of this size has eight other bytes: one message a slice
    flood = message * 4
    for socket in sockets(Turns(share=0), 12, heard):
        socket.data_received(flood)
    most, before = len(heard), len(heard)
    while len(heard) < 48:
        await asyncio.sleep(0)
        most, before = max(most, len(heard) - before), len(heard)
    assert most <= 2, "so many slices were parsed in one iteration"


async def test_each_socket_has_its_turn() -> None:
    heard: list[int] = []
    flood = masked(1, b"x" * (SLICE - 8)) * 4
    for socket in sockets(Turns(share=0), 5, heard):
        socket.data_received(flood)
    await eventually(lambda: len(heard) == 20)
    assert set(heard[:7]) == {0, 1, 2, 3, 4}
