"""The settings of an agent."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Platform = Literal["process", "docker", "kubernetes"]

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Times in seconds, sizes in bytes.

    Below `data_dir`: `agent.lock`, `credential` (its own token), `spool/` (unacknowledged log lines, events and
    results), `work/` (workspaces of jobs), `objects/` (packs and trees of repositories), `steps/` (scripts of running
    steps), `env/` (variables from `PILOT_ENV`), `artifacts/` (those on their way).
    """

    server: str  # the http(s) URL of the server
    grpc: str  # HOST:PORT
    token: str | None = field(default=None, repr=False)  # a registration token
    agent_id: str
    name: str = ""
    platform: Platform = "process"
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    slots: int = 1
    max_sessions: int = 0
    data_dir: Path
    run_as: str | None = None
    pass_env: Sequence[str] = ()  # variables of its own environment that steps get although they look private
    grpc_ca: Path | None = None
    linger: float | None = None  # without a server and with no step running, end after this; None: never
    ephemeral: bool = False  # the server unregisters it some minutes after it went offline
    workspace_keep: float = 86400  # how long a workspace stays that nobody uses: while a gate is open, say
    spool_limit: int = 1 << 30
    object_cache: int = 10 << 30  # of packs and pristine trees
    max_artifact: int = 5 << 30  # of one artifact, packed and unpacked
    max_checkout: int = 256 << 20  # of one archive or pack; unpacked, eight times as much

    @property
    def secure(self) -> bool:
        return self.grpc_ca is not None or self.server.startswith("https:")

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels, with `os` and `arch` added if they are missing."""
        return {"os": os_name(), "arch": architecture(), **self.labels}


def os_name() -> str:
    return platform.system().lower()


def architecture() -> str:
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)
