"""A burst of log lines to 1000 subscribers: deliveries per second on one server core.

A delivery is one line to one subscriber in its own message, as the contract requires. Chunks hold 1 to 200
lines, as agents send them, with 16 concurrent appends, as in one ``PushLogs`` call. The number of bytes received by
the load client is checked against the frames.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from bench.common import READER_BUSY, Lab, Options, Row, median, missed, spend

SUBSCRIBERS = 1000
WIDTH = 80
RATE = 1_500_000
BAR = 1.2


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """WebSocket and SSE."""
    for kind, name in options.kinds:
        yield _burst(lab, options, kind, name)


def _burst(lab: Lab, options: Options, kind: str, name: str) -> Row:
    chance = random.Random(7)
    chunks = [chance.randint(1, 200) for _ in range(20 if options.quick else 100)]
    rates: list[float] = []
    plain: list[float] = []
    busy = 0.0
    with lab.server() as server, lab.bare() as peer:
        run = server.ask("run")["run"]
        request = server.stream(run, kind)
        with (
            lab.open_streams(server.port, SUBSCRIBERS, request) as on_ours,
            lab.open_streams(peer.hello["port"], SUBSCRIBERS, request) as on_bare,
        ):
            server.ask("lines", run=run, chunks=chunks[:10], width=WIDTH)
            on_ours.quiet()
            for _ in range(options.rounds):
                spent, answer = spend(
                    server, on_ours, lambda: server.ask("lines", run=run, chunks=chunks, width=WIDTH)
                )
                assert spent.even
                assert spent.received == sum(answer["sizes"][kind]) * SUBSCRIBERS, "every line to all"
                sizes = answer["sizes"][kind]
                bare, _ = spend(peer, on_bare, partial(peer.ask, "fill", sizes=sizes))
                assert bare.received == spent.received
                deliveries = answer["lines"] * SUBSCRIBERS
                rates.append(deliveries / spent.cpu)
                plain.append(deliveries / bare.cpu)
                busy = max(busy, spent.reader_busy)
    ratio = median([bare / own for own, bare in zip(rates, plain, strict=True)])
    why = missed(ratio, BAR, least=False) or missed(median(rates), RATE, least=True)
    return Row(
        f"burst of lines, {name}, 1000 subscribers",
        f"{median(rates) / 1e6:.2f} M/s per core",
        f"{median(plain) / 1e6:.2f} M/s per core",
        f"{ratio:.2f}×",
        f"≤ {BAR}×, ≥ {RATE / 1e6:g} M/s",
        ratio <= BAR and median(rates) >= RATE,
        f"the load client used {busy:.0%} of its core" if busy > READER_BUSY else why,
    )
