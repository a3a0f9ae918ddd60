"""Why an agent does not start or does not go on, and why a step cannot be carried out; each with a stable code."""

from __future__ import annotations


class AgentError(Exception):
    """The agent ends. The message is for people; `exit_code` is the process's."""

    code = "AGENT_ERROR"
    exit_code = 2


class PlatformUnsupported(AgentError):
    """This release has no executor for the platform asked for."""

    code = "PLATFORM_UNSUPPORTED"


class SettingsRefused(AgentError):
    """A setting makes no sense here, or the server does not take it."""

    code = "SETTINGS_REFUSED"


class DataDirForeign(AgentError):
    """The data directory belongs to an agent of another id."""

    code = "DATA_DIR_FOREIGN"


class DataDirInUse(AgentError):
    """Another process works in the data directory."""

    code = "DATA_DIR_IN_USE"
    exit_code = 5


class Replaced(AgentError):
    """Another agent has connected with this agent's identity."""

    code = "AGENT_REPLACED"
    exit_code = 3


class CredentialRefused(AgentError):
    """The server takes neither the agent's own token nor a registration token."""

    code = "CREDENTIAL_REFUSED"
    exit_code = 4


class AgentTooOld(AgentError):
    """The server no longer serves this release of the agent."""

    code = "CLIENT_TOO_OLD"
    exit_code = 6


class StepImpossible(Exception):
    """This step cannot be carried out here; its result is `failed` with this message."""

    code = "STEP_IMPOSSIBLE"


class StepCancelled(Exception):
    """The step was cancelled before its executor began."""

    code = "STEP_CANCELLED"


class SpoolFull(Exception):
    """The disk does not take another record."""

    code = "SPOOL_WRITE_FAILED"
