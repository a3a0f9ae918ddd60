"""Agents, leases and tasks; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from pilothouse.fleet.bindings import UNBOUND, Binding


class AgentStatus(StrEnum):
    """Whether an agent can be given work."""

    ONLINE = "online"
    OFFLINE = "offline"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """What an agent reports about itself at registration.

    ``slots``: how many tasks it runs at the same time; ``ephemeral``: it is unregistered some minutes after it went
    offline.
    """

    agent_id: str
    name: str = ""
    platform: str = "process"
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    slots: int = 1
    max_sessions: int = 0
    os: str = ""
    arch: str = ""
    version: str = ""
    ip: str = ""
    ephemeral: bool = False

    @property
    def capacity(self) -> Mapping[str, int]:
        """How many units it has of each capacity (:class:`WorkKind`)."""
        return {SLOTS: self.slots, SESSIONS: self.max_sessions}


@dataclass(frozen=True, slots=True)
class Agent:
    """One registered agent. ``id`` is a UUID of ours, ``agent_id`` the name it registered with; times in ms.

    ``registered_by``: the id of the registration token it used, empty if unknown. ``blocked``: slots occupied by
    processes of ended tasks that could not be killed; ``problems``: why it is degraded.
    """

    id: str
    profile: AgentProfile
    online: bool
    draining: bool
    last_heartbeat: int
    offline_since: int
    created_at: int
    updated_at: int
    registered_by: str = ""
    binding: Binding = UNBOUND
    blocked: int = 0
    problems: tuple[str, ...] = ()

    @property
    def agent_id(self) -> str:
        return self.profile.agent_id

    @property
    def status(self) -> AgentStatus:
        """Offline wins over draining; draining survives reconnects."""
        if not self.online:
            return AgentStatus.OFFLINE
        return AgentStatus.DRAINING if self.draining else AgentStatus.ONLINE


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """What agents register with, without its secret. Times in ms.

    ``agents``: names or globs of existing agents that it may register anew, besides those it registered itself.
    """

    id: str
    description: str
    max_uses: int | None
    uses: int
    expires_at: int | None
    revoked: bool
    created_by: str
    created_at: int
    agents: tuple[str, ...] = ()
    binding: Binding = UNBOUND


@dataclass(frozen=True, slots=True)
class Candidate:
    """What decides the work of an agent that is online; ``git``: it can lay out work trees."""

    agent_id: str
    capacity: Mapping[str, int]
    labels: Mapping[str, str]
    git: bool
    draining: bool
    blocked: int
    binding: Binding


SLOTS, SESSIONS = "slots", "sessions"
"""Capacities of agents: an agent has a number of units of each, and a task occupies one unit of its kind's."""


@dataclass(frozen=True, slots=True)
class WorkKind:
    """A kind of work, registered by the package that owns it (:meth:`Fleet.handle`).

    ``capacity``: the capacity that a task of this kind occupies one unit of; with ``until_started`` only until it
    has started.
    """

    name: str
    capacity: str = SLOTS
    until_started: bool = False


MAX_PROBLEMS, MAX_PROBLEM, MAX_BLOCKED = 16, 500, 10_000
"""Limits of what is stored of an agent: number of problems, characters of each, number of blocked slots."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The health that an agent reports."""

    blocked: int = 0
    problems: tuple[str, ...] = ()

    @classmethod
    def reported(cls, blocked: int, problems: Iterable[str]) -> Condition:
        """A report of an agent, cut to the limits; of longer texts one more character shows that they are cut."""
        kept = [text[: MAX_PROBLEM + 1].replace("\x00", "\ufffd") for text in islice(problems, MAX_PROBLEMS)]
        return cls(min(max(blocked, 0), MAX_BLOCKED), tuple(kept))

    def cut(self) -> Condition:
        """As it is stored."""
        return replace(self, problems=tuple(text[:MAX_PROBLEM] for text in self.problems))


class LeaseState(StrEnum):
    """``offered``: handed out, not yet acknowledged as started; ``started``: it may have had effects."""

    OFFERED = "offered"
    STARTED = "started"


@dataclass(frozen=True, slots=True)
class Lease:
    """Work handed to one agent until ``expires_at`` (ms). The id is the task's id, and the fence.

    ``project``: the id of the project it is done for. ``capacity``: what it occupies one unit of, empty if nothing;
    ``stop_reason``: why the agent is to stop it; empty if it is not. ``claimed``: false for what an agent had started
    before it registered anew, until it says that it still runs it.
    """

    id: str
    agent_id: str
    kind: str
    state: LeaseState
    granted_at: int
    expires_at: int
    project: str = ""
    capacity: str = SLOTS
    stop_reason: str = ""
    claimed: bool = True


@dataclass(frozen=True, slots=True)
class AgentConnection:
    """One open connection of an agent, as stored for all servers.

    ``channel``: the name of its contract; an agent has at most one connection per channel. ``server``: the id of the
    server that holds the socket. ``kinds``: the kinds of work it carries. ``number``: the agent's own number for the
    connection, 0 if it does not number them.
    """

    agent_id: str
    channel: str
    id: str
    server: str
    kinds: frozenset[str]
    number: int = 0


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The row that a server process renews; ``renewed_at`` in ms, by its own clock."""

    id: str
    renewed_at: int


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for an agent, of any kind, with all its values inserted.

    ``payload``: what the work is; its type belongs to whoever registered the kind, and the fleet never looks into
    it. ``project``: the id of the project it is done for; ``timeout``: seconds that the agent lets it run, 0: no
    limit; ``secrets``: values by name; ``mask``: further values that must not appear in its output.
    Holds secret values: it exists only between the hand-out and the wire, never in the database or the journal.
    """

    id: str
    kind: str
    payload: object = field(repr=False)
    project: str
    timeout: float = 0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    mask: tuple[str, ...] = field(default=(), repr=False)


class TaskStatus(StrEnum):
    """The status of a task in an agent's report."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class TaskReport:
    """An agent's report on one of its tasks. ``screened``: secrets in its texts are already masked."""

    task_id: str
    status: TaskStatus
    exit_code: int = 0
    error: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    screened: bool = False


class Verdict(StrEnum):
    """The outcome of a report: accepted, accepted before, or about a task that this agent does not hold."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    STALE = "stale"


POLL = "poll"
"""The name of the channel of agents that ask for work (``FetchStepRun``): none is sent over it."""


class AgentChannel(Protocol):
    """One open connection to an agent; each contract has an adapter that implements this. No call blocks.

    ``name``: the name of the contract (``grpc``); ``kinds``: the kinds of work it carries; ``number``: the agent's
    own number for the connection, 0 if it does not number them; ``closed_for``: why it is closed, empty while open.
    """

    agent_id: str
    name: str
    connection_id: str
    kinds: frozenset[str]
    number: int
    closed_for: str

    def dispatch(self, task: Task) -> None:
        """Send work."""

    def cancel(self, task_id: str, reason: str) -> None:
        """Tell the agent to stop a task."""

    def close(self, reason: str) -> None:
        """End the connection; ``replaced`` when a newer one took its place, ``going away`` at shutdown."""
