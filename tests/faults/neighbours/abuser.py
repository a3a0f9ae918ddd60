"""Run as a program: the abuser, in a process of its own, with less right to the processor than the server has.

On the network it would have its own. Its argument is JSON, for :class:`Ground`. Commands are JSON lines on stdin:
``{"do": "begin", "name": …}``, ``{"do": "go", "seconds": …}``, ``{"do": "end"}``; each is answered with what was seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from typing import Any

from faults.neighbours.abuses import ABUSES
from faults.neighbours.ground import Ground, forwarded
from faults.neighbours.table import Abuse

LATE = 12.0
"""Seconds that the last wave may take after the end of its phase."""


class Abuser:
    """One attack at a time."""

    def __init__(self, given: dict[str, Any], grpc: str) -> None:
        self._given, self._grpc = given, grpc
        self._abuse: Abuse | None = None
        self._ground = Ground(given)

    async def begin(self, name: str) -> dict[str, Any]:
        """Prepare the attack of this name."""
        self._abuse = ABUSES[name]
        self._ground = Ground(self._given, grpc=self._grpc)
        if self._abuse.prepare is not None:
            await self._abuse.prepare(self._ground)
        return {}

    async def go(self, seconds: float) -> dict[str, Any]:
        """Attack for so long."""
        assert self._abuse is not None
        ground = self._ground
        ground.until = time.monotonic() + seconds
        waves = 0
        try:
            async with asyncio.timeout(seconds + LATE):
                while ground.time:
                    await self._abuse.wave(ground)
                    waves += 1
                    await asyncio.sleep(0)
        except TimeoutError:
            ground.count("wave without end")
        return {"waves": waves}

    async def end(self) -> dict[str, Any]:
        """Look what has come of it, and leave."""
        ground = self._ground
        if self._abuse is not None and self._abuse.after is not None:
            await self._abuse.after(ground)
        await ground.stack.aclose()
        return {"seen": dict(ground.seen)}


async def main(given: dict[str, Any]) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    async with forwarded(given["grpc"]) as grpc:
        abuser = Abuser(given, grpc)
        print(json.dumps({"ready": True}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            try:
                answer = await getattr(abuser, order.pop("do"))(**order)
            except Exception:  # told to the test
                answer = {"failed": traceback.format_exc()[-3000:]}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    os.nice(5)
    asyncio.run(main(json.loads(sys.argv[1])))
