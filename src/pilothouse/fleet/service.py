"""Liveness and leases: who is there, who holds what, and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from pilothouse.access.model import Principal
from pilothouse.fleet import connection_store, store
from pilothouse.fleet.errors import Overtaken
from pilothouse.fleet.hub import Hub
from pilothouse.fleet.model import (
    Agent,
    AgentChannel,
    AgentConnection,
    Condition,
    Lease,
    LeaseState,
    Task,
    TaskReport,
    TaskStatus,
    Verdict,
    WorkKind,
)
from pilothouse.fleet.registry import Registry, agent_keys, require_agent
from pilothouse.identity.service import Identity
from pilothouse.journal import Journal
from pilothouse.storage import Storage, Tx
from pilothouse.wire import entries

log = structlog.get_logger("fleet")


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Seconds: how often agents beat, when silence means offline, how long a lease lasts unrenewed.

    ``ephemeral``: how long an ephemeral agent stays registered after it went offline.
    """

    heartbeat: float = 10
    offline_after: float = 30
    lease: float = 60
    ephemeral: float = 600


class TaskHandler(Protocol):
    """What a layer above does with the tasks of its kind (one handler for each kind of work)."""

    def started(self, tx: Tx, lease: Lease) -> None:
        """The agent has begun."""

    def finished(self, tx: Tx, lease: Lease, report: TaskReport) -> None:
        """The agent is done; the lease is gone already."""

    def lost(self, tx: Tx, lease: Lease, reason: str) -> None:
        """The agent will not finish it; the lease is gone already."""

    def task(self, tx: Tx, lease: Lease) -> Task | None:
        """The work again, to be sent once more; ``None`` if it should not run any more."""

    def cancel_reason(self, tx: Tx, lease: Lease) -> str | None:
        """Why the task should be stopped, if it should."""

    def repeated(self, conn: Connection, agent_id: str, report: TaskReport) -> bool:
        """Whether this result was already taken from this agent."""


Encoder = Callable[[Task], Any]
"""Turns a task of one kind into what one channel sends; which type that is, the channel's adapter says."""


class Fleet:
    """The agents of one control plane, as one server sees them.

    ``server_id`` names this server in the database; ``hub`` is how commands reach agents.
    """

    def __init__(
        self,
        storage: Storage,
        journal: Journal,
        identity: Identity,
        settings: FleetSettings,
        server_id: str,
        hub: Hub,
    ) -> None:
        self.settings = settings
        self.server_id = server_id
        self.hub = hub
        self.registry = Registry(journal, identity, self.wake_after, self._rebound)
        self._storage = storage
        self._journal = journal
        self._identity = identity
        self._kinds: dict[str, WorkKind] = {}
        self._handlers: dict[str, TaskHandler] = {}
        self._encoders: dict[str, dict[str, Encoder]] = {}
        self.wakers: list[Callable[[], None]] = []
        self._missing: dict[str, int] = {}
        self._closing = False

    def handle(self, kind: WorkKind, handler: TaskHandler) -> None:
        """Register a kind of work and the handler of its leases."""
        self._kinds[kind.name] = kind
        self._handlers[kind.name] = handler

    def encode(self, channel: str, kind: WorkKind, encoder: Encoder) -> None:
        """Let a channel carry a kind of work, in this form."""
        self._encoders.setdefault(channel, {})[kind.name] = encoder

    def encoders(self, channel: str) -> Mapping[str, Encoder]:
        """The kinds of work that a channel carries, and their forms."""
        return self._encoders.get(channel, {})

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever an agent came, changed, or has room again."""
        self.wakers.append(wake)

    # -- connections ------------------------------------------------------------------------------------

    async def attach(self, channel: AgentChannel) -> None:
        """A connection of an agent begins: what was on offer or to be cancelled is sent again.

        Raises :class:`AgentNotFound` for an agent that was removed in this moment, :class:`Overtaken` where another
        server holds a newer connection.
        """
        self.hub.attach(channel)
        try:
            await self._storage.write(lambda tx: self._connected(tx, channel))
        except BaseException:
            self.hub.detach(channel)
            raise

    async def detach(self, channel: AgentChannel, reason: str) -> None:
        """A connection ended. The end of a replaced one, or our own shutdown, makes no agent offline."""
        if self.hub.detach(channel) and not self._closing:
            await self._storage.write(lambda tx: self._disconnected(tx, channel, reason))

    def close(self) -> None:
        """Shutdown: end every agent's connection."""
        self._closing = True
        self.hub.close_all("going away")

    def _connected(self, tx: Tx, channel: AgentChannel) -> None:
        agent = require_agent(tx.conn, channel.agent_id)
        for other in connection_store.connections_of(tx.conn, agent.agent_id):
            if other.channel == channel.name and 0 < channel.number < other.number:
                raise Overtaken
        connection_store.put_connection(tx.conn, self.connection(channel))
        store.set_agent(tx.conn, agent.agent_id, online=True, last_heartbeat=tx.now)
        if not agent.online:
            self._tell(tx, agent, entries.AGENT_ONLINE)
        store.renew_leases(tx.conn, agent.agent_id, self._expiry(tx))
        for lease in store.leases_of(tx.conn, agent.agent_id):
            if lease.kind in channel.kinds:
                self._remind(tx, channel, lease)
        self.wake_after(tx)

    def connection(self, channel: AgentChannel) -> AgentConnection:
        """A connection of this server, as all servers know it."""
        return AgentConnection(
            channel.agent_id,
            channel.name,
            channel.connection_id,
            self.server_id,
            channel.kinds,
            channel.number,
        )

    def _remind(self, tx: Tx, channel: AgentChannel, lease: Lease) -> None:
        handler = self._handlers[lease.kind]
        reason = handler.cancel_reason(tx, lease)
        if reason is not None:
            tx.after_commit(lambda: channel.cancel(lease.id, reason))
        elif lease.state is LeaseState.OFFERED:
            task = handler.task(tx, lease)
            if task is not None:
                tx.after_commit(lambda: channel.dispatch(task))
            else:
                self._lose(tx, lease, "it can no longer be handed out")

    def _disconnected(self, tx: Tx, channel: AgentChannel, reason: str) -> None:
        if not connection_store.drop_connection(tx.conn, channel.connection_id):
            return
        agent = store.agent(tx.conn, channel.agent_id)
        if agent is not None and agent.online:  # else it had fallen silent before
            if connection_store.connections_of(tx.conn, agent.agent_id):
                self.wake_after(tx)  # work of some kinds may have no way to it any more
            else:
                self._offline(tx, agent, reason)

    def _offline(self, tx: Tx, agent: Agent, reason: str) -> None:
        store.set_agent(tx.conn, agent.agent_id, online=False, offline_since=tx.now)
        self._tell(tx, agent, entries.AGENT_OFFLINE, reason=reason)
        self.wake_after(tx)

    # -- what agents say --------------------------------------------------------------------------------

    def heartbeat(
        self,
        tx: Tx,
        agent_id: str,
        holds: Collection[str] | None = None,
        *,
        first: bool = False,
        condition: Condition | None = None,
        kinds: Collection[str] | None = None,
    ) -> None:
        """The agent lives: the leases it has taken up are renewed; an offer that never reached it runs out.

        ``holds``: the tasks of these ``kinds`` (None: of all) it says it holds, where it says so. A started task it
        no longer holds is lost; at once if this is the ``first`` word of a connection, else at the second time (a
        dispatch may have crossed the heartbeat on the way). ``condition``: how well it is, where it says so.
        """
        agent = require_agent(tx.conn, agent_id)
        store.set_agent(tx.conn, agent_id, last_heartbeat=tx.now, online=True)
        if not agent.online:
            self._tell(tx, agent, entries.AGENT_ONLINE)
            self.wake_after(tx)
        if condition is not None and condition != Condition(agent.blocked, agent.problems):
            self._changed(tx, agent, condition)
        store.renew_leases(tx.conn, agent_id, self._expiry(tx), started_only=True)
        if holds is not None:
            self._compare(tx, agent_id, holds, first, kinds)

    def _compare(
        self, tx: Tx, agent_id: str, holds: Collection[str], first: bool, kinds: Collection[str] | None
    ) -> None:
        leases = store.leases_of(tx.conn, agent_id)
        for task_id in frozenset(holds).difference(lease.id for lease in leases):
            # It was given up as lost meanwhile: nobody waits for it, and its slot is wanted.
            tx.after_commit(partial(self.hub.cancel, agent_id, task_id, "no longer leased to this agent"))
        for lease in leases:
            if kinds is not None and lease.kind not in kinds:
                continue
            if lease.state is not LeaseState.STARTED or lease.id in holds:
                self._missing.pop(lease.id, None)
            elif first or tx.now - self._missing.setdefault(lease.id, tx.now) >= self._twice:
                self._missing.pop(lease.id, None)
                self._lose(tx, lease, f"agent {agent_id} no longer runs it")

    def _changed(self, tx: Tx, agent: Agent, condition: Condition) -> None:
        store.set_condition(tx.conn, agent.agent_id, condition.blocked, condition.problems)
        self._tell(tx, agent, entries.AGENT_UPDATED, reason="; ".join(condition.problems))
        self.wake_after(tx)

    @property
    def _twice(self) -> float:
        """Milliseconds between heartbeats that count as two: those that piled up on the way come in a burst."""
        return self.settings.heartbeat * 500

    def acknowledged(self, tx: Tx, agent_id: str, task_id: str) -> Verdict:
        """The agent starts the task. Only after this was committed may it have effects."""
        lease = self._held(tx, agent_id, task_id)
        if lease is None:
            return Verdict.STALE
        if lease.state is LeaseState.STARTED:
            return Verdict.REPEATED
        frees = self._kinds[lease.kind].until_started
        store.start_lease(tx.conn, task_id, "" if frees else lease.capacity)
        self._handlers[lease.kind].started(tx, lease)
        if frees:
            self.wake_after(tx)
        return Verdict.ACCEPTED

    def refused(self, tx: Tx, agent_id: str, task_id: str, message: str) -> Verdict:
        """The agent will not start the task."""
        lease = self._held(tx, agent_id, task_id)
        if lease is None:
            return Verdict.STALE
        self._lose(tx, lease, f"agent {agent_id} refused it: {message or 'no reason given'}")
        return Verdict.ACCEPTED

    def report(self, tx: Tx, agent_id: str, report: TaskReport) -> Verdict:
        """A task's status. Results are idempotent; one of a lease that has ended changes nothing."""
        if report.status is TaskStatus.RUNNING:
            return self.acknowledged(tx, agent_id, report.task_id)
        lease = self._held(tx, agent_id, report.task_id)
        if lease is None:
            known = any(h.repeated(tx.conn, agent_id, report) for h in self._handlers.values())
            return Verdict.REPEATED if known else Verdict.STALE
        if lease.state is LeaseState.OFFERED:  # a worker that reports only ends has begun all the same
            self.acknowledged(tx, agent_id, report.task_id)
        store.drop_lease(tx.conn, lease.id)
        self._handlers[lease.kind].finished(tx, lease, report)
        self.wake_after(tx)
        return Verdict.ACCEPTED

    def _rebound(self, tx: Tx, agent: Agent) -> None:
        """An agent has registered anew: what it has on offer and may no longer have goes to others."""
        for lease in store.leases_of(tx.conn, agent.agent_id):
            if lease.state is LeaseState.OFFERED and not agent.binding.serves(lease.project):
                self._lose(tx, lease, f"agent {agent.agent_id} is bound to other projects")

    def remove(self, tx: Tx, by: Principal, agent_id: str) -> None:
        """An operator removes an agent. Raises :class:`AgentNotFound`."""
        require_agent(tx.conn, agent_id)
        self.unregister(tx, agent_id, f"removed by {by.name}")
        self._identity.audit(tx, by, "agent.remove", agent_id)

    def unregister(self, tx: Tx, agent_id: str, reason: str) -> None:
        """The agent leaves for good; what it held is lost."""
        agent = require_agent(tx.conn, agent_id)
        store.delete_agent(tx.conn, agent_id)
        connection_store.drop_connections(tx.conn, agent_id)
        self._tell(tx, agent, entries.AGENT_UNREGISTERED, reason=reason)
        for lease in store.leases_of(tx.conn, agent_id):
            self._lose(tx, lease, f"agent {agent_id} unregistered")
        tx.after_commit(lambda: self.hub.close(agent_id, "unregistered"))
        tx.after_commit(lambda: self._identity.forget(agent.id))

    # -- what the layers above ask ----------------------------------------------------------------------

    def grant(self, tx: Tx, task: Task, agent_id: str) -> None:
        """Lease a task to an agent and send it after the commit."""
        lease = Lease(
            task.id,
            agent_id,
            task.kind,
            LeaseState.OFFERED,
            granted_at=tx.now,
            expires_at=self._expiry(tx),
            project=task.project,
            capacity=self._kinds[task.kind].capacity,
        )
        store.add_lease(tx.conn, lease)
        tx.after_commit(lambda: self.hub.dispatch(agent_id, task))

    def withdraw(self, tx: Tx, task_id: str, reason: str) -> LeaseState | None:
        """Want a task back: one only on offer is taken back, a started one is told to stop and reports later.

        Gives the state the lease was in, ``None`` if there was none.
        """
        lease = store.lease(tx.conn, task_id)
        if lease is None:
            return None
        if lease.state is LeaseState.OFFERED:
            store.drop_lease(tx.conn, task_id)
            self.wake_after(tx)
        else:
            store.stop_lease(tx.conn, task_id, reason)
        tx.after_commit(lambda: self.hub.cancel(lease.agent_id, task_id, reason, lease.kind))
        return lease.state

    def stop_again(self, tx: Tx, lease: Lease) -> None:
        """Tell the agent to stop a task, as the lease says."""
        tx.after_commit(lambda: self.hub.cancel(lease.agent_id, lease.id, lease.stop_reason, lease.kind))

    def reaches(self, connection: AgentConnection) -> bool:
        """Whether work granted here is sent over this connection."""
        return self.hub.reaches(connection.server)

    def drain(self, tx: Tx, by: Principal, agent_id: str, draining: bool) -> Agent:
        """Give an agent no more work, or work again."""
        agent = require_agent(tx.conn, agent_id)
        if agent.draining != draining:
            store.set_agent(tx.conn, agent_id, draining=draining, updated_at=tx.now)
            if agent.online:
                self._tell(tx, agent, entries.AGENT_DRAINING if draining else entries.AGENT_ONLINE, by=by)
            self.wake_after(tx)
        self._identity.audit(tx, by, "agent.drain" if draining else "agent.undrain", agent_id)
        return require_agent(tx.conn, agent_id)

    # -- time -------------------------------------------------------------------------------------------

    def spare(self, tx: Tx) -> None:
        """No agent could be heard for a while, and that was not their fault: a full lease for every one of ours."""
        store.renew_all(tx.conn, self.server_id, self._expiry(tx))
        store.hear_all(tx.conn, self.server_id, tx.now)

    def orphaned(self, tx: Tx, agents: Collection[str]) -> None:
        """The server that these agents were connected to is gone: they get a full lease to come to another."""
        for agent_id in agents:
            store.renew_leases(tx.conn, agent_id, self._expiry(tx))
            store.set_agent(tx.conn, agent_id, last_heartbeat=tx.now)
        self.wake_after(tx)

    def reap(self, tx: Tx, at: int | None = None) -> None:
        """Call the silent offline and the overdue lost, forget ephemeral agents; run this about every second.

        ``at`` (ms; None: now): what agents have said since then has not been counted yet. Only agents that are
        connected to this server, or to none, are judged here.
        """
        at = tx.now if at is None else at
        before = at - int(self.settings.offline_after * 1000)
        for agent in store.silent_agents(tx.conn, self.server_id, before):
            # Its connection may still stand: should it speak again, it is online again.
            self._offline(tx, agent, f"no heartbeat for {self.settings.offline_after:g} s")
        for lease in store.expired_leases(tx.conn, self.server_id, at):
            self._lose(tx, lease, self._why_overdue(lease))
        for agent_id in store.left_agents(tx.conn, at - int(self.settings.ephemeral * 1000)):
            self.unregister(tx, agent_id, f"ephemeral, and offline for {self.settings.ephemeral:g} s")

    def _why_overdue(self, lease: Lease) -> str:
        if lease.state is LeaseState.OFFERED:
            return f"agent {lease.agent_id} did not take it up within {self.settings.lease:g} s"
        return f"agent {lease.agent_id} has not been heard of for {self.settings.lease:g} s"

    # -- inner ------------------------------------------------------------------------------------------

    def _lose(self, tx: Tx, lease: Lease, reason: str) -> None:
        store.drop_lease(tx.conn, lease.id)
        self._handlers[lease.kind].lost(tx, lease, reason)
        # It may still run there; whatever it sends later is stale.
        tx.after_commit(lambda: self.hub.cancel(lease.agent_id, lease.id, reason, lease.kind))
        self.wake_after(tx)

    def _held(self, tx: Tx, agent_id: str, task_id: str) -> Lease | None:
        lease = store.lease(tx.conn, task_id)
        return lease if lease is not None and lease.agent_id == agent_id else None

    def _expiry(self, tx: Tx) -> int:
        return tx.now + int(self.settings.lease * 1000)

    def wake_after(self, tx: Tx) -> None:
        """Have the queue looked at again once this transaction is on disk."""
        for wake in self.wakers:
            tx.after_commit(wake)

    def _tell(self, tx: Tx, before: Agent, type: str, reason: str = "", by: Principal | None = None) -> None:
        """Tell of a change that has been stored; ``before`` is what the agent was."""
        after = store.agent(tx.conn, before.agent_id) or replace(before, online=False)
        body = agent_keys(after, store.held_by(tx.conn, after.agent_id))
        body.update(previous=before.status.value, reason=reason)
        if by is not None:
            body.update(by=by.name, by_id=by.id)
        self._journal.append(tx, entries.agent_stream(before.agent_id), type, entries.FLEET_SCOPE, body)
