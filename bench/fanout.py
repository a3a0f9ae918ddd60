"""One event to 1000 subscribers: CPU of the server for each delivery, against a bare loop of ``transport.write``.

Each event is a transaction of its own and goes out before the next begins. Two ratios: of the delivery alone, which
is what the event costs beyond the same event with nobody there, and of everything, transaction included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.common import READER_BUSY, Lab, Options, Row, median, spend

SUBSCRIBERS = 1000
EVENTS = 100
BAR = 1.15


@dataclass
class Rounds:
    """Seconds of CPU per delivery, one number a round."""

    ours: list[float] = field(default_factory=list)
    appending: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    reader_busy: float = 0.0


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """WebSocket and SSE."""
    for kind, name in (("ws", "WebSocket"), ("sse", "SSE")):
        rounds = Rounds()
        for _ in range(1 if options.quick else 3):
            _compare(lab, options.rounds, kind, rounds)
        delivery = [ours - alone for ours, alone in zip(rounds.ours, rounds.appending, strict=True)]
        yield _row(f"fan-out, {name}, delivery alone", delivery, rounds)
        yield _row(f"fan-out, {name}, with the transaction", rounds.ours, rounds)


def _compare(lab: Lab, count: int, kind: str, rounds: Rounds) -> None:
    with lab.server() as server, lab.bare() as peer:
        run, lonely = server.ask("run")["run"], server.ask("run")["run"]
        request = server.stream(run, kind)
        with (
            lab.open_streams(server.port, SUBSCRIBERS, request) as on_ours,
            lab.open_streams(peer.hello["port"], SUBSCRIBERS, request) as on_bare,
        ):
            frame = server.ask("progress", run=run, count=EVENTS)["frames"][kind]
            peer.ask("send", data=frame, count=EVENTS)
            on_ours.quiet()
            on_bare.quiet()
            for _ in range(count):
                ours, _ = spend(server, on_ours, lambda: server.ask("progress", run=run, count=EVENTS))
                before = server.cpu
                server.ask("progress", run=lonely, count=EVENTS)
                appending = server.cpu - before
                bare, _ = spend(peer, on_bare, lambda: peer.ask("send", data=frame, count=EVENTS))
                assert ours.even
                assert ours.received == bare.received, "both sides sent the same bytes to all"
                rounds.ours.append(ours.cpu / (EVENTS * SUBSCRIBERS))
                rounds.appending.append(appending / (EVENTS * SUBSCRIBERS))
                rounds.bare.append(bare.cpu / (EVENTS * SUBSCRIBERS))
                rounds.reader_busy = max(rounds.reader_busy, ours.reader_busy, bare.reader_busy)


def _row(name: str, ours: list[float], rounds: Rounds) -> Row:
    ratio = median([a / b for a, b in zip(ours, rounds.bare, strict=True)])
    busy = rounds.reader_busy
    return Row(
        name,
        f"{median(ours) * 1e6:.2f} µs",
        f"{median(rounds.bare) * 1e6:.2f} µs",
        f"{ratio:.2f}×",
        f"≤ {BAR}×",
        ratio <= BAR,
        f"the load client used {busy:.0%} of its core" if busy > READER_BUSY else "",
    )
