"""The servers of one database: each renews a row; the others take over the agents of one that stops doing so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from pilothouse.fleet import connection_store, store
from pilothouse.fleet.hub import Hub
from pilothouse.fleet.model import AgentChannel, ServerRecord
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage, Tx

log = structlog.get_logger("fleet.servers")

RENEWALS = 6
"""How often a server renews its row within the time after which the others consider it gone."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of a renewal: ids of our stored connections, the other servers, names of removed agents."""

    held: frozenset[str]
    others: tuple[ServerRecord, ...]
    removed: frozenset[str]


class Servers:
    """This server's row, and its watch over the rows of the others.

    A server that has not renewed its row for ``offline_after`` seconds is gone: the first server to notice removes
    the row, and the agents get a full lease to connect to another server. A row counts as renewed when it changes,
    observed for that time without interruption: clocks of machines differ, and a process that was stopped has
    observed nothing. ``file`` holds the id of the last server in this data directory, which is known to be gone when
    the next one starts.
    """

    def __init__(
        self, storage: Storage, fleet: Fleet, version: str, file: Path, clock: Callable[[], float]
    ) -> None:
        """``clock``: seconds, monotonic."""
        self._storage = storage
        self._fleet = fleet
        self._version = version
        self._file = file
        self._clock = clock
        self._gone_after = fleet.settings.offline_after
        self.every = self._gone_after / RENEWALS
        self._observed: dict[str, tuple[int, float]] = {}
        self._observed_at = clock()

    @property
    def _hub(self) -> Hub:
        return self._fleet.hub

    async def join(self) -> None:
        """At the start: take over from the last server of this data directory, on SQLite from every other one."""
        previous = await asyncio.to_thread(self._previous)
        await self._storage.write(lambda tx: self._join(tx, previous))
        await asyncio.to_thread(self._file.write_text, self._fleet.server_id + "\n")

    def _previous(self) -> str:
        with suppress(OSError, UnicodeDecodeError):
            return self._file.read_text().strip()
        return ""

    def _join(self, tx: Tx, previous: str) -> None:
        me = self._fleet.server_id
        connection_store.add_server(tx.conn, me, self._version, tx.now)
        for other in connection_store.other_servers(tx.conn, me):
            if other.id == previous or not self._storage.shared:
                connection_store.drop_server(tx.conn, other.id)
                self._fleet.renew_orphaned(tx, connection_store.orphan_agents(tx.conn, other.id))
        self._fleet.start_grace_period(tx)

    async def renew(self) -> None:
        """Renew the row and check the others; run this every :attr:`every` seconds."""
        mine = self._hub.channels()
        found = await self._storage.write(lambda tx: self._renew(tx, mine))
        for channel in mine:
            if channel.connection_id not in found.held:
                # The agent has a newer connection, at another server, which could not close this one.
                channel.close("unregistered" if channel.agent_id in found.removed else "replaced")
        now = self._clock()
        if now - self._observed_at > self._gone_after / 2:
            self._observed.clear()
        self._observed_at = now
        for other in self._unrenewed(found.others, now):
            if await self._storage.write(partial(self._take_over, other=other)):
                log.warning("fleet.server_gone", server=other.id)

    def _renew(self, tx: Tx, mine: list[AgentChannel]) -> Renewal:
        me = self._fleet.server_id
        if not connection_store.renew_server(tx.conn, me, tx.now):
            connection_store.add_server(tx.conn, me, self._version, tx.now)
            self._restore(tx, mine)
        held = connection_store.held_by_server(tx.conn, me)
        agents = {channel.agent_id for channel in mine if channel.connection_id not in held}
        removed = {agent_id for agent_id in agents if store.agent(tx.conn, agent_id) is None}
        others = tuple(connection_store.other_servers(tx.conn, me))
        return Renewal(frozenset(held), others, frozenset(removed))

    def _restore(self, tx: Tx, mine: list[AgentChannel]) -> None:
        """Another server has removed this one: store its connections again, except where an agent has a newer one."""
        for channel in mine:
            taken = {other.channel for other in connection_store.connections_of(tx.conn, channel.agent_id)}
            if channel.name not in taken and store.agent(tx.conn, channel.agent_id) is not None:
                connection_store.put_connection(tx.conn, self._fleet.connection(channel))
        self._fleet.start_grace_period(tx)

    def _unrenewed(self, others: tuple[ServerRecord, ...], now: float) -> list[ServerRecord]:
        """The servers whose row has not changed for so long that they are gone."""
        seen: dict[str, tuple[int, float]] = {}
        for other in others:
            renewed_at, since = self._observed.get(other.id, (-1, now))
            seen[other.id] = (other.renewed_at, since if renewed_at == other.renewed_at else now)
        self._observed = seen
        return [other for other in others if now - seen[other.id][1] >= self._gone_after]

    def _take_over(self, tx: Tx, other: ServerRecord) -> bool:
        """Only one server succeeds, and only if the row is still the one that was observed."""
        if not connection_store.drop_server(tx.conn, other.id, other.renewed_at):
            return False
        self._fleet.renew_orphaned(tx, connection_store.orphan_agents(tx.conn, other.id))
        return True
