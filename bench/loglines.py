"""Log lines: an agent's ``PushLogs`` → commit with fsync → one WebSocket viewer, lines per second.

The reference is a gRPC service that discards the same bytes. The rate is per CPU second of the server; the rate by
the wall clock is shown beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.common import CLIENT_CORE, SERVER_CORE, Child, Lab, Options, Row, median, missed, spend

WIDTH = 80
BAR = 200_000
WHY = "each line is encoded and framed by itself, and what that leaves in memory is collected again and again"
SPEC = """
jobs:
  - name: build
    steps:
      - {name: work, uses: shell, args: {command: "true"}, agentSelector: {matchLabels: {only: bench}}}
"""


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """JSON objects with zstd, as ``pilot agent`` sends them, and plain text."""
    yield _lines(lab, options, True, "log lines, ndjson + zstd, to one viewer")
    if not options.quick:
        yield _lines(lab, options, False, "log lines, plain text, to one viewer")


def _lines(lab: Lab, options: Options, ndjson: bool, name: str) -> Row:
    count = 20_000 if options.quick else 200_000
    per_core: list[float] = []
    walls: list[float] = []
    plain: list[float] = []
    with lab.server() as server, contextlib.closing(Child("bench.bare_grpc", SERVER_CORE)) as peer:
        registration = server.ask("registration")["token"]
        ours = {"grpc": server.grpc, "registration": registration, "slots": 4, "noop": False}
        with (
            contextlib.closing(Child("bench.agent", CLIENT_CORE, ours)) as agent,
            contextlib.closing(Child("bench.agent", CLIENT_CORE, {**ours, **peer.hello})) as on_peer,
        ):
            run = server.ask("run", spec=SPEC)["run"]
            step = agent.ask("task")["step_run"]
            with lab.open_streams(server.port, 1, server.stream(run, "ws")) as viewer:
                for _ in range(1 + min(options.rounds, 5)):
                    agent.ask("load", step_run=step, lines=count, width=WIDTH, ndjson=ndjson)
                    spent, answer = spend(server, viewer, lambda: agent.ask("push", ndjson=ndjson))
                    assert answer["accepted"]
                    assert spent.received % count == 0, "every line, once"
                    on_peer.ask("load", step_run=step, lines=count, width=WIDTH, ndjson=ndjson)
                    before = peer.cpu
                    on_peer.ask("push", ndjson=ndjson)
                    plain.append(count / (peer.cpu - before))
                    per_core.append(count / spent.cpu)
                    walls.append(count / answer["seconds"])
    # The first round warms up.
    rate, dropped = median(per_core[1:]), median(plain[1:])
    return Row(
        name,
        f"{rate / 1e3:.0f} k/s per core ({median(walls[1:]) / 1e3:.0f} k/s by the wall)",
        f"{dropped / 1e3:.0f} k/s per core",
        f"{dropped / rate:.2f}×",
        "≥ 200 k/s per core",
        rate >= BAR,
        missed(rate, BAR, least=True, why=WHY),
    )
