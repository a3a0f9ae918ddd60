"""Selects the kind of control groups that this agent can use: version 2, otherwise version 1, otherwise none."""

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
    """The first backend that works, opened, and why those before it do not. `wanted`: only try this backend."""
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
    """The directory of this process's own group in that hierarchy, if it is visible."""
    own = _own_group(controller)
    if own is None or ".." in Path(own).parts:  # outside of this process's cgroup namespace
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
    """The path of this process's group in the hierarchy of that controller; an empty one means version 2."""
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
