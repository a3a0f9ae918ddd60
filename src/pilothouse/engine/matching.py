"""Assigns queued work to agents, and determines why other work waits; pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from pilothouse.engine.graph import Selector
from pilothouse.engine.selectors import match_selector
from pilothouse.fleet.bindings import UNBOUND, Binding

NEEDS_GIT = "the run's work tree needs (2.30 or newer)"


@dataclass(slots=True)
class Worker:
    """An agent as seen by the scheduler. ``free``: free slots, decremented with each assignment; ``here``: it is
    connected to this server, which sends it the work; ``carries``: its connection supports steps; ``fetches``: it
    gets work when it asks, and not before."""

    agent_id: str
    labels: Mapping[str, str]
    available: bool
    draining: bool
    free: int
    load: float
    binding: Binding = UNBOUND
    git: bool = False
    here: bool = True
    carries: bool = True
    fetches: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work in the queue; ``bound_to``: the agent that holds the workspace of its job. ``needs_git``: the workspace is
    a git work tree (docs/checkout.md). Work with the same selector object is matched with the agents once."""

    id: str
    selector: Selector | None
    bound_to: str
    reason: str
    project: str = ""
    needs_git: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """This work is assigned to this agent."""

    id: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class Waits:
    """This work waits for this reason; ``fetchers``: the agents that get it if they ask."""

    id: str
    reason: str
    fetchers: tuple[str, ...] = ()


def assign(queue: list[Waiting], workers: list[Worker]) -> list[Given | Waits]:
    """Assign work, oldest first, to the least loaded matching agents; returns results in the order of the queue.

    Started jobs come before others: a job's timeout runs while it waits between two steps.
    """
    by_id = {worker.agent_id: worker for worker in workers}
    order = sorted(range(len(queue)), key=lambda at: not queue[at].bound_to)
    alike: dict[tuple[int, str, bool], _Candidates] = {}
    verdicts: dict[int, Given | Waits] = {}
    for at in order:
        item = queue[at]
        if item.bound_to:
            verdicts[at] = _bound(item, by_id.get(item.bound_to))
            continue
        key = (id(item.selector), item.project, item.needs_git)
        if key not in alike:
            alike[key] = _candidates(item, workers)
        worker = alike[key].least_loaded()
        verdicts[at] = _give(item, worker) if worker else alike[key].waits(item)
    return [verdicts[at] for at in range(len(queue))]


class _Candidates:
    """The agents that match some work; ``reason``: why it waits while none of them is free."""

    def __init__(self, matching: list[Worker], reason: str) -> None:
        self._reason = reason
        able = [worker for worker in matching if worker.free > 0 and not worker.draining]
        self._fetching = [worker for worker in able if worker.fetches]
        self._by_load = [(w.load, w.agent_id, w) for w in able if not w.fetches]
        heapq.heapify(self._by_load)

    def waits(self, item: Waiting) -> Waits:
        """Why some work waits that nobody can be given now."""
        able = [worker for worker in self._fetching if worker.free > 0]
        return _to_be_fetched(item, able) if able else Waits(item.id, self._reason)

    def least_loaded(self) -> Worker | None:
        """The least loaded one with a free slot; by name where several are. Loads only grow meanwhile."""
        while self._by_load:
            load, name, worker = self._by_load[0]
            if worker.free <= 0:
                heapq.heappop(self._by_load)
            elif worker.load != load:  # it has got other work since
                heapq.heapreplace(self._by_load, (worker.load, name, worker))
            else:
                return worker
        return None


def _candidates(item: Waiting, workers: list[Worker]) -> _Candidates:
    misses: list[str] = []
    foreign: list[str] = []
    matching: list[Worker] = []
    for worker in workers:
        if worker.available:
            miss = match_selector(item.selector, worker.labels)
            if miss is not None:
                misses.append(f"matches {miss}")
            elif not worker.carries:
                misses.append("takes steps")
            elif not worker.binding.serves(item.project):
                foreign.append(worker.agent_id)
            elif item.needs_git and not worker.git:
                misses.insert(0, f"has git, which {NEEDS_GIT}")
            else:
                matching.append(worker)
    return _Candidates(matching, _why(matching, foreign, misses))


def _bound(item: Waiting, worker: Worker | None) -> Given | Waits:
    if worker is None or not (worker.available and worker.carries):
        return Waits(
            item.id, f"waiting for agent {item.bound_to}, which holds the job's workspace and is offline"
        )
    if not worker.binding.serves(item.project):
        return Waits(
            item.id, f"agent {item.bound_to}, which holds the job's workspace, is bound to other projects"
        )
    miss = match_selector(item.selector, worker.labels)
    if miss is not None:
        return Waits(
            item.id, f"agent {item.bound_to}, which holds the job's workspace, does not match {miss}"
        )
    if item.needs_git and not worker.git:
        return Waits(
            item.id, f"agent {item.bound_to} has no git, which {NEEDS_GIT}; it holds the job's workspace"
        )
    if worker.free <= 0:
        return Waits(
            item.id, f"waiting for a free slot on agent {item.bound_to}, which holds the job's workspace"
        )
    if worker.fetches:
        return _to_be_fetched(item, [worker])
    return _give(item, worker)


def _to_be_fetched(item: Waiting, able: list[Worker]) -> Waits:
    names = tuple(sorted(worker.agent_id for worker in able))
    some = f"agent {names[0]}" if len(names) == 1 else f"one of {len(names)} agents that poll ({names[0]}, …)"
    return Waits(item.id, f"waiting for {some} to fetch it", names)


def _give(item: Waiting, worker: Worker) -> Given:
    worker.load += (1 - worker.load) / worker.free  # one more slot is in use
    worker.free -= 1
    return Given(item.id, worker.agent_id)


def _why(matching: list[Worker], foreign: list[str], misses: list[str]) -> str:
    if not matching:
        if foreign:
            some = ", ".join(foreign[:3])
            one = len(foreign) == 1
            return (
                f"agent {some} is bound to other projects"
                if one
                else (f"every matching agent is bound to other projects ({some})")
            )
        if not misses:
            return "no agent is online"
        return f"no online agent {misses[0]}"
    if all(worker.draining for worker in matching):
        return f"every matching agent is draining ({', '.join(w.agent_id for w in matching[:3])})"
    return (
        f"all {len(matching)} matching agents are busy"
        if len(matching) > 1
        else (f"agent {matching[0].agent_id} is busy")
    )
