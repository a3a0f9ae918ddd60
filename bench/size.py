"""Scaling: fan-out and append with many stored entries, and with idle subscribers on other streams.

The ratio of large to small should be about one. The database is filled in advance, as if the
entries had been written over time by many runs with interleaved chunks.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import Lab, Options, Row, Server, median, missed, spend

SUBSCRIBERS = 200
EVENTS = 100
SMALL = 10_000
RUNS_BETWEEN = 500
"""Number of runs with interleaved entries."""

FLAT = 1.25
"""Maximum ratio; allows for measurement noise."""

FILL = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
INSERT INTO entries ("offset", stream, subject, type, at, scope, data)
SELECT :first + i, printf('run/019a7b1e-%08d', i / 100000 * :between + i % :between), 'step', 'step.progressed', :at,
       'project/none', CAST('{"v":1,"node":"work","percent":50,"message":"filled beforehand"}' AS BLOB)
FROM n
"""


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Measure stored entries, then idle subscribers."""
    large = 50_000 if options.quick else 10_000_000
    idle = 300 if options.quick else 10_000
    yield from _entries(lab, options, large)
    yield from _idle(lab, options, idle)


def _entries(lab: Lab, options: Options, large: int) -> Iterator[Row]:
    costs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    with contextlib.ExitStack() as stack:
        servers = [_filled(lab, stack, count) for count in (SMALL, large)]
        runs = [server.ask("run")["run"] for server in servers]
        for server, run in zip(servers, runs, strict=True):
            _cost(lab, server, run)
        for _ in range(options.rounds):
            small, big = (_cost(lab, server, run) for server, run in zip(servers, runs, strict=True))
            costs.append((small, big))
    names = (f"delivery, {large:,} entries stored", f"append and commit, {large:,} entries stored")
    for at, name in enumerate(names):
        yield _row(name, [(small[at], big[at]) for small, big in costs], f"{SMALL:,}")


def _idle(lab: Lab, options: Options, idle: int) -> Iterator[Row]:
    pairs: list[tuple[float, float]] = []
    appends: list[tuple[float, float]] = []
    with lab.server() as server:
        run, elsewhere = server.ask("run")["run"], server.ask("run")["run"]
        _cost(lab, server, run)
        for _ in range(options.rounds):
            alone = _cost(lab, server, run)
            with lab.open_streams(server.port, idle, server.stream(elsewhere, "ws")):
                crowded = _cost(lab, server, run)
            pairs.append((alone[0], crowded[0]))
            appends.append((alone[1], crowded[1]))
    yield _row(f"delivery, {idle:,} idle subscribers elsewhere", pairs, "none")
    yield _row(f"append and commit, {idle:,} idle subscribers elsewhere", appends, "none")


def _row(name: str, pairs: list[tuple[float, float]], small: str) -> Row:
    ratio = median([b / a for a, b in pairs])
    return Row(
        f"cost of one more: {name}",
        f"{median([b for _, b in pairs]) * 1e6:.2f} µs",
        f"{median([a for a, _ in pairs]) * 1e6:.2f} µs ({small})",
        f"{ratio:.2f}×",
        f"≤ {FLAT}×",
        ratio <= FLAT,
        missed(ratio, FLAT, least=False),
    )


def _cost(lab: Lab, server: Server, run: str) -> tuple[float, float]:
    """CPU seconds per delivery (without the append) and per append, with new subscribers."""
    lonely = server.ask("run")["run"]
    server.ask("progress", run=lonely, count=20)
    before = server.cpu
    server.ask("progress", run=lonely, count=EVENTS)
    append = (server.cpu - before) / EVENTS
    with lab.open_streams(server.port, SUBSCRIBERS, [*_now(server, run)]) as reader:
        server.ask("progress", run=run, count=20)
        reader.quiet()
        spent, _ = spend(server, reader, lambda: server.ask("progress", run=run, count=EVENTS))
    time.sleep(0.3)  # wait until the closed streams are removed
    return (spent.cpu / EVENTS - append) / SUBSCRIBERS, append


def _now(server: Server, run: str) -> list[str]:
    request = server.stream(run, "ws")
    return [request[0].replace("/stream ", "/stream?cursor=now "), *request[1:]]


def _filled(lab: Lab, stack: contextlib.ExitStack, count: int) -> Server:
    directory = lab.directory / f"filled-{count}"
    Server(directory).close()  # creates the tables
    _fill(directory / "data" / "pilothouse.db", count)
    return stack.enter_context(contextlib.closing(Server(directory)))


def _fill(file: Path, count: int) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -262144")
        db.execute("BEGIN")
        (first,) = db.execute("SELECT next FROM journal_head").fetchone()
        at = time.time_ns() // 1_000_000
        db.execute(FILL, {"count": count, "first": first, "at": at, "between": RUNS_BETWEEN})
        db.execute("UPDATE journal_head SET next = next + ?", (count,))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
