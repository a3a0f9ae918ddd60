"""Run as a program: the abuser, in a process of its own, with less right to the processor than the server has.

On the network it would have its own. Its argument is JSON, for :class:`Ground`. Commands are JSON lines on stdin:
``{"do": "begin", "name": …}``, ``{"do": "go", "seconds": …}``, ``{"do": "end"}``; each is answered with what was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
import traceback
from typing import Any

from faults.neighbours.abuses import ABUSES
from faults.neighbours.ground import SOURCE, Ground, forwarded
from faults.neighbours.table import Abuse

LATE = 8.0
"""Seconds that the last wave may take after the end of its phase; what is not answered then is left."""


MINTED = {"viewer": ("viewer",), "user": ("user",), "slow network": ("viewer", "user")}
"""By caller, the roles whose tokens an attack uses."""

FILL = 18
"""Waves of 4 MB."""


class Abuser:
    """One attack at a time."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._sources = itertools.count(1)
        self._abuse: Abuse | None = None
        self._ground = Ground(given)

    async def begin(self, name: str) -> dict[str, Any]:
        """Prepare the attack of this name."""
        self._abuse = ABUSES[name]
        ground = self._ground = Ground(self._given, source=SOURCE.format(next(self._sources)))
        ground.grpc = await ground.stack.enter_async_context(forwarded(self._given["grpc"], ground.source))
        for role in MINTED.get(self._abuse.caller, ()):
            await ground.mint(role)
        if self._abuse.prepare is not None:
            await self._abuse.prepare(ground)
        return {}

    async def go(self, seconds: float) -> dict[str, Any]:
        """Attack for so long."""
        assert self._abuse is not None
        ground = self._ground
        ground.until = time.monotonic() + seconds
        waves = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + LATE):
                while ground.time:
                    await self._abuse.wave(ground)
                    waves += 1
                    await asyncio.sleep(0)
        return {"waves": waves}

    async def fill(self) -> dict[str, Any]:
        """Push lines until the newest entries that the server keeps in memory are at their bound (64 MiB)."""
        await self.begin("a flood of lines")
        for _ in range(FILL):
            await ABUSES["a flood of lines"].wave(self._ground)
        return await self.end()

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
    abuser = Abuser(given)
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
