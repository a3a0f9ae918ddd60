"""The fleet's refusals, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal


class FleetError(Refusal):
    """Base of the fleet's errors."""


class AgentNotFound(FleetError):
    """There is no agent with this name."""

    code = "AGENT_NOT_FOUND"

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"No agent with ID '{agent_id}' exists")


class BadCredential(FleetError):
    """Neither a usable registration token nor this agent's own token."""

    code = "AUTH_TOKEN_INVALID"


class BadProfile(FleetError):
    """The profile of the agent is invalid."""

    code = "VALIDATION_FAILED"


class BadMessage(FleetError):
    """A field of an agent's message is out of bounds."""

    code = "VALIDATION_FAILED"


class WrongAgent(FleetError):
    """The message names another agent than the credential."""

    code = "AUTH_INSUFFICIENT_PERMISSIONS"

    def __init__(self, agent_id: str) -> None:
        super().__init__(f"this credential belongs to agent {agent_id}")


class Replaced(FleetError):
    """The agent has connected again."""

    code = "AGENT_REPLACED"

    def __init__(self) -> None:
        super().__init__("this connection is replaced")


class AgentExists(FleetError):
    """The name belongs to an agent that this registration token may not register anew."""

    code = "AGENT_ALREADY_EXISTS"

    def __init__(self, agent_id: str) -> None:
        super().__init__(
            f"an agent named {agent_id!r} exists, and this registration token may not register it anew: remove "
            "that agent, choose another name, or use a token made for this name"
        )


class Overtaken(FleetError):
    """The agent has a connection with a higher number; one that is still there connects with an even higher one."""

    code = "CONNECTION_OVERTAKEN"

    def __init__(self) -> None:
        super().__init__("this connection is overtaken")


class NotItsWork(FleetError):
    """The agent does not hold the work that the call is about."""

    code = "AUTH_INSUFFICIENT_PERMISSIONS"

    def __init__(self, what: str, agent_id: str = "") -> None:
        super().__init__(f"{what} is not with {f'agent {agent_id}' if agent_id else 'this agent'}")
