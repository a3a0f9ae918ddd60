"""Liveness of agents, and leases of tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import structlog
from sqlalchemy import Connection

from pilothouse.access.model import SYSTEM, Principal
from pilothouse.fleet import connection_store, store
from pilothouse.fleet.arrivals import NOBODY, Arrivals, Heard
from pilothouse.fleet.earlier_store import forget_earlier
from pilothouse.fleet.errors import Overtaken
from pilothouse.fleet.handlers import (
    MAX_ERROR,
    MAX_METRIC,
    MAX_METRICS,
    Encoder,
    Screen,
    TaskHandler,
    WorkControl,
    WorkSource,
)
from pilothouse.fleet.hub import Hub
from pilothouse.fleet.model import (
    MAX_PROBLEM,
    POLL,
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

MAX_STOPPED = 100
"""Tasks that an agent is told to stop in answer to one heartbeat, since it does not hold their leases."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Seconds: the interval of heartbeats, the silence after which an agent is offline, the duration of a lease.

    ``ephemeral``: how long an ephemeral agent stays registered after it went offline.
    """

    heartbeat: float = 10
    offline_after: float = 30
    lease: float = 60
    ephemeral: float = 600


class Fleet:
    """The agents of the control plane; one instance in each server.

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
        arrivals: Arrivals | None = None,
    ) -> None:
        self.settings = settings
        self.arrivals = arrivals or Arrivals()
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
        self._screen: Screen | None = None
        #: What hands out work to agents that poll, and what cancels it; registered by the owner of the work.
        self.source: WorkSource | None = None
        self.control: WorkControl | None = None
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

    def screen_reports(self, screen: Screen) -> None:
        """What masks the texts of reports."""
        self._screen = screen

    async def screened(self, agent_id: str, report: TaskReport) -> TaskReport:
        """The report with its texts cut and masked."""
        if self._screen is None or not (report.error or report.metrics):
            return report
        metrics = list(report.metrics.items())[:MAX_METRICS]
        words = [word for pair in metrics for word in pair]
        [error] = await self._screen(agent_id, report.task_id, [report.error], MAX_ERROR)
        shown = await self._screen(agent_id, report.task_id, words, MAX_METRIC) if words else []
        pairs = dict(zip(shown[::2], shown[1::2], strict=True))
        return replace(report, error=error, metrics=pairs, screened=True)

    async def screened_text(self, agent_id: str, task_id: str, text: str, most: int = MAX_ERROR) -> str:
        """A message about a task, or of the agent itself (``task_id`` empty), cut and masked."""
        if self._screen is None or not text:
            return text[:most]
        return (await self._screen(agent_id, task_id, [text], most))[0]

    async def screened_condition(self, agent_id: str, condition: Condition) -> Condition:
        """The health that an agent reports, with its texts cut and masked."""
        if self._screen is None or not condition.problems:
            return condition.cut()
        shown = await self._screen(agent_id, "", condition.problems, MAX_PROBLEM)
        return replace(condition, problems=tuple(shown))

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` whenever an agent connects, changes, or has a free slot again."""
        self.wakers.append(wake)

    # -- connections ------------------------------------------------------------------------------------

    async def attach(self, channel: AgentChannel) -> Agent:
        """A connection of an agent begins: offered tasks, and requests to stop tasks, are sent again.

        Gives the agent. Raises :class:`AgentNotFound` for one that was removed in this moment, :class:`Overtaken`
        where another server holds a newer connection.
        """
        self.hub.attach(channel)
        try:
            return await self._storage.write(lambda tx: self._connected(tx, channel))
        except BaseException:
            self.hub.detach(channel)
            raise

    async def detach(self, channel: AgentChannel, reason: str) -> None:
        """A connection has ended. Neither the end of a replaced one nor a shutdown makes an agent offline."""
        if self.hub.detach(channel) and not self._closing:
            await self._storage.write(lambda tx: self._disconnected(tx, channel, reason))

    def close(self) -> None:
        """Shutdown: end every agent's connection."""
        self._closing = True
        self.hub.close_all("going away")

    def _connected(self, tx: Tx, channel: AgentChannel) -> Agent:
        agent = require_agent(tx.conn, channel.agent_id)
        for other in connection_store.connections_of(tx.conn, agent.agent_id):
            if other.channel == channel.name and 0 < channel.number < other.number:
                raise Overtaken
        connection_store.put_connection(tx.conn, self.connection(channel))
        store.set_agent(tx.conn, agent.agent_id, online=True, last_heartbeat=tx.now)
        if not agent.online:
            self._record(tx, agent, entries.AGENT_ONLINE)
        store.renew_leases(tx.conn, agent.agent_id, self._expiry(tx))
        for lease in store.leases_of(tx.conn, agent.agent_id):
            if lease.kind in channel.kinds:
                self._resend(tx, channel, lease)
        self.wake_after(tx)
        return agent

    def connection(self, channel: AgentChannel) -> AgentConnection:
        """A connection of this server, as it is stored for all servers."""
        return AgentConnection(
            channel.agent_id,
            channel.name,
            channel.connection_id,
            self.server_id,
            channel.kinds,
            channel.number,
        )

    def _resend(self, tx: Tx, channel: AgentChannel, lease: Lease) -> None:
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
        if agent is not None and agent.online:  # else it was silent before
            if connection_store.connections_of(tx.conn, agent.agent_id):
                self.wake_after(tx)  # some kinds of work can no longer be sent to it
            else:
                self._offline(tx, agent, reason)

    def _offline(self, tx: Tx, agent: Agent, reason: str) -> None:
        store.set_agent(tx.conn, agent.agent_id, online=False, offline_since=tx.now)
        self._record(tx, agent, entries.AGENT_OFFLINE, reason=reason)
        self.wake_after(tx)

    # -- reports of agents ------------------------------------------------------------------------------

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
        """A heartbeat: renews the leases of started tasks; those of tasks that are only offered expire.

        ``holds``: the tasks of these ``kinds`` (None: of all) that the agent says it holds, if it says so. A started
        task that it no longer holds is lost: at once if this is the ``first`` heartbeat of a connection, else at the
        second heartbeat (a dispatch may have been in transit). ``condition``: the health it reports, if it does.
        """
        agent = require_agent(tx.conn, agent_id)
        store.set_agent(tx.conn, agent_id, last_heartbeat=tx.now, online=True)
        if not agent.online:
            self._record(tx, agent, entries.AGENT_ONLINE)
            self.wake_after(tx)
        if condition is not None:
            self._update_condition(tx, agent, condition)
        store.renew_leases(tx.conn, agent_id, self._expiry(tx), started_only=True)
        if holds is not None:
            self._reconcile(tx, agent_id, holds, first, kinds)

    def _reconcile(
        self, tx: Tx, agent_id: str, holds: Collection[str], first: bool, kinds: Collection[str] | None
    ) -> None:
        leases = store.leases_of(tx.conn, agent_id)
        for task_id in islice(frozenset(holds).difference(lease.id for lease in leases), MAX_STOPPED):
            # Its lease has ended meanwhile; the slot is needed.
            tx.after_commit(partial(self.hub.cancel, agent_id, task_id, "no longer leased to this agent"))
        for lease in leases:
            if kinds is not None and lease.kind not in kinds:
                continue
            if lease.state is not LeaseState.STARTED or lease.id in holds:
                self._missing.pop(lease.id, None)
                if lease.id in holds and not lease.claimed:
                    store.claim_lease(tx.conn, lease.id, self._expiry(tx))
            elif first or tx.now - self._missing.setdefault(lease.id, tx.now) >= self._heartbeat_gap:
                self._missing.pop(lease.id, None)
                self._lose(tx, lease, f"agent {agent_id} no longer runs it")

    def described(self, tx: Tx, agent_id: str, condition: Condition) -> None:
        """The health that the agent reports, where it is not part of a heartbeat."""
        self._update_condition(tx, require_agent(tx.conn, agent_id), condition)

    def _update_condition(self, tx: Tx, agent: Agent, condition: Condition) -> None:
        condition = condition.cut()
        if condition == Condition(agent.blocked, agent.problems):
            return
        store.set_condition(tx.conn, agent.agent_id, condition.blocked, condition.problems)
        self._record(tx, agent, entries.AGENT_UPDATED, reason="; ".join(condition.problems))
        self.wake_after(tx)

    @property
    def _heartbeat_gap(self) -> float:
        """Milliseconds between heartbeats that count as two; delayed ones arrive in a burst."""
        return self.settings.heartbeat * 500

    def acknowledged(self, tx: Tx, agent_id: str, task_id: str) -> Verdict:
        """The agent starts the task, which may have effects only after this commit."""
        lease = self._held(tx, agent_id, task_id)
        if lease is None:
            return Verdict.STALE
        if lease.state is LeaseState.STARTED:
            if not lease.claimed:
                store.claim_lease(tx.conn, lease.id, self._expiry(tx))
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
        """A task's status. Results are idempotent; a result under a lease that has ended changes nothing."""
        if report.status is TaskStatus.RUNNING:
            return self.acknowledged(tx, agent_id, report.task_id)
        lease = self._held(tx, agent_id, report.task_id)
        if lease is None:
            known = any(h.repeated(tx.conn, agent_id, report) for h in self._handlers.values())
            return Verdict.REPEATED if known else Verdict.STALE
        if lease.state is LeaseState.OFFERED:  # an agent that only reports results has started it
            self.acknowledged(tx, agent_id, report.task_id)
        store.drop_lease(tx.conn, lease.id)
        self._handlers[lease.kind].finished(tx, lease, report)
        self.wake_after(tx)
        return Verdict.ACCEPTED

    def _rebound(self, tx: Tx, agent: Agent) -> None:
        """An agent has registered again: offers that it may no longer have, or has fetched, go back to the queue."""
        store.disclaim_leases(tx.conn, agent.agent_id, self._expiry(tx))
        channels = {known.channel for known in connection_store.connections_of(tx.conn, agent.agent_id)}
        for lease in store.leases_of(tx.conn, agent.agent_id):
            if lease.state is not LeaseState.OFFERED:
                continue
            if not agent.binding.serves(lease.project):
                self._lose(tx, lease, f"agent {agent.agent_id} is bound to other projects")
            elif channels == {POLL}:  # nothing sends it again
                self._lose(tx, lease, f"agent {agent.agent_id} has registered again")

    def remove(self, tx: Tx, by: Principal, agent_id: str) -> None:
        """An operator removes an agent. Raises :class:`AgentNotFound`."""
        self.unregister(tx, agent_id, f"removed by {by.name}", by=by)

    def unregister(self, tx: Tx, agent_id: str, reason: str, *, by: Principal = SYSTEM) -> None:
        """Remove the agent; what it held is lost."""
        agent = require_agent(tx.conn, agent_id)
        action = "agent.unregister" if by.kind == "agent" else "agent.remove"
        self._identity.audit(tx, by, action, agent_id, {"reason": reason})
        store.delete_agent(tx.conn, agent_id)
        forget_earlier(tx.conn, agent_id)
        connection_store.drop_connections(tx.conn, agent_id)
        self._record(tx, agent, entries.AGENT_UNREGISTERED, reason=reason)
        for lease in store.leases_of(tx.conn, agent_id):
            self._lose(tx, lease, f"agent {agent_id} unregistered")
        tx.after_commit(lambda: self.hub.close(agent_id, "unregistered"))
        tx.after_commit(lambda: self._identity.forget(agent.id))

    # -- for the owners of work -------------------------------------------------------------------------

    def grant(self, tx: Tx, task: Task, agent_id: str, *, send: bool = True) -> None:
        """Lease a task to an agent; with ``send`` it is sent after the commit, else the caller hands it over."""
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
        if send:
            tx.after_commit(lambda: self.hub.dispatch(agent_id, task))

    def withdraw(self, tx: Tx, task_id: str, reason: str) -> LeaseState | None:
        """Take a task back: an offered one at once; a started one is to be stopped by its agent, which reports later.

        Returns the state that the lease was in, ``None`` if there was none.
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

    def stopping(self, conn: Connection, agent_id: str) -> dict[str, str]:
        """The tasks that the agent holds and is to stop, with the reasons."""
        return {one.id: one.stop_reason for one in store.leases_of(conn, agent_id) if one.stop_reason}

    def stop_again(self, tx: Tx, lease: Lease) -> None:
        """Send the agent the request to stop a task that is stored in the lease."""
        tx.after_commit(lambda: self.hub.cancel(lease.agent_id, lease.id, lease.stop_reason, lease.kind))

    def reaches(self, connection: AgentConnection) -> bool:
        """Whether a task granted at this server is delivered over this connection."""
        return self.hub.reaches(connection.server)

    def drain(self, tx: Tx, by: Principal, agent_id: str, draining: bool) -> Agent:
        """Start or end the draining of an agent, which gets no new work meanwhile."""
        agent = require_agent(tx.conn, agent_id)
        if agent.draining != draining:
            store.set_agent(tx.conn, agent_id, draining=draining, updated_at=tx.now)
            if agent.online:
                self._record(tx, agent, entries.AGENT_DRAINING if draining else entries.AGENT_ONLINE, by=by)
            self.wake_after(tx)
        self._identity.audit(tx, by, "agent.drain" if draining else "agent.undrain", agent_id)
        return require_agent(tx.conn, agent_id)

    # -- time -------------------------------------------------------------------------------------------

    def start_grace_period(self, tx: Tx) -> None:
        """This server could not receive for a while: every agent that it judges gets a full lease."""
        store.renew_all_leases(tx.conn, self.server_id, self._expiry(tx))
        store.reset_heartbeats(tx.conn, self.server_id, tx.now)

    def renew_orphaned(self, tx: Tx, agents: Collection[str]) -> None:
        """The server that these agents were connected to is gone: they get a full lease to connect to another."""
        for agent_id in agents:
            store.renew_leases(tx.conn, agent_id, self._expiry(tx))
            store.set_agent(tx.conn, agent_id, last_heartbeat=tx.now)
        self.wake_after(tx)

    def reap(self, tx: Tx, at: int | None = None, heard: Heard = NOBODY) -> None:
        """Take silent agents offline, end overdue leases as lost, unregister ephemeral agents; run every second.

        ``at`` (ms; None: now): the time of the check. ``heard``: what has arrived by then, processed or not. Only
        agents that are connected to this server, or to none, are judged.
        """
        at = tx.now if at is None else at
        before = at - int(self.settings.offline_after * 1000)
        for agent in store.silent_agents(tx.conn, self.server_id, before):
            if (last := heard.last(agent.agent_id, at)) >= before:
                store.set_agent(tx.conn, agent.agent_id, last_heartbeat=last)
                continue
            # Its connection may still be open: with the next heartbeat it is online again.
            self._offline(tx, agent, f"no heartbeat for {self.settings.offline_after:g} s")
        for lease in store.expired_leases(tx.conn, self.server_id, at):
            self._overdue(tx, lease, at, heard)
        for agent_id in store.left_agents(tx.conn, at - int(self.settings.ephemeral * 1000)):
            self.unregister(tx, agent_id, f"ephemeral, and offline for {self.settings.ephemeral:g} s")

    def _overdue(self, tx: Tx, lease: Lease, at: int, heard: Heard) -> None:
        """End a lease whose time is over, unless the agent was heard of and this was not processed."""
        renewed = lease.state is LeaseState.STARTED and lease.claimed
        if renewed or lease.agent_id in heard.unread:
            until = heard.last(lease.agent_id, at) + int(self.settings.lease * 1000)
            if until > at:
                store.renew_lease(tx.conn, lease.id, until)
                return
        self._lose(tx, lease, self._why_overdue(lease))

    def _why_overdue(self, lease: Lease) -> str:
        if lease.state is LeaseState.OFFERED:
            return f"agent {lease.agent_id} did not start it within {self.settings.lease:g} s"
        if not lease.claimed:
            return f"agent {lease.agent_id} has registered again and has not said that it still runs it"
        return f"agent {lease.agent_id} has sent no heartbeat for {self.settings.lease:g} s"

    # -- inner ------------------------------------------------------------------------------------------

    def _lose(self, tx: Tx, lease: Lease, reason: str) -> None:
        store.drop_lease(tx.conn, lease.id)
        self._handlers[lease.kind].lost(tx, lease, reason)
        # It may still run there; what the agent reports later is stale.
        tx.after_commit(lambda: self.hub.cancel(lease.agent_id, lease.id, reason, lease.kind))
        self.wake_after(tx)

    def _held(self, tx: Tx, agent_id: str, task_id: str) -> Lease | None:
        lease = store.lease(tx.conn, task_id)
        return lease if lease is not None and lease.agent_id == agent_id else None

    def _expiry(self, tx: Tx) -> int:
        return tx.now + int(self.settings.lease * 1000)

    def wake_after(self, tx: Tx) -> None:
        """Wake the scheduler after the commit."""
        for wake in self.wakers:
            tx.after_commit(wake)

    def _record(
        self, tx: Tx, before: Agent, type: str, reason: str = "", by: Principal | None = None
    ) -> None:
        """Journal a change of an agent that has been stored; ``before`` is the agent before it."""
        after = store.agent(tx.conn, before.agent_id) or replace(before, online=False)
        body = agent_keys(after, store.held_by(tx.conn, after.agent_id))
        body.update(previous=before.status.value, reason=reason)
        if by is not None:
            body.update(by=by.name, by_id=by.id)
        self._journal.append(tx, entries.agent_stream(before.agent_id), type, entries.FLEET_SCOPE, body)
