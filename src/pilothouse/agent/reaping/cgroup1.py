"""Control groups of version 1 (freezer), for root on older machines.

Such a group cannot be killed atomically, but frozen processes cannot fork: freeze the group, send SIGKILL to each
process, then thaw them.
"""

from __future__ import annotations

import signal
import time

from pilothouse.agent.reaping.groups import Directory, set_value
from pilothouse.agent.reaping.processes import signal_to

FREEZE_WITHIN = 0.5  # seconds; processes that wait in the kernel are not frozen, but cannot fork either
_PAUSE = 0.002  # seconds


class Cgroup1(Directory):
    """One freezer group."""

    def kill(self) -> None:
        if not self.populated():
            return
        try:
            self._freeze()
            for pid in self.pids():
                signal_to(pid, signal.SIGKILL)
        finally:
            for directory in self.tree():  # the step may have created and frozen a subgroup
                set_value(directory / "freezer.state", "THAWED")

    def _freeze(self) -> None:
        deadline = time.monotonic() + FREEZE_WITHIN
        set_value(self._directory / "freezer.state", "FROZEN")
        while self._state() == "FREEZING" and time.monotonic() < deadline:
            time.sleep(_PAUSE)

    def _state(self) -> str:
        try:
            return (self._directory / "freezer.state").read_text().strip()
        except OSError:
            return ""

    def populated(self) -> bool:
        return bool(self.pids())
