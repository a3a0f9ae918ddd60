"""Prints rows to the terminal and writes docs/performance.md."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from bench.common import HERE, Options, Row

PAGE = HERE.parent / "docs" / "performance.md"
WIDTHS = (58, 34, 26, 9, 20)

HEAD = """# Performance

Written by `make bench` (`python -m bench`). All numbers are from one run on one machine, with ours and the
peer's in alternating rounds. Each is the CPU time of the server process, the median of several rounds. The
server has one core, the load generator the other. The machine may have been under other load: compare ratios,
not microseconds.

"""
TAIL = """
## How it is measured

- **Fan-out**: one transaction per event, one write to each of 1000 ordinary client streams. The peer is a
  uvloop server that only calls `transport.write` with the same bytes for 1000 connections. The bar includes
  our transactions. Two more rows explain the difference: against a loop that commits the same bytes to SQLite
  before it writes them, and without the cost of appending on either side. The bare loop, run over the same
  thousand sockets inside the server process, costs 1.0 to 1.2 times as much as in the peer's process: the
  difference beyond the commit is memory locality, not code.
- **Burst**: chunks of 1 to 200 log lines, 16 concurrent appends; a delivery is one line to one subscriber.
  The peer is the bare loop with chunks of the same size.
- **Memory**: growth of resident memory after opening this many streams of an idle run, without kernel
  buffers.
- **Processes**: real `pilot` processes with compiled modules. CPU is the least of several starts, memory is
  resident memory five seconds after the start. An agent's guard process is not included (19 MiB, half of it
  shared).
- **Log lines**: one agent's `PushLogs`, committed with fsync, to one WebSocket viewer. The peer receives the
  same calls with the same gRPC stack and discards them.
- **No-op steps**: runs of 4 jobs with 5 steps, and agents that complete each step immediately, on SQLite and
  on a durable PostgreSQL. The peer is procrastinate on the same PostgreSQL, with one worker and jobs that do
  nothing. A run is started from a compiled definition, as that of a saved pipeline is: parsing is work of the
  workers, not of the server.
- **Latency**: writer and viewer read the same monotonic clock; fifty lines per second.
- **Cost of one more**: a large system compared with a small one, in the same run.
- **Checkout**: a work tree of incompressible files, sent to a server and checked out by an agent; then again
  with one changed file. The peer is a fresh clone of depth 1 from the same disk.
- **Neighbours**: a team that lists and starts runs, follows one, and has an agent, without and with each of a dozen
  kinds of requests that are within all bounds, in alternating phases. The row is the worst of them; in wall-clock time, so
  only a quiet machine gives a meaningful number.
- **Brokers**: nginx with nchan and nats-server, one message to 1000 WebSockets, nothing stored on disk. They
  accept the next message before the previous one is sent, and can send several in one write; ours and the
  bare loop never do.
"""


def header() -> str:
    """The terminal's first line."""
    return _line("measure", "ours", "peer", "ratio", "bar", "met?")


def line(row: Row) -> str:
    """One row on the terminal."""
    text = _line(row.name, row.ours, row.peer, row.ratio, row.bar, row.verdict)
    return f"{text}  ({row.why})" if row.why else text


def write(rows: list[Row], options: Options) -> Path:
    """Write the page; returns its path."""
    lines = ["| measure | ours | peer | ratio | bar | met? |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r.name} | {r.ours} | {r.peer} | {r.ratio} | {r.bar} | {r.verdict}{_note(r)} |" for r in rows
    ]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(HEAD + _machine(options) + "\n".join(lines) + "\n" + TAIL)
    return PAGE


def _note(row: Row) -> str:
    return f": {row.why}" if row.why else ""


def _line(*cells: str) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, (*WIDTHS, 0), strict=True))


def _machine(options: Options) -> str:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvloop", "uvicorn", "grpcio", "sqlalchemy"))
    kind = "quick run (smoke test)" if options.quick else "a run"
    return (
        f"{today}, {kind}: {_processor()}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f} at the end; Python {sys.version.split()[0]}, {packages}.\n\n"
    )


def _processor() -> str:
    for told in Path("/proc/cpuinfo").read_text().splitlines():
        if told.startswith("model name"):
            return told.partition(":")[2].strip()
    return platform.machine()
