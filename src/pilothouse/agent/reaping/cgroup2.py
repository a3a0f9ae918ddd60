"""Control groups of version 2 (Linux 5.14 or later, for `cgroup.kill`).

Available to root, and if the agent's group is delegated to it (systemd: `Delegate=yes`).
"""

from __future__ import annotations

from pilothouse.agent.reaping.groups import Directory, set_value


class Cgroup2(Directory):
    """One group. `cgroup.kill` kills processes of all users, and no fork escapes it."""

    def kill(self) -> None:
        if self.populated():
            set_value(self._directory / "cgroup.kill", "1")

    def populated(self) -> bool:
        try:
            events = (self._directory / "cgroup.events").read_text()
        except OSError:
            return False
        return "populated 1" in events.splitlines()
