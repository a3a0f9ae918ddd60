"""One event to 1000 subscribers: CPU of the server for each delivery, against a bare loop of ``transport.write``."""

from __future__ import annotations

from collections.abc import Iterator

from bench.common import READER_BUSY, Lab, Options, Row, median, spend

SUBSCRIBERS = 1000
BAR = 1.15


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Each event is one transaction and one write to each subscriber; both sides send at the same pace."""
    for kind, name in (("ws", "WebSocket"), ("sse", "SSE")):
        yield _compare(lab, options, kind, f"fan-out, {name}, CPU per delivery")


def _compare(lab: Lab, options: Options, kind: str, name: str) -> Row:
    events, every = (40, 0.015) if options.quick else (100, 0.015)
    ours: list[float] = []
    bare: list[float] = []
    busy = 0.0
    with lab.server() as server, lab.bare() as peer:
        run = server.ask("run")["run"]
        request = server.stream(run, kind)
        with (
            lab.open_streams(server.port, SUBSCRIBERS, request) as on_ours,
            lab.open_streams(peer.hello["port"], SUBSCRIBERS, request) as on_bare,
        ):
            frame = server.ask("progress", run=run, count=5, every=0.01)["frames"][kind]
            peer.ask("send", data=frame, count=5, every=0.01)
            on_ours.quiet(), on_bare.quiet()
            for _ in range(options.rounds):
                spent, answer = spend(
                    server, on_ours, lambda: server.ask("progress", run=run, count=events, every=every)
                )
                frame = answer["frames"][kind]
                plain, sent = spend(
                    peer, on_bare, lambda data=frame: peer.ask("send", data=data, count=events, every=every)
                )
                assert spent.even and spent.received == plain.received == sent["bytes"] * events * SUBSCRIBERS
                ours.append(spent.cpu / (events * SUBSCRIBERS))
                bare.append(plain.cpu / (events * SUBSCRIBERS))
                busy = max(busy, spent.reader_busy, plain.reader_busy)
    ratio = median([a / b for a, b in zip(ours, bare, strict=True)])
    return Row(
        name,
        f"{median(ours) * 1e6:.2f} µs",
        f"{median(bare) * 1e6:.2f} µs",
        f"{ratio:.2f}×",
        f"≤ {BAR}×",
        ratio <= BAR,
        f"the load client was busy ({busy:.0%})" if busy > READER_BUSY else "",
    )
