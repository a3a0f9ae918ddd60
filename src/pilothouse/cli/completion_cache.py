"""Cache of resource names by kind, for completion: one file per server or context.

Keeps its imports small; see :mod:`pilothouse.cli.completion`.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FRESH = 10.0
"""Seconds until cached values are stale."""

_ASKED = 10.0
"""Minimum seconds between two refreshes."""


class Cache:
    """The cache of one server. ``server`` and ``context`` as given on the command line; empty for the current ones.

    ``path`` is the cache file; the mtime of ``asked`` is the time of the last refresh.
    """

    def __init__(self, server: str = "", context: str = "") -> None:
        from hashlib import sha256

        env = os.environ.get
        named = (server or env("PILOT_SERVER", ""), context or env("PILOT_CONTEXT", ""), _config_home())
        key = sha256("\0".join(named).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._server, self._context = server, context
        self._directory = _cache_home()
        self.path = os.path.join(self._directory, f"completion-{key}.json")
        self.asked = os.path.join(self._directory, f"completion-{key}.asked")

    def contexts(self) -> list[tuple[str, str]]:
        """Names of saved contexts, from ``contexts.toml``."""
        from pilothouse.cli.context import ContextStore

        try:
            return [(each.name, each.server) for each in ContextStore().load().all.values()]
        except Exception:
            return []

    def values(self, kind: str) -> list[tuple[str, str]]:
        """The cached values; starts a refresh if they are stale."""
        found: Any = None
        age = FRESH
        try:
            age = time.time() - os.stat(self.path).st_mtime
            with open(self.path, encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            pass
        if not 0 <= age < FRESH:
            self.renew()
        listed = found.get(kind) if isinstance(found, dict) else None
        return [
            (str(pair[0]), str(pair[1]))
            for pair in (listed if isinstance(listed, list) else [])
            if isinstance(pair, list) and len(pair) == 2
        ]

    def renew(self) -> None:
        """Start a detached refresh process, unless one ran recently."""
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            if not self._refreshed_recently():
                os.close(os.open(self.asked, os.O_WRONLY | os.O_CREAT, 0o600))
                os.utime(self.asked)
                self._spawn()
        except OSError:
            pass

    def _refreshed_recently(self) -> bool:
        try:
            return 0 <= time.time() - os.stat(self.asked).st_mtime < _ASKED
        except FileNotFoundError:
            return False

    def _spawn(self) -> None:
        command = (sys.executable, "-m", "pilothouse.cli.refresh", self._server, self._context)
        environment = {name: value for name, value in os.environ.items() if name != "_PILOT_COMPLETE"}
        # Inherits no descriptor: the shell waits until all writers of its pipe have closed it.
        nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        os.posix_spawn(sys.executable, command, environment, file_actions=nowhere, setsid=True)

    def save(self, found: dict[str, list[tuple[str, str]]]) -> None:
        """Replace the cached values."""
        import tempfile

        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".completion-", dir=self._directory)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(found, file)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise


def _config_home() -> str:
    return os.environ.get("PILOT_CONFIG_HOME", "")


def _cache_home() -> str:
    if home := _config_home():
        return os.path.join(home, "cache")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "pilothouse")
