"""Delivery of commands to the connections of agents. Used on the event loop."""

from __future__ import annotations

from typing import Protocol

from pilothouse.fleet.model import AgentChannel, Task


class Hub(Protocol):
    """Delivers commands to agents, at whichever server holds the agent's connection. No call blocks.

    A command that cannot be delivered is dropped: an offered task is sent again when its agent connects, and a
    request to stop a task is stored in its lease. A connection belongs to the server that it was attached at.
    """

    def attach(self, channel: AgentChannel) -> None:
        """Make this the agent's connection on this channel; an older one is closed as ``replaced``."""

    def detach(self, channel: AgentChannel) -> bool:
        """Remove a connection that has ended; ``False`` if a newer one had replaced it."""

    def channels(self) -> list[AgentChannel]:
        """The connections of this server."""

    def channel(self, agent_id: str, name: str) -> AgentChannel | None:
        """The agent's connection on this channel, if it is one of this server."""

    def reaches(self, server: str) -> bool:
        """Whether commands for connections of that server are delivered."""

    def dispatch(self, agent_id: str, task: Task) -> None:
        """Send work over the agent's newest connection that carries its kind."""

    def cancel(self, agent_id: str, task_id: str, reason: str, kind: str = "") -> None:
        """Have an agent stop a task: sent over every connection that carries this kind (empty: over all)."""

    def close(self, agent_id: str, reason: str) -> None:
        """End an agent's connections."""

    def close_all(self, reason: str) -> None:
        """End every connection of this server (shutdown)."""


class LocalHub:
    """Delivers commands to connections of this server only.

    Each server therefore hands out work only to the agents that are connected to it (:meth:`reaches`).
    """

    def __init__(self, server_id: str) -> None:
        self._server_id = server_id
        self._channels: dict[str, dict[str, AgentChannel]] = {}

    def attach(self, channel: AgentChannel) -> None:
        """See :class:`Hub`."""
        held = self._channels.setdefault(channel.agent_id, {})
        older = held.pop(channel.name, None)
        held[channel.name] = channel  # the newest is the last
        if older is not None:
            older.close("replaced")

    def detach(self, channel: AgentChannel) -> bool:
        """See :class:`Hub`."""
        held = self._channels.get(channel.agent_id, {})
        if held.get(channel.name) is not channel:
            return False
        del held[channel.name]
        if not held:
            del self._channels[channel.agent_id]
        return True

    def channels(self) -> list[AgentChannel]:
        """See :class:`Hub`."""
        return [channel for held in self._channels.values() for channel in held.values()]

    def channel(self, agent_id: str, name: str) -> AgentChannel | None:
        """See :class:`Hub`."""
        return self._channels.get(agent_id, {}).get(name)

    def reaches(self, server: str) -> bool:
        """See :class:`Hub`."""
        return server == self._server_id

    def dispatch(self, agent_id: str, task: Task) -> None:
        """See :class:`Hub`."""
        carrying = self._carrying(agent_id, task.kind)
        if carrying:
            carrying[-1].dispatch(task)

    def cancel(self, agent_id: str, task_id: str, reason: str, kind: str = "") -> None:
        """See :class:`Hub`."""
        for channel in self._carrying(agent_id, kind):
            channel.cancel(task_id, reason)

    def close(self, agent_id: str, reason: str) -> None:
        """See :class:`Hub`."""
        for channel in self._carrying(agent_id, ""):
            channel.close(reason)

    def close_all(self, reason: str) -> None:
        """See :class:`Hub`."""
        for channel in self.channels():
            channel.close(reason)

    def _carrying(self, agent_id: str, kind: str) -> list[AgentChannel]:
        held = self._channels.get(agent_id, {}).values()
        return [channel for channel in held if not kind or kind in channel.kinds]
