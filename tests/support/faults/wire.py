"""Program that forwards IP packets between two TUN devices with configurable faults.

Arguments: the two file descriptors, and a seed. Each line on stdin is JSON: the troubles of the two directions
(see ``support.faults.netns.Trouble``), from then on. It does what netem does where the kernel has none.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import selectors
import sys
import time
from typing import Any

MTU = 1 << 16
QUEUE = 1000  # packets a direction holds; more are dropped, as by a router


class Direction:
    """Packets from one device to the other."""

    def __init__(self, source: int, target: int, rng: random.Random) -> None:
        self.source, self.target, self.rng = source, target, rng
        self.trouble: dict[str, Any] = {}
        self.waiting: list[tuple[float, int, bytes]] = []
        self.free_at = 0.0  # when the line has passed on all that is on it
        self.count = itertools.count()

    def take(self) -> None:
        """One packet has come."""
        packet = os.read(self.source, MTU)
        trouble, chance = self.trouble, self.rng.random
        if trouble.get("cut") or chance() < trouble.get("loss", 0) or len(self.waiting) >= QUEUE:
            return
        if chance() < trouble.get("corrupt", 0):
            at = self.rng.randrange(len(packet))
            packet = packet[:at] + bytes((packet[at] ^ (1 << self.rng.randrange(8)),)) + packet[at + 1 :]
        for _ in range(2 if chance() < trouble.get("duplicate", 0) else 1):
            self._queue(packet)

    def _queue(self, packet: bytes) -> None:
        trouble, now = self.trouble, time.monotonic()
        due = now + max(0.0, trouble.get("delay", 0) + self.rng.uniform(-1, 1) * trouble.get("jitter", 0))
        if rate := trouble.get("rate", 0):
            self.free_at = max(self.free_at, now) + len(packet) / rate
            due = max(due, self.free_at)
        heapq.heappush(self.waiting, (due, next(self.count), packet))

    def pass_on(self) -> float:
        """Send what is due; returns the seconds until more is."""
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            packet = heapq.heappop(self.waiting)[2]
            try:
                os.write(self.target, packet)
            except OSError:  # the device is down, or it is no packet any more
                continue
        return max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else 3600.0


def main(first: int, second: int, seed: str) -> None:
    """Until stdin ends."""
    rng = random.Random(seed)
    directions = [Direction(first, second, rng), Direction(second, first, rng)]
    selector = selectors.DefaultSelector()
    for direction in directions:
        selector.register(direction.source, selectors.EVENT_READ, direction.take)
    selector.register(0, selectors.EVENT_READ, None)
    while True:
        for key, _ in selector.select(min(direction.pass_on() for direction in directions)):
            if key.data is not None:
                key.data()
                continue
            line = sys.stdin.buffer.readline()
            if not line:
                return
            for direction, trouble in zip(directions, json.loads(line), strict=True):
                direction.trouble = trouble
            print("set", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
