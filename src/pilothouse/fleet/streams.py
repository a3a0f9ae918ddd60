"""Agent entries as messages of ``stream.v1`` (arcentra-wire.txt); stateless."""

from __future__ import annotations

from typing import Any

from pilothouse.fleet.model import Agent
from pilothouse.journal import Entry
from pilothouse.wire import entries
from pilothouse.wire.stream.v1 import stream_pb2 as pb

AGENT_STATUS = {
    "online": pb.AGENT_STATUS_ONLINE,
    "offline": pb.AGENT_STATUS_OFFLINE,
    "draining": pb.AGENT_STATUS_BUSY,  # it takes no new work, which is all the contract has a word for
}
PRESENCE = frozenset(
    {
        entries.AGENT_REGISTERED,
        entries.AGENT_ONLINE,
        entries.AGENT_OFFLINE,
        entries.AGENT_DRAINING,
        entries.AGENT_UPDATED,
        entries.AGENT_UNREGISTERED,
    }
)
"""The types of entries that :func:`agent_status` shows."""


def agent_status(entry: Entry) -> pb.StreamAgentStatusResponse | None:
    """What has become of an agent."""
    if entry.type not in PRESENCE:
        return None
    body = entry.body
    return _message(body, body.get("previous", ""), entry.at)


def present_agent(keys: dict[str, Any], agent: Agent) -> pb.StreamAgentStatusResponse:
    """An agent as it is now; ``keys`` are those of its entries. There is no previous status."""
    since = agent.last_heartbeat if agent.online else agent.offline_since
    return _message(keys, "", since)


def _message(body: dict[str, Any], previous: str, at: int) -> pb.StreamAgentStatusResponse:
    state = body.get("status", "")  # entries of the first release say less
    return pb.StreamAgentStatusResponse(
        agent_id=body["agent_id"],
        hostname=body.get("hostname") or body.get("name", ""),
        ip=body.get("ip", ""),
        status=AGENT_STATUS.get(state, pb.AGENT_STATUS_UNSPECIFIED),
        previous_status=AGENT_STATUS.get(previous, pb.AGENT_STATUS_UNSPECIFIED),
        timestamp=at // 1000,
        running_step_runs_count=body.get("busy", 0),
        max_concurrent_step_runs=body.get("slots", 0),
        last_heartbeat=body.get("last_heartbeat", 0) // 1000,
        labels=body.get("labels", {}),
        state=state,
        reason=body.get("reason", ""),
    )
