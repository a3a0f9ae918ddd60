"""Errors that stop the agent, or a step; each with a stable code."""

from __future__ import annotations


class AgentError(Exception):
    """Base class of errors that end the agent. `exit_code`: exit code of the process."""

    code = "AGENT_ERROR"
    exit_code = 2


class PlatformUnsupported(AgentError):
    """This release has no executor for the requested platform."""

    code = "PLATFORM_UNSUPPORTED"


class SettingsRefused(AgentError):
    """A setting is invalid, or refused by the server."""

    code = "SETTINGS_REFUSED"


class DataDirForeign(AgentError):
    """The data directory belongs to an agent with another id."""

    code = "DATA_DIR_FOREIGN"


class DataDirInUse(AgentError):
    """Another process uses the data directory."""

    code = "DATA_DIR_IN_USE"
    exit_code = 5


class Replaced(AgentError):
    """Another agent has connected with this agent's id."""

    code = "AGENT_REPLACED"
    exit_code = 3


class CredentialRefused(AgentError):
    """The server accepts neither the agent's own token nor its registration token."""

    code = "CREDENTIAL_REFUSED"
    exit_code = 4


class AgentTooOld(AgentError):
    """The server no longer supports this release of the agent."""

    code = "CLIENT_TOO_OLD"
    exit_code = 6


class StepImpossible(Exception):
    """The step cannot be executed on this agent; its result is `failed` with this message."""

    code = "STEP_IMPOSSIBLE"


class StepCancelled(Exception):
    """The step was cancelled before its executor began."""

    code = "STEP_CANCELLED"


class SpoolFull(Exception):
    """The disk is full or failed; the record was not written."""

    code = "SPOOL_WRITE_FAILED"
