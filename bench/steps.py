"""No-op steps end to end: queued, assigned, acknowledged, reported, committed; one server, one agent."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench import jobqueue
from bench.common import CLIENT_CORE, Child, Lab, Options, Row, Server, median, missed

JOBS, STEPS, SLOTS = 4, 5, 64
BAR = 600
LISTS = 100
MANY = 50
"""Agents, compared with one."""
FLAT = 1.25


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Agents complete each step immediately: on SQLite, then on PostgreSQL, compared with a job queue on the same."""
    rates: dict[int, float] = {}
    for agents in (1, MANY):
        with lab.server() as server:
            per_core, wall = _rate(server, options, agents)
        rates[agents] = per_core
        yield Row(
            f"no-op steps, {agents} agent{'s' if agents > 1 else ''}",
            f"{wall:.0f}/s ({per_core:.0f}/s per core)",
            bar=f"≥ {BAR}/s",
            met=wall >= BAR,
            why=missed(wall, BAR, least=True),
        )
    ratio = rates[1] / rates[MANY]
    yield Row(
        f"cost of one more: no-op step, {MANY} agents",
        f"{1e6 / rates[MANY]:.0f} µs",
        f"{1e6 / rates[1]:.0f} µs (1 agent)",
        f"{ratio:.2f}×",
        f"≤ {FLAT}×",
        ratio <= FLAT,
        missed(ratio, FLAT, least=False),
    )
    yield from _beside_stored_runs(lab, options)
    try:
        with jobqueue.postgres(lab.directory / "postgres") as directory:
            yield _beside_a_job_queue(lab, options, jobqueue.url(directory), directory)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        words = str(told).strip().splitlines()[-1][:120]
        yield Row("no-op steps, 1 agent, PostgreSQL", "-", why=f"the reference is not available: {words}")


def _beside_stored_runs(lab: Lab, options: Options) -> Iterator[Row]:
    """A step and a list, with many stored runs that have ended, compared with few."""
    count = 2_000 if options.quick else 200_000
    costs: list[tuple[float, float]] = []
    for stored in (50, count):
        with lab.server() as server:
            server.ask("copies", run=server.ask("run")["run"], count=stored)
            per_core, _ = _rate(server, options, 1)
            costs.append((1 / per_core, _listing(server)))
    for at, name in enumerate(("no-op step", "list of runs")):
        few, many = costs[0][at], costs[1][at]
        ratio = many / few
        yield Row(
            f"cost of one more: {name}, {count:,} runs stored",
            f"{1e6 * many:.0f} µs",
            f"{1e6 * few:.0f} µs (few)",
            f"{ratio:.2f}×",
            f"≤ {FLAT}×",
            ratio <= FLAT,
            missed(ratio, FLAT, least=False),
        )


def _listing(server: Server) -> float:
    """CPU seconds of the server for a page of twenty runs."""
    costs: list[float] = []
    with httpx.Client(headers={"Authorization": f"Bearer {server.token}"}) as client:
        for _ in range(LISTS):
            before = server.cpu
            answer = client.get(f"http://127.0.0.1:{server.port}/api/v1/workflow-runs", params={"limit": 20})
            answer.raise_for_status()
            costs.append(server.cpu - before)
    return median(costs)


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
