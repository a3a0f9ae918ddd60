"""Variables that steps wrote to `PILOT_ENV`, for the later steps of their job on this agent.

Stored on disk beside the job's workspace, and removed with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

MAX_BYTES = 64 * 1024
MAX_NAMES = 1000
MAX_WARNINGS = 10

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = "PILOT_"

log = structlog.get_logger("agent.job_env")


@dataclass(slots=True)
class Written:
    """The variables read from a file, and a warning for each invalid part."""

    variables: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)
        elif len(self.warnings) == MAX_WARNINGS:
            self.warnings.append("further lines are ignored")


def read(path: Path) -> Written:
    """Read the file of a step. Problems become warnings, not errors."""
    written = Written()
    try:
        # The step may have replaced the file: links are not followed, and pipes not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return written
    except OSError:
        written.warn("not a file")
        return written
    try:
        data = os.read(fd, MAX_BYTES + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)
    if data is None:
        written.warn("not a file")
        return written
    if len(data) > MAX_BYTES:
        written.warn(f"over {MAX_BYTES} bytes; the file is ignored")
        return written
    parse(data.decode(errors="surrogateescape"), written)
    return written


def parse(text: str, written: Written) -> None:
    """Parse `NAME=value` lines, and `NAME<<WORD`, lines, `WORD` for multi-line values. Empty lines are ignored."""
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        head, heredoc, word = line.partition("<<")
        if heredoc and word.strip() and len(head) < len(name):
            _take(number, head, _several(lines, word.strip()), written)
        elif equals:
            _take(number, name, value, written)
        else:
            written.warn(f"line {number} is not NAME=value")


def _several(lines: Iterator[tuple[int, str]], word: str) -> str | None:
    value: list[str] = []
    for _, line in lines:
        if line == word:
            return "\n".join(value)
        value.append(line)
    return None


def _take(number: int, name: str, value: str | None, written: Written) -> None:
    if value is None:
        written.warn(f"line {number}: the end of the value is missing")
    elif not _NAME.fullmatch(name):
        written.warn(f"line {number} has no good name before its value")
    elif name.startswith(_RESERVED):
        written.warn(f"line {number}: names that begin with {_RESERVED} are kept for the agent")
    elif "\0" in value:
        written.warn(f"line {number} has a NUL character")
    else:
        written.variables[name] = value


class JobEnvironments:
    """Stored variables: one file per workspace that has any, below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, workspace: str) -> dict[str, str]:
        try:
            return dict(json.loads(self._path(workspace).read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("agent.job_env_unreadable", workspace=workspace, reason=type(error).__name__)
            return {}

    def add(self, workspace: str, written: Written) -> None:
        """Add variables, replacing existing values; variables over the limits are dropped with a warning."""
        if not written.variables:
            return
        kept = self.load(workspace)
        size = sum(map(_size, kept.items()))
        for name, value in written.variables.items():
            more = _size((name, value)) - (_size((name, kept[name])) if name in kept else 0)
            if size + more > MAX_BYTES or (name not in kept and len(kept) >= MAX_NAMES):
                written.warn(f"{name} is dropped: over {MAX_NAMES} names or {MAX_BYTES} bytes in this job")
                continue
            kept[name] = value
            size += more
        path = self._path(workspace)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(json.dumps(kept).encode())
        fresh.replace(path)

    def forget(self, workspace: str) -> None:
        with contextlib.suppress(OSError):
            self._path(workspace).unlink(missing_ok=True)

    def sweep(self, workspaces: Path) -> None:
        """Delete the files of workspaces that are no longer below `workspaces`."""
        for path in self._root.iterdir():
            if not (workspaces / path.name.removesuffix(".json")).is_dir():
                path.unlink(missing_ok=True)

    def _path(self, workspace: str) -> Path:
        return self._root / f"{workspace}.json"


def _size(variable: tuple[str, str]) -> int:
    return sum(len(text.encode(errors="surrogateescape")) + 1 for text in variable)
