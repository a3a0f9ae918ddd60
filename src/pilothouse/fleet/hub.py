"""Which agents are connected to this server right now. Lives on the event loop."""

from __future__ import annotations

from pilothouse.fleet.model import AgentChannel, Task


class Hub:
    """The live channels, one to an agent: a newer connection replaces the older."""

    def __init__(self) -> None:
        self._channels: dict[str, AgentChannel] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def attach(self, channel: AgentChannel) -> None:
        """Make this the agent's channel; an older one is closed as replaced."""
        older = self._channels.get(channel.agent_id)
        self._channels[channel.agent_id] = channel
        if older is not None:
            older.close("replaced")

    def detach(self, channel: AgentChannel) -> bool:
        """Forget a channel that ended; ``False`` if a newer one had taken its place."""
        if self._channels.get(channel.agent_id) is not channel:
            return False
        del self._channels[channel.agent_id]
        return True

    def channel(self, agent_id: str) -> AgentChannel | None:
        """The agent's connection to this server, if there is one."""
        return self._channels.get(agent_id)

    def connected(self, agent_id: str) -> bool:
        """Whether the agent can be spoken to from here."""
        return agent_id in self._channels

    def dispatch(self, agent_id: str, task: Task) -> None:
        """Send work. To an agent that is away it goes when it is back: its lease is still on offer."""
        channel = self._channels.get(agent_id)
        if channel is not None:
            channel.dispatch(task)

    def cancel(self, agent_id: str, task_id: str, reason: str) -> None:
        """Tell an agent to stop a task; one that is away is told when it is back."""
        channel = self._channels.get(agent_id)
        if channel is not None:
            channel.cancel(task_id, reason)

    def close(self, agent_id: str, reason: str) -> None:
        """End an agent's connection, if it has one here."""
        channel = self._channels.get(agent_id)
        if channel is not None:
            channel.close(reason)

    def close_all(self, reason: str) -> None:
        """End every connection (shutdown)."""
        for channel in list(self._channels.values()):
            channel.close(reason)
