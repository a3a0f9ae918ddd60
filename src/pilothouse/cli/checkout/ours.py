"""The data directories of servers and agents: their databases, keys and credentials are nobody's checkout. Pure."""

from __future__ import annotations

from collections.abc import Iterable

NAME = b".pilothouse"
_MARKS = (frozenset({b"server.lock", b"server.key"}), frozenset({b"agent.lock", b"credential"}))


def is_data_directory(name: bytes, names: Iterable[bytes]) -> bool:
    """Whether a directory is one, by its name and what is in it."""
    inside = set(names)
    return name == NAME or any(marks <= inside for marks in _MARKS)


class DataDirectories:
    """Those that some of these paths are in."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        marks = frozenset().union(*_MARKS)
        inside: dict[bytes, set[bytes]] = {}
        for path in paths:
            directory, _, name = path.rpartition(b"/")
            if directory and name in marks:
                inside.setdefault(directory, set()).add(name)
        self._found = {directory for directory, names in inside.items() if is_data_directory(b"", names)}

    def __contains__(self, path: bytes) -> bool:
        parts = path.split(b"/")
        if NAME in parts:
            return True
        return bool(self._found) and any(
            b"/".join(parts[:depth]) in self._found for depth in range(1, len(parts))
        )
