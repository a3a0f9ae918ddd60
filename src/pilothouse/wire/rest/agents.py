"""Agents and registration tokens (StreamSpace page, "Agent Management"; decisions.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from pilothouse.wire.bounds import MAX_ENTRIES, MAX_ENTRY
from pilothouse.wire.rest.base import Answer, Count, Id, Pagination, Time
from pilothouse.wire.rest.bodies import Body

AgentStatus = Literal["online", "offline", "draining"]

Entry = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=MAX_ENTRY)]
Entries = Annotated[list[Entry], Field(max_length=MAX_ENTRIES)]


class NewRegistrationToken(Body):
    """What agents may register with; ``expires_in`` in seconds.

    ``agents``: names or globs of existing agents that may be registered anew; ``projects``: names or ids of the
    only ones whose work the agents get; ``labels``: ``KEY`` or ``KEY=VALUE``, the only ones that agents may have.
    """

    description: str = Field(default="", max_length=200)
    max_uses: int | None = Field(default=None, ge=1, le=1_000_000)
    expires_in: int | None = Field(default=None, ge=1, le=10 * 365 * 86400)
    agents: Entries | None = None
    projects: Entries | None = None
    labels: Entries | None = None

    example: ClassVar[Any] = {
        "description": "build hosts",
        "max_uses": 5,
        "projects": ["shop"],
        "labels": ["zone=a"],
    }


class PatchAgent(Body):
    """``draining``: no new work; ``online``: work again."""

    status: Literal["online", "draining"]

    example: ClassVar[Any] = {"status": "draining"}


class Capacity(Answer):
    """``busy`` of ``slots`` are in use, ``blocked`` of them cannot be."""

    max_sessions: Count
    current_sessions: Count
    slots: Count
    busy: Count
    blocked: Count


class Origin(Answer):
    """The registration token that an agent came with."""

    token_id: Id
    description: str
    created_by: str


class Agent(Answer):
    """An agent; ``agent_id`` is its name.

    ``degraded``: what does not work on its machine; ``projects``: ids of the projects whose work it gets, null: all;
    ``allowed_labels``: those that it may have, null: any; ``ephemeral``: it is removed after it went offline.
    """

    id: Id
    agent_id: str
    name: str
    platform: str
    region: str
    status: AgentStatus
    draining: bool
    degraded: list[str]
    capacity: Capacity
    labels: dict[str, str]
    metadata: dict[str, Any]
    websocket_conn_id: str | None
    last_heartbeat: Time | None
    uptime_seconds: Count
    sessions: list[str]
    projects: list[str] | None
    allowed_labels: list[str] | None
    ephemeral: bool
    registered_by: Origin | None
    created_at: Time
    updated_at: Time

    example: ClassVar[Any] = {
        "id": "550e8400-e29b-41d4-a716-446655440000",
        "agent_id": "local",
        "name": "local",
        "platform": "process",
        "region": "",
        "status": "online",
        "draining": False,
        "degraded": [],
        "capacity": {"max_sessions": 0, "current_sessions": 0, "slots": 4, "busy": 1, "blocked": 0},
        "labels": {"local": "true", "os": "linux", "arch": "amd64"},
        "metadata": {"agent_version": "0.1.0", "os": "linux", "arch": "amd64"},
        "websocket_conn_id": "019a7b1e-5b0a-7c3e-9a51-0c4b8f1f2a10",
        "last_heartbeat": "2026-01-10T14:23:45Z",
        "uptime_seconds": 3600,
        "sessions": [],
        "projects": None,
        "allowed_labels": None,
        "ephemeral": False,
        "registered_by": {
            "token_id": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
            "description": "build hosts",
            "created_by": "admin",
        },
        "created_at": "2026-01-10T13:23:45Z",
        "updated_at": "2026-01-10T14:23:45Z",
    }


class AgentList(Answer):
    """A page of agents, by name."""

    agents: list[Agent]
    pagination: Pagination

    example: ClassVar[Any] = {"agents": [Agent.example], "pagination": Pagination.example}


class AgentState(Answer):
    """The result of draining an agent, or of giving it work again."""

    id: Id
    agent_id: str
    status: AgentStatus
    draining: bool
    updated_at: Time

    example: ClassVar[Any] = {
        "id": Agent.example["id"],
        "agent_id": "local",
        "status": "draining",
        "draining": True,
        "updated_at": "2026-01-10T14:30:00Z",
    }


class TotalCapacity(Answer):
    """Sessions of all agents."""

    max_sessions: Count
    current_sessions: Count


class Utilization(Answer):
    """How much of the capacity for sessions is in use."""

    percentage: Annotated[float, Field(ge=0)]
    sessions_available: int


class AgentStats(Answer):
    """Counts and capacity over all agents."""

    total_agents: Count
    online_agents: Count
    offline_agents: Count
    draining_agents: Count
    by_platform: dict[str, int]
    total_capacity: TotalCapacity
    utilization: Utilization

    example: ClassVar[Any] = {
        "total_agents": 3,
        "online_agents": 1,
        "offline_agents": 1,
        "draining_agents": 1,
        "by_platform": {"process": 1, "docker": 2},
        "total_capacity": {"max_sessions": 20, "current_sessions": 0},
        "utilization": {"percentage": 0.0, "sessions_available": 20},
    }


class RegistrationToken(Answer):
    """A registration token without its secret; ``projects`` are ids, null: all; ``max_uses`` null: no limit."""

    id: Id
    description: str
    max_uses: Count | None
    uses: Count
    agents: list[str]
    projects: list[str] | None
    labels: list[str] | None
    expires_at: Time | None
    revoked: bool
    created_by: str
    created_at: Time

    example: ClassVar[Any] = {
        "id": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "description": "build hosts",
        "max_uses": 5,
        "uses": 1,
        "agents": ["build-*"],
        "projects": ["01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c"],
        "labels": ["zone=a"],
        "expires_at": None,
        "revoked": False,
        "created_by": "admin",
        "created_at": "2026-01-10T13:20:00Z",
    }


class RegistrationTokenList(Answer):
    """A page of registration tokens, newest first."""

    registration_tokens: list[RegistrationToken]
    pagination: Pagination

    example: ClassVar[Any] = {
        "registration_tokens": [RegistrationToken.example],
        "pagination": Pagination.example,
    }


class CreatedRegistrationToken(Answer):
    """A new registration token: ``token`` is its secret, shown this once (else ``secret_omitted``)."""

    id: Id
    token: str = ""
    secret_omitted: bool = False
    expires_at: Time | None

    example: ClassVar[Any] = {
        "id": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "token": "pilotreg_4f1c…",
        "expires_at": None,
    }
