"""Where ``pilot up`` keeps its data, and under which name it saves the login; what other ones run is left alone."""

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
"""Seconds that somebody has to answer at an address."""


def nearest_data_dir(start: Path) -> Path:
    """``.pilothouse`` here, unless a server has its data in one above, within the same git work tree.

    A directory of somebody else is not used.
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
    """The context that is ours now. ``current``: the name of the one in use; ``others``: those of running servers.

    ``replaced``: what the name stood for before, if that was something else.
    """

    context: Context
    current: str
    others: tuple[Context, ...]
    replaced: Context | None = None


def claim(contexts: ContextStore, server: str, grpc: str, data_dir: Path) -> Claim:
    """Save a context for the server on this data directory, with the token it had; for a thread.

    It becomes the current one, unless that is another running server's on this machine.
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
    """Names for a context, the best first: the one it has, ``local``, ``local-DIRECTORY``, with the port, …"""
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
    """Whether somebody listens at this address. A server elsewhere counts as running, reachable now or not."""
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
    """Whether a server works on this data directory now."""
    from pilothouse.server.lock import lock_holder

    try:
        return lock_holder(data_dir) is not None
    except OSError:
        return False
