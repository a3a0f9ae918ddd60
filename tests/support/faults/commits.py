"""A server that kills itself at a chosen commit: right before it, or right after it and before the response.

These are the moments that random kills seldom meet: what was asked is on disk, and who has asked does not know.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from support import server as server_module
from support.faults.fleet import Fleet

PRELUDE = """
import json as _json, os as _os, pathlib as _pathlib, signal as _signal, sys as _sys
from contextlib import contextmanager as _contextmanager
from pilothouse.storage.writer import Writer as _Writer

_file = _pathlib.Path(_json.loads(_sys.argv[1])["data_dir"]).parent / "die-at"
_when, _at = _file.read_text().split() if _file.exists() else ("never", "0")
_commits, _real = 0, _Writer._transaction

def _die(when):
    if when == _when and _commits == int(_at):
        _os.kill(_os.getpid(), _signal.SIGKILL)

@_contextmanager
def _transaction(self):
    global _commits
    with _real(self) as conn:
        yield conn
        _commits += 1
        _die("before")
    _die("after")

_Writer._transaction = _transaction

if _when == "registered":
    from pilothouse.fleet.registry import Registry as _Registry

    _register = _Registry.register

    def _registered(*words, **more):
        global _when
        global _at
        registration = _register(*words, **more)
        _when, _at = "after", _commits + 1
        return registration

    _Registry.register = _registered
"""
MOST = 60
"""Number of commits before a server is killed."""


def mortal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers started from now on are killed at the commit ``doom`` gives."""
    monkeypatch.setattr(server_module, "_PROGRAM", PRELUDE + server_module._PROGRAM)


def doom(directory: Path, when: str, commits: int = 0) -> None:
    """The next server on this directory dies ``before`` or ``after`` its so-manieth commit, or after the one by
    which an agent is ``registered``.
    """
    (directory / "die-at").write_text(f"{when} {commits}")


def until_dead(made: Fleet, timeout: float = 300) -> None:
    """Wait until it has died of itself."""
    process, end = made.server._running(), time.monotonic() + timeout
    while process.poll() is None:
        assert time.monotonic() < end, "it lives for ever: nothing is committed any more"
        time.sleep(0.01)


def revive(made: Fleet, rng: random.Random) -> int:
    """Start it again, doomed anew; returns how often it died before it was even ready."""
    deaths = 0
    while True:
        doom(made.directory, rng.choice(("before", "after")), rng.randrange(1, MOST))
        try:
            made.server.restart()
            return deaths
        except AssertionError:
            if made.server._running().poll() is None:
                raise
            deaths += 1
