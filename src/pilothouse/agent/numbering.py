"""The number of a connection: each is higher than all before, over the whole life of a data directory.

By it the server knows a call that was held up on its way from the one that has come after it; see
`pilot-connection` in docs/agents.md.
"""

from __future__ import annotations

from pathlib import Path

import structlog

MAX_NUMBER = 10**15

log = structlog.get_logger("agent.link")


class Numbering:
    """Gives the numbers. A file that is lost or stale costs a few refused attempts: each takes the next number."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "connections"
        self._last = _load(self._path)

    def next(self) -> int:
        """On disk before it is used, as far as the disk takes it."""
        self._last += 1
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            draft.write_text(str(self._last))
            draft.replace(self._path)
        except OSError as error:
            log.warning("agent.number_not_saved", reason=error.strerror)
        return self._last


def _load(path: Path) -> int:
    try:
        kept = path.read_bytes()
    except OSError:
        return 0
    return min(int(kept), MAX_NUMBER) if kept.isdigit() and len(kept) < 20 else 0
