"""One event to 1000 subscribers: server CPU per delivery, compared with a loop of ``transport.write``.

Each event is one transaction and is sent before the next begins. The target compares the total with the
loop, which stores nothing. Two more rows explain the difference: compared with a loop that commits the same
bytes to SQLite first, and without the cost of appending on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from bench.common import READER_BUSY, Child, Lab, Options, Reader, Row, Server, median, missed, spend

SUBSCRIBERS = 1000
EVENTS = 100
BAR = 1.15
WHY = "a durable commit an event is about 0.07 of it; the rest is where a large process has its sockets in memory"


@dataclass
class Rounds:
    """Seconds of CPU per delivery, one number a round; ``alone``: the same events without subscribers."""

    ours: list[float] = field(default_factory=list)
    ours_alone: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    stored_alone: list[float] = field(default_factory=list)
    reader_busy: float = 0.0
    received: int = 0


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """WebSocket and SSE, each with several new servers, since results depend on the memory layout."""
    for kind, name in options.kinds:
        rounds = Rounds()
        for _ in range(1 if options.quick else 3):
            _some(lab, options.rounds, kind, rounds)
        busy = rounds.reader_busy
        why = f"the load client used {busy:.0%} of its core" if busy > READER_BUSY else ""
        yield _row(f"fan-out, {name}, all", rounds.ours, rounds.bare, why, bar=True)
        yield _row(f"fan-out, {name}, against a loop that commits too", rounds.ours, rounds.stored, why)
        delivery = [all - alone for all, alone in zip(rounds.ours, rounds.ours_alone, strict=True)]
        theirs = [all - alone for all, alone in zip(rounds.stored, rounds.stored_alone, strict=True)]
        yield _row(f"fan-out, {name}, the same without the commits", delivery, theirs, why)


def _some(lab: Lab, count: int, kind: str, rounds: Rounds) -> None:
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
                _ours(server, on_ours, run, lonely, rounds)
                _theirs(peer, on_bare, frame, rounds)


def _ours(server: Server, reader: Reader, run: str, lonely: str, rounds: Rounds) -> None:
    spent, _ = spend(server, reader, lambda: server.ask("progress", run=run, count=EVENTS))
    assert spent.even, "everyone gets everything"
    rounds.ours.append(spent.cpu / (EVENTS * SUBSCRIBERS))
    before = server.cpu
    server.ask("progress", run=lonely, count=EVENTS)
    rounds.ours_alone.append((server.cpu - before) / (EVENTS * SUBSCRIBERS))
    rounds.reader_busy = max(rounds.reader_busy, spent.reader_busy)
    rounds.received = spent.received


def _theirs(peer: Child, reader: Reader, frame: str, rounds: Rounds) -> None:
    for into, commit in ((rounds.bare, False), (rounds.stored, True)):
        spent, _ = spend(peer, reader, partial(peer.ask, "send", data=frame, count=EVENTS, commit=commit))
        assert spent.received == rounds.received, "both sides send the same bytes"
        into.append(spent.cpu / (EVENTS * SUBSCRIBERS))
        rounds.reader_busy = max(rounds.reader_busy, spent.reader_busy)
    before = peer.cpu
    peer.ask("send", data=frame, count=EVENTS, commit=True, nobody=True)
    rounds.stored_alone.append((peer.cpu - before) / (EVENTS * SUBSCRIBERS))


def _row(name: str, ours: list[float], theirs: list[float], why: str, *, bar: bool = False) -> Row:
    ratio = median([a / b for a, b in zip(ours, theirs, strict=True)])
    return Row(
        name,
        f"{median(ours) * 1e6:.2f} µs",
        f"{median(theirs) * 1e6:.2f} µs",
        f"{ratio:.2f}×",
        f"≤ {BAR}×" if bar else "-",
        ratio <= BAR if bar else None,
        why or (missed(ratio, BAR, least=False, why=WHY) if bar else ""),
    )
