"""Agents, leases and tasks; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

from pilothouse.fleet.bindings import UNBOUND, Binding


class AgentStatus(StrEnum):
    """What an agent is to those who would give it work."""

    ONLINE = "online"
    OFFLINE = "offline"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AgentProfile:
    """What an agent says of itself when it registers.

    ``slots``: tasks it runs at once; ``ephemeral``: it is unregistered some minutes after it went offline.
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
        """How many tasks it takes at once, by what they take (:class:`WorkKind`)."""
        return {SLOTS: self.slots, SESSIONS: self.max_sessions}


@dataclass(frozen=True, slots=True)
class Agent:
    """One registered agent. ``id`` is ours (a UUID), ``agent_id`` the name it goes by; times in ms.

    ``registered_by``: the id of the registration token it came with, empty where that is not known.
    ``blocked``: slots taken by processes of ended tasks that could not be killed; ``problems``: why it is degraded.
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


SLOTS, SESSIONS = "slots", "sessions"
"""What an agent has a number of, and work takes one of: slots for tasks, desktop sessions."""


@dataclass(frozen=True, slots=True)
class WorkKind:
    """A kind of work, which a layer above registers (:meth:`Fleet.handle`).

    ``capacity`` names what a task of this kind takes one of (:data:`SLOTS`, :data:`SESSIONS`); with
    ``until_started`` only as long as it has not started.
    """

    name: str
    capacity: str = SLOTS
    until_started: bool = False


MAX_PROBLEMS, MAX_PROBLEM, MAX_BLOCKED = 16, 500, 10_000
"""How many problems are kept of an agent, how many characters of each, and how many blocked slots."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How well an agent says it is; within bounds, whatever it says."""

    blocked: int = 0
    problems: tuple[str, ...] = ()

    @classmethod
    def said(cls, blocked: int, problems: Iterable[str]) -> Condition:
        """What an agent says, cut to what is kept."""
        kept = [text[:MAX_PROBLEM].replace("\x00", "\ufffd") for text in islice(problems, MAX_PROBLEMS)]
        return cls(min(max(blocked, 0), MAX_BLOCKED), tuple(kept))


class LeaseState(StrEnum):
    """``offered``: handed out, not yet acknowledged as started; ``started``: it may have had effects."""

    OFFERED = "offered"
    STARTED = "started"


@dataclass(frozen=True, slots=True)
class Lease:
    """Work handed to one agent until ``expires_at`` (ms). The id is the task's id, and the fence.

    ``project``: the id of the project it is done for. ``capacity``: what it takes one of, empty if nothing;
    ``stop_reason``: why the agent is to stop it, if it is.
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


@dataclass(frozen=True, slots=True)
class AgentConnection:
    """One live connection of an agent, as all servers know it.

    ``channel``: over which contract it speaks; an agent has at most one of each. ``server``: the id of the server
    that holds the socket. ``kinds``: the kinds of work it carries. ``number``: the agent's own count of its
    connections, 0 if it does not count.
    """

    agent_id: str
    channel: str
    id: str
    server: str
    kinds: frozenset[str]
    number: int = 0


@dataclass(frozen=True, slots=True)
class ServerLife:
    """One server process as it last said that it lives; ``renewed_at`` in ms, by its own clock."""

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
    """What an agent reports of a task."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One report of an agent on one of its tasks."""

    task_id: str
    status: TaskStatus
    exit_code: int = 0
    error: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)


class Verdict(StrEnum):
    """What became of a report: taken, known already, or of a task that is no longer this agent's."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    STALE = "stale"


class AgentChannel(Protocol):
    """One live connection to an agent, whatever contract it speaks. All calls return at once.

    ``name`` names the contract (``grpc``); ``kinds``: the kinds of work it carries; ``number``: the agent's own count
    of its connections, 0 if it does not count.
    """

    agent_id: str
    name: str
    connection_id: str
    kinds: frozenset[str]
    number: int

    def dispatch(self, task: Task) -> None:
        """Send work."""

    def cancel(self, task_id: str, reason: str) -> None:
        """Tell the agent to stop a task."""

    def close(self, reason: str) -> None:
        """End the connection; ``replaced`` when a newer one took its place, ``going away`` at shutdown."""
