"""Connection numbers, which increase for the lifetime of a data directory.

They let the server recognize a delayed call of an older connection; see `pilot-connection` in docs/agents.md.
"""

from __future__ import annotations

from pathlib import Path

import structlog

MAX_NUMBER = 10**15

log = structlog.get_logger("agent.link")


class Numbering:
    """Generates the numbers. If the file is lost or restored, connections are refused until the numbers catch up."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "connections"
        self._last = _load(self._path)

    def next(self) -> int:
        """The next number; written to disk before it is used, if possible."""
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
