"""Memory per idle subscriber: growth of the server after opening many streams on an idle run."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.common import Lab, Options, Row, missed

BARS = {"ws": 20, "sse": 12}
SETTLE = 2.0


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Measure each size on a new server, after a warm-up with a few streams."""
    sizes = [1000] if options.quick else [5000, 15_000]
    for kind, name in options.kinds:
        for size in sizes:
            grown = _grown(lab, kind, size) / 1024
            yield Row(
                f"memory of an idle {name} subscriber, {size}",
                f"{grown:.1f} KiB",
                bar=f"≤ {BARS[kind]} KiB",
                met=grown <= BARS[kind],
                why=missed(grown, BARS[kind], least=False),
            )


def _grown(lab: Lab, kind: str, size: int) -> float:
    with lab.server() as server:
        run = server.ask("run")["run"]
        request = server.stream(run, kind)
        with lab.open_streams(server.port, 20, request):
            pass
        time.sleep(SETTLE)
        before = server.rss
        with lab.open_streams(server.port, size, request):
            time.sleep(SETTLE)
            return (server.rss - before) / size
