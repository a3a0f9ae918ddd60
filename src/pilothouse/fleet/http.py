"""Routes of agents and registration tokens (StreamSpace page, Agent Management; decisions.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import Principal
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Change, Idem, allow, json_response
from pilothouse.fleet import store, token_store
from pilothouse.fleet.connection_store import connections_by_agent
from pilothouse.fleet.errors import AgentNotFound
from pilothouse.fleet.model import Agent, AgentConnection, AgentStatus, RegistrationToken
from pilothouse.fleet.registry import Allowance
from pilothouse.fleet.service import Fleet
from pilothouse.storage import Storage, Tx
from pilothouse.wire.rest import agents as shown
from pilothouse.wire.rest.agents import NewRegistrationToken, PatchAgent
from pilothouse.wire.times import rfc3339


def _time(at: int) -> str | None:
    return rfc3339(at) if at else None


def agent_view(
    agent: Agent, busy: int, now: int, came: RegistrationToken | None = None, connection_id: str = ""
) -> dict[str, Any]:
    """An agent in the shape of the StreamSpace page, with its slots, labels and projects.

    ``came``: the registration token it came with; ``connection_id``: that of its newest connection.
    """
    profile = agent.profile
    capacity = {
        "max_sessions": profile.max_sessions,
        "current_sessions": 0,
        "slots": profile.slots,
        "busy": busy,
        "blocked": agent.blocked,
    }
    return {
        "id": agent.id,
        "agent_id": agent.agent_id,
        "name": profile.name,
        "platform": profile.platform,
        "region": profile.region,
        "status": agent.status.value,
        "draining": agent.draining,
        "degraded": list(agent.problems),
        "capacity": capacity,
        "labels": dict(profile.labels),
        "metadata": {
            **profile.metadata,
            "agent_version": profile.version,
            "os": profile.os,
            "arch": profile.arch,
        },
        "websocket_conn_id": connection_id or None,
        "last_heartbeat": _time(agent.last_heartbeat),
        "uptime_seconds": max(0, (now - agent.created_at) // 1000),
        "sessions": [],
        "projects": agent.binding.projects,
        "allowed_labels": agent.binding.labels,
        "ephemeral": profile.ephemeral,
        "registered_by": _origin(came),
        "created_at": _time(agent.created_at),
        "updated_at": _time(agent.updated_at),
    }


def _origin(token: RegistrationToken | None) -> dict[str, str] | None:
    if token is None:
        return None
    return {"token_id": token.id, "description": token.description, "created_by": token.created_by}


def token_view(token: RegistrationToken) -> dict[str, Any]:
    """A registration token without its secret."""
    return {
        "id": token.id,
        "description": token.description,
        "max_uses": token.max_uses,
        "uses": token.uses,
        "agents": token.agents,
        "projects": token.binding.projects,
        "labels": token.binding.labels,
        "expires_at": _time(token.expires_at or 0),
        "revoked": token.revoked,
        "created_by": token.created_by,
        "created_at": _time(token.created_at),
    }


router = APIRouter(prefix="/api/v1/agents", tags=["agents"])
tokens = APIRouter(prefix="/api/v1/registration-tokens", tags=["agents"])

FleetService = Annotated[Fleet, provided(Fleet)]


@router.get("", dependencies=[allow("agent.read")], summary="List agents", responses=answer(shown.AgentList))
async def list_agents(
    database: Database,
    paging: Paged,
    platform: str | None = None,
    status: Literal["online", "offline", "draining"] | None = None,
    region: str | None = None,
) -> Response:
    """All agents by name, filtered and paged."""
    everyone = await _everyone(database)
    wanted = [
        agent
        for agent in everyone.agents
        if platform in (None, agent.profile.platform)
        and status in (None, agent.status.value)
        and region in (None, agent.profile.region)
    ]
    views = [everyone.view(agent) for agent in paging.cut(wanted)]
    return json_response(paginated("agents", views, paging, len(wanted)))


@router.get(
    "/stats",
    dependencies=[allow("agent.read")],
    summary="Agent statistics",
    responses=answer(shown.AgentStats),
)
async def get_agent_stats(database: Database) -> Response:
    """Counts and capacity over all agents."""
    agents = (await _everyone(database)).agents
    platforms: dict[str, int] = {}
    for agent in agents:
        platforms[agent.profile.platform] = platforms.get(agent.profile.platform, 0) + 1
    room = sum(agent.profile.max_sessions for agent in agents)
    return json_response(
        {
            "total_agents": len(agents),
            "online_agents": sum(a.status is AgentStatus.ONLINE for a in agents),
            "offline_agents": sum(a.status is AgentStatus.OFFLINE for a in agents),
            "draining_agents": sum(a.status is AgentStatus.DRAINING for a in agents),
            "by_platform": platforms,
            "total_capacity": {"max_sessions": room, "current_sessions": 0},
            "utilization": {"percentage": 0.0, "sessions_available": room},
        }
    )


@router.get(
    "/{agent_id}",
    dependencies=[allow("agent.read")],
    summary="Show an agent",
    responses=answer(shown.Agent) | errors("AGENT_NOT_FOUND"),
)
async def get_agent(agent_id: str, database: Database) -> Response:
    """One agent. Errors: ``AGENT_NOT_FOUND``."""
    everyone = await _everyone(database)
    found = next((agent for agent in everyone.agents if agent.agent_id == agent_id), None)
    if found is None:
        raise AgentNotFound(agent_id)
    return json_response(everyone.view(found))


@router.patch(
    "/{agent_id}",
    dependencies=[allow("agent.control")],
    summary="Drain an agent, or give it work again",
    responses=answer(shown.AgentState) | errors("AGENT_NOT_FOUND"),
)
async def update_agent(agent_id: str, body: PatchAgent, change: Change, fleet: FleetService) -> Response:
    """Draining survives reconnects. Errors: ``AGENT_NOT_FOUND``."""
    draining = body.status == "draining"
    agent = await change(lambda tx, by: fleet.drain(tx, by, agent_id, draining))
    view = {"id": agent.id, "agent_id": agent_id, "status": agent.status.value}
    return json_response({**view, "draining": agent.draining, "updated_at": _time(agent.updated_at)})


@router.delete(
    "/{agent_id}",
    dependencies=[allow("agent.control")],
    status_code=204,
    summary="Remove an agent",
    responses=errors("AGENT_NOT_FOUND"),
)
async def delete_agent(agent_id: str, change: Change, fleet: FleetService) -> Response:
    """Its credential ends and what it held is lost. Errors: ``AGENT_NOT_FOUND``."""
    await change(lambda tx, by: fleet.remove(tx, by, agent_id))
    return Response(status_code=204)


@tokens.post(
    "",
    dependencies=[allow("registration_token.create")],
    status_code=201,
    summary="Create a registration token",
    responses=answer(shown.CreatedRegistrationToken, 201) | errors("QUOTA_EXCEEDED"),
)
async def create_registration_token(
    idem: Idem, fleet: FleetService, body: NewRegistrationToken | None = None
) -> Response:
    """The token is shown this once. Errors: ``VALIDATION_FAILED``, also for a project that is not there;
    ``QUOTA_EXCEEDED``."""
    wanted = body or NewRegistrationToken()
    allows = Allowance(agents=wanted.agents or (), projects=wanted.projects, labels=wanted.labels)

    def use_case(tx: Tx, by: Principal) -> dict[str, Any]:
        made = fleet.registry.create_registration_token(
            tx,
            by,
            description=wanted.description,
            max_uses=wanted.max_uses,
            expires_in=wanted.expires_in,
            allows=allows,
        )
        return {**made, "expires_at": _time(int(made["expires_at"] or 0))}

    return await idem(
        use_case, 201, permit=lambda _, by: require(by, "registration_token.create"), shown_once="token"
    )


@tokens.get(
    "",
    dependencies=[allow("registration_token.create")],
    summary="List registration tokens",
    responses=answer(shown.RegistrationTokenList),
)
async def list_registration_tokens(database: Database, paging: Paged) -> Response:
    """Newest first, also those that are revoked, without their secrets."""
    tokens, total = await database.read(
        lambda conn: token_store.list_registration_tokens(conn, page=paging.page, limit=paging.limit)
    )
    views = [token_view(token) for token in tokens]
    return json_response(paginated("registration_tokens", views, paging, total))


@tokens.delete(
    "/{token_id}",
    dependencies=[allow("registration_token.create")],
    status_code=204,
    summary="Revoke a registration token",
    responses=errors("TOKEN_NOT_FOUND"),
)
async def revoke_registration_token(token_id: str, change: Change, fleet: FleetService) -> Response:
    """Agents that have registered with it stay. Errors: ``TOKEN_NOT_FOUND``."""
    if not await change(lambda tx, by: fleet.registry.revoke_registration_token(tx, by, token_id)):
        raise Refusal.of("TOKEN_NOT_FOUND", "No registration token with this id exists")
    return Response(status_code=204)


@dataclass(frozen=True, slots=True)
class _Everyone:
    """All agents, and by their names what is shown beside them."""

    agents: list[Agent]
    held: dict[str, int]
    tokens: dict[str, RegistrationToken]
    connections: dict[str, list[AgentConnection]]

    def view(self, agent: Agent) -> dict[str, Any]:
        connections = self.connections.get(agent.agent_id)
        return agent_view(
            agent,
            self.held.get(agent.agent_id, 0),
            int(datetime.now(UTC).timestamp() * 1000),
            self.tokens.get(agent.registered_by),
            connections[-1].id if connections else "",
        )


async def _everyone(database: Storage) -> _Everyone:
    def read(conn: Connection) -> _Everyone:
        agents, held = store.all_agents(conn), store.held_by_agent(conn)
        return _Everyone(agents, held, token_store.origins(conn), connections_by_agent(conn))

    return await database.read(read)
