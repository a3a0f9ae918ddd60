"""Steps in control groups of version 1, of the freezer: for root on older machines.

Nothing kills such a group at once. But what is frozen cannot fork: freeze it, kill each, and let them thaw to die.
"""

from __future__ import annotations

import signal
import time

from pilothouse.agent.reaping.groups import Directory, set_value
from pilothouse.agent.reaping.processes import signal_to

FREEZE_WITHIN = 0.5  # seconds; what waits in the kernel is not frozen, nor could it fork
_PAUSE = 0.002  # seconds


class Cgroup1(Directory):
    """One group of the freezer."""

    def kill(self) -> None:
        if not self.populated():
            return
        try:
            self._freeze()
            for pid in self.pids():
                signal_to(pid, signal.SIGKILL)
        finally:
            for directory in self.tree():  # the step may have frozen a group of its own in it
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
