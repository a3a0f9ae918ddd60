"""Whether somebody still waits for the result of a job."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


class Interest:
    """Ends once, when the client of a request has gone. Belongs to one event loop."""

    __slots__ = ("_callbacks", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._callbacks: list[Callable[[], None]] = []

    def end(self) -> None:
        """Nobody waits any more."""
        self.ended = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` at the end; call what is returned when that is not needed any more."""
        self._callbacks.append(callback)

        def forget() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return forget


interest: ContextVar[Interest | None] = ContextVar("interest", default=None)
"""That of the request which the current task answers; ``None``: jobs are always done."""
