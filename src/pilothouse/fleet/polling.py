"""Agents that ask for work: ``FetchStepRun`` as a connection of the agent (arcentra-wire.txt, docs/agents.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import structlog
from uuid_utils import uuid7

from pilothouse.fleet import connection_store
from pilothouse.fleet.model import POLL, Task
from pilothouse.fleet.registry import require_agent
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage, StorageError, Tx

log = structlog.get_logger("fleet.polling")

MAX_FETCHED = 100
"""Step runs in one answer."""
MAX_CANCELS = 1_000
"""Requests to stop step runs that are kept for an agent."""


class PollChannel:
    """An agent that polls at this server. Work is not sent: the agent fetches it.

    ``cancels``: reason by step run, each told in every answer for one lease, since an answer may be lost.
    """

    name = POLL
    number = 0

    def __init__(self, agent_id: str, kinds: Iterable[str], clock: Callable[[], int], keep: float) -> None:
        """``clock`` gives ms since 1970; ``keep``: seconds for which a request to stop a step run is told."""
        self.agent_id = agent_id
        self.kinds = frozenset(kinds)
        self.connection_id = str(uuid7())
        self.closed_for = ""
        self.beaten_at = 0
        self._clock = clock
        self._keep = int(keep * 1000)
        self._cancels: dict[str, tuple[str, int]] = {}

    def dispatch(self, task: Task) -> None:
        """Nothing: the agent gets it when it asks."""

    def cancel(self, task_id: str, reason: str) -> None:
        """Tell the agent with its next calls to stop a task."""
        if len(self._cancels) < MAX_CANCELS:
            self._cancels[task_id] = (reason, self._clock() + self._keep)

    def close(self, reason: str) -> None:
        """The next call of the agent begins anew."""
        self.closed_for = reason

    @property
    def cancels(self) -> dict[str, str]:
        """The step runs to be stopped, with the reasons."""
        now = self._clock()
        self._cancels = {id: kept for id, kept in self._cancels.items() if kept[1] > now}
        return {id: reason for id, (reason, _) in self._cancels.items()}


class Polling:
    """Serves agents that poll. Lives on the event loop.

    A poll for which there is nothing costs no transaction, except one in an interval of heartbeats: it counts as one.
    """

    def __init__(self, fleet: Fleet, storage: Storage, clock: Callable[[], int]) -> None:
        """``clock`` gives ms since 1970."""
        self._fleet = fleet
        self._storage = storage
        self._clock = clock
        self._beginning: dict[str, asyncio.Future[PollChannel]] = {}

    async def fetch(self, agent_id: str, most: int) -> tuple[list[Task], dict[str, str]]:
        """Work for the agent, leased to it, and the step runs that it is to stop. ``most``: 0 for any number.

        Raises :class:`AgentNotFound`.
        """
        self._fleet.arrivals.heard(agent_id)
        channel, fresh = await self._channel(agent_id)
        source = self._fleet.source
        if source is None or not (fresh or source.has_work(agent_id)):
            await self._beat(channel)
            return [], channel.cancels
        wanted = min(most or MAX_FETCHED, MAX_FETCHED)
        fetching = self._storage.submit(partial(source.fetch, agent_id=agent_id, most=wanted))
        try:
            tasks = await asyncio.shield(fetching)
        except asyncio.CancelledError:
            fetching.add_done_callback(partial(self._call_ended, agent_id))
            raise
        if not tasks:
            await self._beat(channel)
        return tasks, channel.cancels

    def give_back(self, agent_id: str, tasks: Iterable[Task]) -> None:
        """The agent's call ended before it was answered: what it was given goes back to the queue."""
        for task in tasks:
            log.info("fleet.given_back", agent_id=agent_id, task_id=task.id)
            back = partial(self._fleet.refused, agent_id=agent_id, task_id=task.id, message="its call ended")
            with suppress(StorageError):  # else its lease expires
                self._storage.submit(back)

    def _call_ended(self, agent_id: str, fetching: asyncio.Future[list[Task]]) -> None:
        if not fetching.cancelled() and fetching.exception() is None:
            self.give_back(agent_id, fetching.result())

    async def expire(self) -> None:
        """Forget the agents that were not heard of here for a while; run this every few seconds."""
        since = self._clock() - int(self._fleet.settings.offline_after * 1000)
        for channel in self._fleet.hub.channels():
            if isinstance(channel, PollChannel) and self._fleet.arrivals.last(channel.agent_id) < since:
                self._fleet.hub.detach(channel)
                await self._storage.write(partial(_drop, id=channel.connection_id))

    async def _channel(self, agent_id: str) -> tuple[PollChannel, bool]:
        """The agent's connection, and whether it begins with this call."""
        known = self._fleet.hub.channel(agent_id, POLL)
        if isinstance(known, PollChannel) and not known.closed_for and agent_id not in self._beginning:
            return known, False
        beginning = self._beginning.get(agent_id)
        if beginning is None:
            beginning = asyncio.ensure_future(self._begin(agent_id))
            self._beginning[agent_id] = beginning
            beginning.add_done_callback(lambda _: self._beginning.pop(agent_id, None))
        return await asyncio.shield(beginning), True

    async def _begin(self, agent_id: str) -> PollChannel:
        settings = self._fleet.settings
        channel = PollChannel(agent_id, self._fleet.encoders(POLL), self._clock, settings.lease)
        self._fleet.hub.attach(channel)
        try:
            await self._storage.write(lambda tx: self._store(tx, channel))
        except BaseException:
            self._fleet.hub.detach(channel)
            raise
        channel.beaten_at = self._clock()
        log.info("fleet.agent_polls", agent_id=agent_id, connection_id=channel.connection_id)
        return channel

    def _store(self, tx: Tx, channel: PollChannel) -> None:
        require_agent(tx.conn, channel.agent_id)
        connection_store.put_connection(tx.conn, self._fleet.connection(channel))
        self._fleet.heartbeat(tx, channel.agent_id)
        for id, reason in self._fleet.stopping(tx.conn, channel.agent_id).items():
            channel.cancel(id, reason)
        self._fleet.wake_after(tx)

    async def _beat(self, channel: PollChannel) -> None:
        now = self._clock()
        if now - channel.beaten_at < self._fleet.settings.heartbeat * 1000:
            return
        channel.beaten_at = now
        await self._storage.write(lambda tx: self._fleet.heartbeat(tx, channel.agent_id))


def _drop(tx: Tx, id: str) -> None:
    connection_store.drop_connection(tx.conn, id)
