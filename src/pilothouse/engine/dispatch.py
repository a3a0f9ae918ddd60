"""The scheduler: assigns queued attempts to agents, in one transaction, whenever something has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection

from pilothouse.engine import queue_store, store
from pilothouse.engine.graph import Selector
from pilothouse.engine.graph_json import selector_from_json
from pilothouse.engine.matching import Given, Waiting, Waits, Worker, assign
from pilothouse.engine.model import Status
from pilothouse.engine.runs import RunCache
from pilothouse.engine.tasks import STEP, StepTasks, TaskInvalid
from pilothouse.engine.transitions import Transitions
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.connection_store import connections_by_agent
from pilothouse.fleet.model import POLL, AgentConnection, Candidate, Task
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Tx
from pilothouse.wire import entries

PAGE = 500
"""Number of queued attempts that are matched together."""


@dataclass(slots=True)
class Fetching:
    """An agent that asks for at most so many attempts. ``fits``: whether a task has space in its answer."""

    agent_id: str
    most: int
    fits: Callable[[Task], bool]
    tasks: list[Task] = field(default_factory=list)

    def take(self, task: Task) -> bool:
        """Whether the agent gets the task; the first one always."""
        if self.fits(task) or not self.tasks:
            self.tasks.append(task)
            return True
        return False


class Dispatcher:
    """Offers queued attempts to agents, and records why the others wait."""

    def __init__(self, fleet: Fleet, runs: RunCache, tasks: StepTasks, transitions: Transitions) -> None:
        self._fleet = fleet
        self._runs = runs
        self._tasks = tasks
        self._transitions = transitions
        self._decoded: dict[Any, Candidate] = {}
        self._fetching: Fetching | None = None
        self._able: set[str] = set()
        #: The agents that get some of the waiting work if they ask for it.
        self.fetchers: frozenset[str] = frozenset()

    def dispatch(self, tx: Tx, fetching: Fetching | None = None) -> int:
        """Offer attempts to agents; returns the number of attempts offered.

        ``fetching``: an agent that asks for work in this moment, which it gets on the same terms as all others.
        """
        self._fetching, self._able = fetching, set()
        workers = self._workers(tx.conn)
        # Started jobs come first, even if others have waited for longer: their timeouts are running.
        given = self._hand_out_queue(tx, workers, begun=True) + self._hand_out_queue(tx, workers, begun=False)
        # Attempts further back in the queue get a reason as well.
        self._assign(tx, queue_store.unexplained_attempts(tx.conn, PAGE), workers)
        if fetching is not None and len(fetching.tasks) >= fetching.most:
            self._able.add(fetching.agent_id)  # there may be more for it
        self.fetchers = frozenset(self._able)
        return given

    def _hand_out_queue(self, tx: Tx, workers: list[Worker], *, begun: bool) -> int:
        given, after = 0, (0, "")
        while any(worker.available and worker.free > 0 for worker in workers) or after == (0, ""):
            queue = queue_store.queued_attempts(tx.conn, after, PAGE, begun=begun)
            if not queue:
                break
            given += self._assign(tx, queue, workers)
            after = (queue[-1].queued_at, queue[-1].id)
        return given

    def _workers(self, conn: Connection) -> list[Worker]:
        """The agents for matching. Agents that are connected to other servers get their work from those."""
        held = fleet_store.held_by_agent(conn, STEP.capacity)
        connections = connections_by_agent(conn)
        rows = fleet_store.online_agents(conn)
        # By the row itself: an agent that has not changed is not decoded again.
        self._decoded = {row: self._decoded.get(row) or fleet_store.candidate(row) for row in rows}
        workers = []
        for agent in self._decoded.values():
            known = connections.get(agent.agent_id, [])
            workers.append(self._worker(agent, held.get(agent.agent_id, 0), known))
        return workers

    def _worker(self, agent: Candidate, held: int, connections: list[AgentConnection]) -> Worker:
        slots = agent.capacity[STEP.capacity]
        free = slots - agent.blocked - held
        asks = self._fetching is not None and self._fetching.agent_id == agent.agent_id
        if asks and self._fetching is not None:
            free = min(free, self._fetching.most)
        carrying = [connection for connection in connections if STEP.name in connection.kinds]
        return Worker(
            agent_id=agent.agent_id,
            labels=agent.labels,
            available=bool(connections),
            draining=agent.draining,
            free=free,
            load=(agent.blocked + held) / slots,
            binding=agent.binding,
            git=agent.git,
            here=asks or any(map(self._fleet.reaches, carrying)),
            carries=bool(carrying),
            fetches=not asks and all(connection.channel == POLL for connection in carrying),
        )

    def _assign(self, tx: Tx, queue: list[Any], workers: list[Worker]) -> int:
        given, here = 0, {worker.agent_id: worker.here for worker in workers}
        for row, verdict in zip(queue, assign(_waiting(queue), workers), strict=True):
            if isinstance(verdict, Given):
                given += self._hand_out(tx, verdict) if here[verdict.agent_id] else 0
                continue
            self._able.update(verdict.fetchers)
            if verdict.reason != row.reason:
                self._record_reason(tx, verdict)
        return given

    def give_up_workspaces(self, tx: Tx) -> None:
        """Release waiting jobs from workspaces on agents that have been offline for the duration of a lease.

        Also if the agent is now bound to other projects.
        """
        before = tx.now - int(self._fleet.settings.lease * 1000)
        for row in queue_store.bound_attempts(tx.conn):
            agent = fleet_store.agent(tx.conn, row.bound_to)
            if agent is None or (not agent.online and agent.offline_since <= before):
                self._lose_workspace(tx, row, "has been offline for too long")
            elif not agent.binding.serves(row.project):
                self._lose_workspace(tx, row, "is now bound to other projects")

    def _hand_out(self, tx: Tx, given: Given) -> int:
        at = self._runs.place(tx, given.id, changes=False)
        assert at is not None, "a queued attempt belongs to a run"
        try:
            task = self._tasks.build(tx, at)
        except TaskInvalid as error:
            self._runs.changed(tx, at.run)
            self._transitions.steps.end_attempt(tx, at.run, at.job, at.step, Status.FAILED, error=str(error))
            self._transitions.settle(tx, at.run)
            self._fleet.wake_after(tx)  # the slot it was meant for is free for the next
            return 0
        asks = self._fetching is not None and self._fetching.agent_id == given.agent_id
        if asks and self._fetching is not None and not self._fetching.take(task):
            self._able.add(given.agent_id)  # its answer is full
            return 0
        at.attempt.agent_id, at.attempt.reason = given.agent_id, f"offered to agent {given.agent_id}"
        store.save(tx.conn, at.attempt)
        self._fleet.grant(tx, task, given.agent_id, send=not asks)
        return 1

    def _record_reason(self, tx: Tx, waits: Waits) -> None:
        at = self._runs.place(tx, waits.id, changes=False)
        assert at is not None, "a queued attempt belongs to a run"
        at.attempt.reason = waits.reason
        store.save(tx.conn, at.attempt)
        self._transitions.records.append(
            tx, at.run, entries.STEP_WAITING, at.job, at.step, at.attempt, reason=waits.reason
        )

    def _lose_workspace(self, tx: Tx, row: Any, why: str) -> None:
        at = self._runs.place(tx, row.id)
        if at is None:
            return
        away = f"agent {row.bound_to}, which holds the job's workspace, {why}"
        self._transitions.lose_attempt(tx, at.run, at.job, at.step, away, started=True, gone=True)
        self._transitions.settle(tx, at.run)


def _waiting(rows: list[Any]) -> list[Waiting]:
    selectors: dict[str, Selector | None] = {"": None}
    for row in rows:
        if row.selector not in selectors:
            selectors[row.selector] = selector_from_json(orjson.loads(row.selector))
    return [
        Waiting(
            row.id,
            selectors[row.selector],
            row.bound_to,
            row.reason,
            row.project,
            needs_git=bool(row.needs_git),
        )
        for row in rows
    ]
