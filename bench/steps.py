"""Steps that do nothing, end to end: queued, handed out, acknowledged, reported, committed; one server, one agent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from bench import jobqueue
from bench.common import CLIENT_CORE, Child, Lab, Options, Row, Server, median, missed

JOBS, STEPS, SLOTS = 4, 5, 64
BAR = 300
WHY = "what an agent reports is committed one by one: some 25 statements and two commits a step"


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """With an agent that ends each step at once; the peer is a job queue over PostgreSQL."""
    rounds, runs = (2, 10) if options.quick else (5, 25)
    per_core: list[float] = []
    walls: list[float] = []
    with lab.server() as server:
        registration = server.ask("registration")["token"]
        given = {"grpc": server.grpc, "registration": registration, "slots": SLOTS, "noop": True}
        with contextlib.closing(Child("bench.agent", CLIENT_CORE, given)) as agent:
            _steps(server, agent, 2)
            for _ in range(rounds):
                before, began = server.cpu, time.monotonic()
                _steps(server, agent, runs)
                per_core.append(runs * JOBS * STEPS / (server.cpu - before))
                walls.append(runs * JOBS * STEPS / (time.monotonic() - began))
    rate = median(per_core)
    theirs, note = ("-", "the peer is left out of a quick run") if options.quick else jobqueue.rate(lab)
    yield Row(
        "no-op steps",
        f"{median(walls):.0f}/s ({rate:.0f}/s per core)",
        theirs,
        bar="≥ 300/s",
        met=rate >= BAR,
        why=missed(rate, BAR, least=True, why=WHY) or note,
    )


def _steps(server: Server, agent: Child, runs: int) -> None:
    goal = agent.ask("counted")["done"] + runs * JOBS * STEPS
    started = [server.ask("run", spec=_spec())["run"] for _ in range(runs)]
    while agent.ask("counted")["done"] < goal:
        time.sleep(0.02)
    while True:
        statuses = server.ask("statuses", runs=started)["statuses"]
        if statuses == {"succeeded": runs}:
            return
        assert "failed" not in statuses, statuses
        time.sleep(0.02)


def _spec() -> str:
    lines = ["jobs:"]
    for job in range(JOBS):
        lines += [f"  - name: job{job}", "    steps:"]
        for step in range(STEPS):
            selector = "agentSelector: {matchLabels: {only: bench}}"
            lines.append(f'      - {{name: s{step}, uses: shell, args: {{command: "true"}}, {selector}}}')
    return "\n".join(lines)
