"""Cost by size of a run: settling one step and creating the run, in seconds of the writer thread.

Uses the engine without transports, on SQLite. The reference is the same engine with a run of ten steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.common import Lab, Options, Row, median, missed
from pilothouse.access.model import SYSTEM
from pilothouse.engine.graph import Graph, Job, Step
from pilothouse.engine.graph_json import encoded
from pilothouse.engine.model import Status
from pilothouse.engine.names import names_of
from pilothouse.engine.runs import RunCache
from pilothouse.engine.service import Engine, NewRun
from pilothouse.engine.transitions import Transitions
from pilothouse.server.graph import compose
from pilothouse.server.settings import Settings
from pilothouse.storage import Database, Tx
from pilothouse.storage.migrations import upgrade

LARGE = 5000
SMALL = 10
FLAT = 1.25
CREATED = 0.05
"""Target in seconds for creating a run of 5,000 steps."""


def steps(count: int) -> tuple[Step, ...]:
    """Steps without requirements."""
    return tuple(Step(f"step-{number}", "dummy", "run") for number in range(count))


def one_job(count: int) -> Graph:
    """All steps in one job, in sequence."""
    return Graph((Job("job", steps(count)),))


def many_jobs(count: int) -> Graph:
    """Jobs of five steps in sequence; the last two depend on all."""
    names = [f"job-{number}" for number in range(count // 5)]
    jobs = [Job(name, steps(5), depends_on=tuple(names[at - 1 : at])) for at, name in enumerate(names)]
    return Graph((*jobs[:-2], *(Job(job.name, job.steps, depends_on=tuple(names[:-2])) for job in jobs[-2:])))


SHAPES = {"one job": one_job, "jobs of five steps": many_jobs}


def measure(lab: Lab, options: Options) -> Iterator[Row]:
    """Measure both shapes of a run, then its creation."""
    settled = 40 if options.quick else 400
    for shape, make in SHAPES.items():
        cost = asyncio.run(_measured(lab, shape.replace(" ", "-"), make, settled))
        ratio = cost.large / cost.small
        yield Row(
            f"settling one step, {shape}: {LARGE:,} steps",
            f"{cost.large * 1e6:.0f} µs",
            f"{cost.small * 1e6:.0f} µs ({SMALL} steps)",
            f"{ratio:.2f}×",
            f"≤ {FLAT}×",
            ratio <= FLAT,
            missed(ratio, FLAT, least=False),
        )
        yield Row(
            f"creating a run, {shape}: {LARGE:,} steps",
            f"{cost.created * 1e3:.0f} ms",
            "-",
            "-",
            f"≤ {CREATED * 1e3:.0f} ms",
            cost.created <= CREATED,
            missed(cost.created, CREATED, least=False),
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the writer thread."""

    small: float
    large: float
    created: float


async def _measured(lab: Lab, name: str, make: object, settled: int) -> Cost:
    directory = lab.directory / f"settle-{name}"
    directory.mkdir()
    database = Database.at(directory / "pilothouse.db")
    upgrade(database)
    graph = compose(Settings(data_dir=directory), database, bytes(32), lambda: time.time_ns() // 1_000_000)
    graph.writer.start(graph.journal)
    bench = _Bench(graph)
    try:
        assert callable(make)
        created = [await bench.create(make(LARGE)) for _ in range(5)]
        small, large = [], []
        one = created[-1][1]
        while len(large) < settled:
            large += await bench.settle(one, SMALL)
            small += await bench.settle((await bench.create(make(SMALL)))[1], SMALL)
        return Cost(median(small), median(large), median([cost for cost, _ in created]))
    finally:
        await graph.writer.stop()
        database.close()


class _Bench:
    def __init__(self, graph: object) -> None:
        self._graph = graph
        service = graph.service  # type: ignore[attr-defined]
        self._write = graph.writer.write  # type: ignore[attr-defined]
        self._engine: Engine = service(Engine)
        self._runs: RunCache = service(RunCache)
        self._transitions: Transitions = service(Transitions)

    async def create(self, graph: Graph) -> tuple[float, str]:
        """Create a run of a compiled graph; returns the cost and its id."""
        stored, names = encoded(graph), names_of(graph)
        new = NewRun("pipeline", "bench", "project", graph, stored=stored, names=names)

        def use_case(tx: Tx) -> tuple[float, str]:
            began = time.thread_time()
            run = self._engine.start(tx, SYSTEM, new)
            return time.thread_time() - began, run.id

        found: tuple[float, str] = await self._write(use_case)
        return found

    async def settle(self, run_id: str, count: int) -> list[float]:
        """Start and complete steps in sequence; returns the cost of each."""
        return [await self._write(lambda tx: self._one(tx, run_id)) for _ in range(count)]

    def _one(self, tx: Tx, run_id: str) -> float:
        run = self._runs.get(tx, run_id)
        job = next(job for job in run.jobs[run.counts.completed :] if job.status is Status.RUNNING)
        step = next(iter(job.awaited))
        began = time.thread_time()
        at = self._runs.place(tx, step.current)
        assert at is not None
        self._transitions.steps.start_attempt(tx, at.run, at.job, at.step, at.attempt, "agent")
        self._transitions.steps.end_attempt(tx, at.run, at.job, at.step, Status.SUCCEEDED)
        self._transitions.settle(tx, at.run, at.job)
        return time.thread_time() - began
