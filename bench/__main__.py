"""``python -m bench [names…] [--quick]``: run benchmarks, print one line each, write docs/performance.md.

The page is written only by a full run of all benchmarks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from bench import (
    brokers,
    burst,
    checkout,
    fanout,
    latency,
    loglines,
    memory,
    neighbours,
    processes,
    report,
    settle,
    size,
    steps,
)
from bench.common import Lab, Options, Row

MEASURES: dict[str, Callable[[Lab, Options], Iterator[Row]]] = {
    "fanout": fanout.measure,
    "burst": burst.measure,
    "memory": memory.measure,
    "processes": processes.measure,
    "loglines": loglines.measure,
    "steps": steps.measure,
    "settle": settle.measure,
    "latency": latency.measure,
    "size": size.measure,
    "checkout": checkout.measure,
    "neighbours": neighbours.measure,
    "brokers": brokers.measure,
}
SLOW = ("brokers",)
"""Not part of a quick run unless given by name."""


def main() -> int:
    """Run the benchmarks; returns 0 even if targets are missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(MEASURES)}; default: all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smoke test with few rounds and small sizes; does not write the page",
    )
    given = parser.parse_args()
    unknown = sorted(set(given.names) - MEASURES.keys())
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}")
    options = Options(given.quick)
    names = given.names or [name for name in MEASURES if not (options.quick and name in SLOW)]
    print(report.header(), flush=True)
    rows: list[Row] = []
    with Lab.open() as lab:
        for name in names:
            for row in MEASURES[name](lab, options):
                rows.append(row)
                print(report.line(row), flush=True)
    if not given.names and not options.quick:
        print(f"\nwritten: {report.write(rows, options)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
