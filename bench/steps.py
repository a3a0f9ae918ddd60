"""No-op steps end to end: queued, assigned, acknowledged, reported, committed; one server, one agent."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import jobqueue
from bench.common import CLIENT_CORE, Child, Lab, Options, Row, Server, median, missed

JOBS, STEPS, SLOTS = 4, 5, 64
BAR = 300


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Agents complete each step immediately: on SQLite, then on PostgreSQL, compared with a job queue on the same."""
    for agents in (1, 50):
        with lab.server() as server:
            per_core, wall = _rate(server, options, agents)
        yield Row(
            f"no-op steps, {agents} agent{'s' if agents > 1 else ''}",
            f"{wall:.0f}/s ({per_core:.0f}/s per core)",
            bar=f"≥ {BAR}/s",
            met=wall >= BAR,
            why=missed(wall, BAR, least=True),
        )
    try:
        with jobqueue.postgres(lab.directory / "postgres") as directory:
            yield _beside_a_job_queue(lab, options, jobqueue.url(directory), directory)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        words = str(told).strip().splitlines()[-1][:120]
        yield Row("no-op steps, 1 agent, PostgreSQL", "-", why=f"the reference is not available: {words}")


def _beside_a_job_queue(lab: Lab, options: Options, url: str, directory: Path) -> Row:
    theirs = "-" if options.quick else jobqueue.rate(lab, directory)
    with lab.server(database_url=url) as server:
        per_core, wall = _rate(server, options, 1)
    return Row(
        "no-op steps, 1 agent, PostgreSQL",
        f"{wall:.0f}/s ({per_core:.0f}/s per core)",
        theirs if isinstance(theirs, str) else f"{theirs:.0f}/s (procrastinate)",
        "-" if isinstance(theirs, str) else f"{wall / theirs:.2f}×",
    )


def _rate(server: Server, options: Options, agents: int) -> tuple[float, float]:
    """Steps per second of server CPU, and of wall time."""
    rounds, runs = (2, 10) if options.quick else (5, 25)
    per_core: list[float] = []
    walls: list[float] = []
    registration = server.ask("registration")["token"]
    given = {
        "grpc": server.grpc,
        "registration": registration,
        "slots": max(2, SLOTS // agents),
        "noop": True,
        "agents": agents,
    }
    with contextlib.closing(Child("bench.agent", CLIENT_CORE, given)) as agent:
        _steps(server, agent, 2)
        for _ in range(rounds):
            before, began = server.cpu, time.monotonic()
            _steps(server, agent, runs)
            per_core.append(runs * JOBS * STEPS / (server.cpu - before))
            walls.append(runs * JOBS * STEPS / (time.monotonic() - began))
    return median(per_core), median(walls)


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
