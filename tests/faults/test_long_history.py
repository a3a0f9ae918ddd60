"""A million lines on ``/api/v1/ws``: all of them, in order, and the server never holds more than some pages."""

from __future__ import annotations

import asyncio
import json

import orjson
import psutil

from support.live_run import begin
from support.server import Server
from support.waiting import PATIENCE
from support.watchers import websocket

LINES, BATCH = 1_000_000, 20_000
MAY_GROW = 64 << 20
"""Bytes. The lines have twice as many, and twelve times as many in messages."""


async def test_a_million_lines_are_read_without_being_held(shared_server: Server) -> None:
    live = await begin(shared_server)
    for start in range(0, LINES, BATCH):
        await live.say(*(f"a line of this log: number {n}" for n in range(start, start + BATCH)))
    process = psutil.Process(shared_server.pid)
    before, most, number = process.memory_info().rss, 0, 0
    async with websocket(f"{shared_server.ws}/api/v1/ws", shared_server.admin, compression=None) as ws:
        await ws.send(json.dumps({"channel": "channel_log", "params": live.params}))
        while True:
            async with asyncio.timeout(PATIENCE):
                message = orjson.loads(await ws.recv())
            if message["type"] == "history_done":
                break
            if message["type"] == "subscribed":
                continue
            assert message["type"] == "log_chunk"
            assert len(message["data"]) <= 200
            for log in message["data"]:
                assert (log["line_number"], log["content"]) == (
                    number + 1,
                    f"a line of this log: number {number}",
                )
                number += 1
            most = max(most, process.memory_info().rss)
        assert number == LINES
        await live.say("and on")
        async with asyncio.timeout(PATIENCE):
            last = orjson.loads(await ws.recv())
        assert (last["type"], last["data"]["line_number"]) == ("log", LINES + 1)
    assert most - before < MAY_GROW
    await live.agent.vanish()
