"""Which control groups this machine offers to this agent: version 2, else version 1, else none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pilothouse.agent.reaping.cgroup1 import Cgroup1
from pilothouse.agent.reaping.cgroup2 import Cgroup2
from pilothouse.agent.reaping.groups import Groups

SUBREAPER = "subreaper"
BACKENDS = ("cgroup2", "cgroup1", SUBREAPER)


def choose(wanted: str = "") -> tuple[Groups, str]:
    """The first that works, opened, and why those before it do not. `wanted`: this one, or none at all."""
    why: list[str] = []
    for groups in _candidates():
        if wanted and groups.backend != wanted:
            continue
        try:
            groups.sweep()
            groups.open()
            return groups, "; ".join(why)
        except OSError as error:
            why.append(f"{groups.backend}: {error.strerror}")
    return Groups(SUBREAPER), "; ".join(why)


def _candidates() -> Iterator[Groups]:
    version2 = _directory("cgroup2", "")
    if version2 is not None:
        yield Groups("cgroup2", version2, Cgroup2, "cgroup.kill")
    freezer = _directory("cgroup", "freezer") if os.geteuid() == 0 else None
    if freezer is not None:
        yield Groups("cgroup1", freezer, Cgroup1, "freezer.state")


def _directory(kind: str, controller: str) -> Path | None:
    """Where this process's own group lies in the file system of that hierarchy, if it is to be seen."""
    own = _own_group(controller)
    if own is None or ".." in Path(own).parts:  # it lies outside of what this process may see
        return None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            words, (found, _, options) = before.split(), after.split()
            if found != kind or (controller and controller not in options.split(",")):
                continue
            root, point = (_unescaped(word) for word in words[3:5])
            if own == root or own.startswith(root.rstrip("/") + "/"):
                return Path(point) / own[len(root.rstrip("/")) :].lstrip("/")
    return None


def _own_group(controller: str) -> str | None:
    """Its path in the hierarchy of that controller; of version 2 for an empty one."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as groups:
        for line in groups:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(",") if controller else number == "0":
                return path
    return None


def _unescaped(word: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        word = word.replace(code, character)
    return word
