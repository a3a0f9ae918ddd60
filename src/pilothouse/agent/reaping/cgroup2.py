"""Steps in control groups of version 2 (Linux 5.14 or later, for `cgroup.kill`), where the agent may make some.

That is the case for root, and where the agent's own group is delegated to it (systemd: `Delegate=yes`).
"""

from __future__ import annotations

from pilothouse.agent.reaping.groups import Directory, set_value


class Cgroup2(Directory):
    """One group. `cgroup.kill` reaches processes of any user, and no fork escapes it."""

    def kill(self) -> None:
        if self.populated():
            set_value(self._directory / "cgroup.kill", "1")

    def populated(self) -> bool:
        try:
            events = (self._directory / "cgroup.events").read_text()
        except OSError:
            return False
        return "populated 1" in events.splitlines()
