"""The servers of one database: each says that it lives, and the others take over from one that is gone."""

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
from pilothouse.fleet.model import AgentChannel, ServerLife
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage, Tx

log = structlog.get_logger("fleet.servers")

RENEWALS = 6
"""How often a server renews its row in the time after which the others take it for gone."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a renewal found: the connections that are ours in the database, the other servers, removed agents."""

    held: frozenset[str]
    others: tuple[ServerLife, ...]
    removed: frozenset[str]


class Servers:
    """This server among the others.

    A server that has not renewed its row for ``gone_after`` seconds is gone: the first to notice removes it, and its
    agents get a full lease to connect again. Whether a row was renewed is told by a change of it, watched for that
    time without interruption: clocks of machines differ, and one that stood still has watched no one. ``file`` keeps
    the id of the last server in this data directory, which is surely gone when the next one starts.
    """

    def __init__(
        self, storage: Storage, fleet: Fleet, version: str, file: Path, clock: Callable[[], float]
    ) -> None:
        """``clock`` gives seconds; it never goes back."""
        self._storage = storage
        self._fleet = fleet
        self._version = version
        self._file = file
        self._clock = clock
        self._gone_after = fleet.settings.offline_after
        self.every = self._gone_after / RENEWALS
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = clock()

    @property
    def _hub(self) -> Hub:
        return self._fleet.hub

    async def join(self) -> None:
        """At the start: take over from the last server in this data directory, where no others can be from all."""
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
                self._fleet.orphaned(tx, connection_store.orphan_agents(tx.conn, other.id))
        self._fleet.spare(tx)

    async def renew(self) -> None:
        """Say that this server lives, and see about the others; run this ``every`` so many seconds."""
        mine = self._hub.channels()
        found = await self._storage.write(lambda tx: self._renew(tx, mine))
        for channel in mine:
            if channel.connection_id not in found.held:
                # Another server has the agent's newer connection, and could not tell this one.
                channel.close("unregistered" if channel.agent_id in found.removed else "replaced")
        now = self._clock()
        if now - self._looked > self._gone_after / 2:
            self._seen.clear()
        self._looked = now
        for other in self._unrenewed(found.others, now):
            if await self._storage.write(partial(self._take_over, other=other)):
                log.warning("fleet.server_gone", server=other.id)

    def _renew(self, tx: Tx, mine: list[AgentChannel]) -> Renewal:
        me = self._fleet.server_id
        if not connection_store.renew_server(tx.conn, me, tx.now):
            connection_store.add_server(tx.conn, me, self._version, tx.now)
            self._claim(tx, mine)
        held = connection_store.held_by_server(tx.conn, me)
        agents = {channel.agent_id for channel in mine if channel.connection_id not in held}
        removed = {agent_id for agent_id in agents if store.agent(tx.conn, agent_id) is None}
        others = tuple(connection_store.other_servers(tx.conn, me))
        return Renewal(frozenset(held), others, frozenset(removed))

    def _claim(self, tx: Tx, mine: list[AgentChannel]) -> None:
        """Others took this server for gone: what it holds all the same is its own, unless an agent has left it."""
        for channel in mine:
            taken = {other.channel for other in connection_store.connections_of(tx.conn, channel.agent_id)}
            if channel.name not in taken and store.agent(tx.conn, channel.agent_id) is not None:
                connection_store.put_connection(tx.conn, self._fleet.connection(channel))
        self._fleet.spare(tx)

    def _unrenewed(self, others: tuple[ServerLife, ...], now: float) -> list[ServerLife]:
        """Those whose row has not changed for as long as it takes to be gone."""
        seen = {}
        for other in others:
            renewed_at, since = self._seen.get(other.id, (-1, now))
            seen[other.id] = (other.renewed_at, since if renewed_at == other.renewed_at else now)
        self._seen = seen
        return [other for other in others if now - seen[other.id][1] >= self._gone_after]

    def _take_over(self, tx: Tx, other: ServerLife) -> bool:
        """Exactly one of the others does, and only if the row still stands as it was seen."""
        if not connection_store.drop_server(tx.conn, other.id, other.renewed_at):
            return False
        self._fleet.orphaned(tx, connection_store.orphan_agents(tx.conn, other.id))
        return True
