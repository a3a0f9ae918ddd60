"""Data directory and context name of ``pilot up``. Contexts of other running servers are not changed."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pilothouse.cli.context import Context, Contexts, ContextStore
from pilothouse.wire.proxies import is_loopback

LOCAL = "local"
DATA_DIR = ".pilothouse"
_PROBE = 1.0
"""Timeout of a connection attempt, in seconds."""


def nearest_data_dir(start: Path) -> Path:
    """The nearest ``.pilothouse`` with a server's data in this directory or its parents within the git work tree.

    Directories of other users are ignored. Defaults to ``.pilothouse`` in this directory.
    """
    above = [start, *start.parents]
    top = next((at for at, directory in enumerate(above) if (directory / ".git").exists()), 0)
    for directory in above[: top + 1]:
        if _is_mine(directory / DATA_DIR):
            return directory / DATA_DIR
    return start / DATA_DIR


def _is_mine(data_dir: Path) -> bool:
    try:
        return data_dir.stat().st_uid == os.getuid() and (data_dir / "server.key").exists()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Claim:
    """The claimed context. ``current``: name of the current context; ``others``: contexts of other running servers.

    ``replaced``: the previous context of that name, if it was for another server.
    """

    context: Context
    current: str
    others: tuple[Context, ...]
    replaced: Context | None = None


def claim(contexts: ContextStore, server: str, grpc: str, data_dir: Path) -> Claim:
    """Save a context for the server on this data directory, keeping its token. Blocking.

    It becomes the current one, unless the current one is that of another running server on this machine.
    """
    home = str(data_dir.absolute())
    made: list[Claim] = []

    def change(saved: Contexts) -> Contexts:
        others = tuple(
            each
            for each in saved.all.values()
            if each.data_dir and each.data_dir != home and server_runs(Path(each.data_dir))
        )
        name = next(
            name for name in _names(saved, home, server) if _is_free(saved.all.get(name), home, server)
        )
        before = saved.all.get(name)
        same = before is not None and (before.data_dir == home or before.server == server)
        context = Context(name, server, before.token if before and same else "", grpc, home)
        changed = saved.with_context(context, use=saved.current not in {each.name for each in others})
        made.append(Claim(context, changed.current, others, None if same else before))
        return changed

    contexts.change(change)
    return made[0]


def _names(saved: Contexts, home: str, server: str) -> Iterator[str]:
    """Candidate names in order of preference: its present one, ``local``, ``local-DIRECTORY``, with the port, …"""
    yield from (name for name, each in saved.all.items() if each.data_dir == home)
    yield LOCAL
    path = Path(home)
    directory = path.parent.name if path.name == DATA_DIR else path.name
    longer = f"{LOCAL}-{re.sub(r'[^A-Za-z0-9._-]+', '-', directory) or 'data'}"
    yield longer
    longer = f"{longer}-{urlsplit(server).port or 0}"
    yield longer
    number = 2
    while True:
        yield f"{longer}-{number}"
        number += 1


def _is_free(known: Context | None, home: str, server: str) -> bool:
    if known is None or known.data_dir == home or known.server == server:
        return True
    if known.data_dir:
        return not server_runs(Path(known.data_dir))
    return not _answers(known.server)


def _answers(server: str) -> bool:
    """Whether a server listens at this address. Servers on other machines always count as running."""
    parts = urlsplit(server)
    host = parts.hostname or ""
    if not is_loopback(host):
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_PROBE).close()
    except OSError:
        return False
    return True


def server_runs(data_dir: Path) -> bool:
    """Whether a server is using this data directory."""
    from pilothouse.server.lock import lock_holder

    try:
        return lock_holder(data_dir) is not None
    except OSError:
        return False
