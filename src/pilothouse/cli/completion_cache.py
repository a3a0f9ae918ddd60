"""What a server was last known to have, by kind, for completion: a file for each server or saved login."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRESH = 10.0
"""Seconds for which an answer counts as new."""

_ASKED = 10.0
"""Seconds for which nobody asks again."""


@dataclass(frozen=True, slots=True)
class Cache:
    """``server`` and ``context`` as given on the command line; empty for those in force."""

    server: str
    context: str
    path: Path

    @classmethod
    def of(cls, server: str, context: str) -> Cache:
        """The cache for a command line with these options."""
        from hashlib import sha256

        env = os.environ.get
        named = (server or env("PILOT_SERVER", ""), context or env("PILOT_CONTEXT", ""), _config_home())
        key = sha256("\0".join(named).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return cls(server, context, _cache_home() / f"completion-{key}.json")

    def contexts(self) -> Iterator[tuple[str, str]]:
        """Saved logins; they are a file of their own."""
        from pilothouse.cli.context import ContextStore

        with contextlib.suppress(Exception):
            yield from ((each.name, each.server) for each in ContextStore().load().all.values())

    def values(self, kind: str) -> list[tuple[str, str]]:
        """What is known now; starts to find out anew where that is old."""
        found: dict[str, Any] = {}
        age = FRESH
        with contextlib.suppress(OSError, ValueError):
            age = time.time() - self.path.stat().st_mtime
            found = json.loads(self.path.read_text("utf-8"))
        if not 0 <= age < FRESH:
            self.renew()
        listed = found.get(kind) if isinstance(found, dict) else None
        return [
            (str(pair[0]), str(pair[1]))
            for pair in (listed if isinstance(listed, list) else [])
            if isinstance(pair, list) and len(pair) == 2
        ]

    def renew(self) -> None:
        """Start a process that asks the server, unless somebody did so just now; it outlives us."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            asked = self.path.with_suffix(".asked")
            with contextlib.suppress(FileNotFoundError):
                if 0 <= time.time() - asked.stat().st_mtime < _ASKED:
                    return
            asked.touch(mode=0o600)
            self._spawn()

    def _spawn(self) -> None:
        command = (sys.executable, "-m", "pilothouse.cli.refresh", self.server, self.context)
        environment = {name: value for name, value in os.environ.items() if name != "_PILOT_COMPLETE"}
        # Nothing of the shell's: it waits until everybody has let go of its pipe.
        nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        os.posix_spawn(sys.executable, command, environment, file_actions=nowhere, setsid=True)

    def save(self, found: dict[str, list[tuple[str, str]]]) -> None:
        """Replace what is known."""
        import tempfile

        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".completion-", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(found, file)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise


def _config_home() -> str:
    return os.environ.get("PILOT_CONFIG_HOME", "")


def _cache_home() -> Path:
    if home := _config_home():
        return Path(home) / "cache"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pilothouse"
