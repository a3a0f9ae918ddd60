"""The rows: what an attack is called, who makes it, and what the server has to say to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from faults.neighbours.ground import Ground

Wave = Callable[[Ground], Awaitable[None]]

ROOM = 30.0
"""MiB that the server may keep after an attack."""
CALLERS = ("anonymous", "viewer", "user", "agent", "step", "slow network")


@dataclass(frozen=True)
class Abuse:
    """``wave`` is called again and again until a phase is over; ``prepare`` once before the first.

    ``refused``: the beginnings of answers of which at least one must be seen; none: what it does is legal, and is to be
    answered. ``cut``: the server may also close the connection. ``after`` looks at what must come of it in the end.
    ``room``: MiB that the server may keep at first, since requests still wait in bounded queues.
    """

    name: str
    caller: str
    wave: Wave
    refused: tuple[str, ...] = ()
    cut: bool = False
    prepare: Wave | None = None
    after: Wave | None = None
    room: float = ROOM


ABUSES: dict[str, Abuse] = {}


def abuse(
    name: str,
    caller: str,
    refused: tuple[str, ...] = (),
    *,
    cut: bool = False,
    prepare: Wave | None = None,
    after: Wave | None = None,
    room: float = ROOM,
) -> Callable[[Wave], Wave]:
    """Enter a function in the table."""
    assert caller in CALLERS, caller
    assert name not in ABUSES, name

    def enter(wave: Wave) -> Wave:
        ABUSES[name] = Abuse(name, caller, wave, refused, cut, prepare, after, room)
        return wave

    return enter
