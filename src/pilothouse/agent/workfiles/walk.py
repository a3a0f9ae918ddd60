"""Finds the files of a workspace that match patterns, without following any link.

Patterns are relative to the workspace: ``*`` and ``?`` match within a name, ``**`` any number of directories,
``[a-z]`` one character. A directory means everything in it. A pattern that begins with ``!`` takes away. Names that
begin with a dot are only matched where a pattern names them so, or with ``hidden``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pilothouse.wire.placing import Refused, shown

MAX_SCANNED = 1_000_000
"""Entries of directories that are looked at."""
MAX_DEPTH = 100
MAX_PATTERNS, MAX_PATTERN = 100, 1000
MAX_NOTES = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file: its path relative to the workspace, and its size when it was found."""

    path: str
    size: int


@dataclass(slots=True)
class Search:
    """``notes``: what was left out, and why."""

    workspace: int
    most_files: int
    hidden: bool = False
    notes: list[str] = field(default_factory=list)
    _scanned: int = 0

    def find(self, patterns: Sequence[str]) -> list[Found]:
        """The matching files, each once, sorted by path. Raises :class:`Refused`."""
        if len(patterns) > MAX_PATTERNS:
            raise Refused(f"at most {MAX_PATTERNS} patterns are allowed")
        wanted = [clean(pattern) for pattern in patterns if not pattern.startswith("!")]
        without = [matcher(clean(pattern[1:])) for pattern in patterns if pattern.startswith("!")]
        found: dict[str, Found] = {}
        for pattern in wanted:
            for each in self._matching(pattern):
                if not any(regex.fullmatch(each.path) for regex in without):
                    found[each.path] = each
                if len(found) > self.most_files:
                    raise Refused(f"more than {self.most_files} files match")
        return [found[path] for path in sorted(found)]

    def note(self, text: str) -> None:
        """Say what was left out."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)
        elif len(self.notes) == MAX_NOTES:
            self.notes.append("and more")

    def _matching(self, pattern: str) -> Iterator[Found]:
        base, regex = literal_part(pattern), matcher(pattern)
        try:
            parent = open_directory(self.workspace, os.path.dirname(base))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.dirname(base):
                self.note(f"{shown(os.path.dirname(base))} is not a directory; links are not followed")
            return
        try:
            yield from self._entry(parent, os.path.basename(base), base, regex, 0)
        finally:
            os.close(parent)

    def _entry(
        self, parent: int, name: str, path: str, regex: re.Pattern[str], depth: int
    ) -> Iterator[Found]:
        """``name`` in ``parent``; an empty name is the directory itself."""
        try:
            found = os.fstat(parent) if not name else os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return
        if stat.S_ISDIR(found.st_mode):
            yield from self._directory(parent, name, path, regex, depth)
        elif regex.fullmatch(path):
            if stat.S_ISREG(found.st_mode):
                yield Found(path, found.st_size)
            else:
                kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
                self.note(f"{shown(path)} is left out: it is {kind}")

    def _directory(
        self, parent: int, name: str, path: str, regex: re.Pattern[str], depth: int
    ) -> Iterator[Found]:
        if depth > MAX_DEPTH:
            self.note(f"{shown(path)} is left out: it is more than {MAX_DEPTH} directories deep")
            return
        try:
            here = os.open(name or ".", _DIRECTORY, dir_fd=parent)
        except OSError:
            self.note(f"{shown(path)} is left out: it cannot be read")
            return
        try:
            for entry in sorted(os.listdir(here)):
                self._scanned += 1
                if self._scanned > MAX_SCANNED:
                    raise Refused(f"more than {MAX_SCANNED} files would have to be looked at")
                inner = f"{path}/{entry}" if path else entry
                if entry.startswith(".") and not self.hidden and not _names_hidden(regex.pattern, entry):
                    continue
                yield from self._entry(here, entry, inner, regex, depth + 1)
        finally:
            os.close(here)


def _names_hidden(pattern: str, entry: str) -> bool:
    return re.escape(entry) in pattern or r"\." + "[^/]*" in pattern


def clean(pattern: str) -> str:
    """A pattern without ``.`` and empty parts. Raises :class:`Refused` for one that leaves the workspace."""
    if len(pattern) > MAX_PATTERN:
        raise Refused(f"a pattern has at most {MAX_PATTERN} characters")
    if pattern.startswith("/") or "\0" in pattern:
        raise Refused(f"{shown(pattern)} is not a path in the workspace")
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"{shown(pattern)} leads out of the workspace")
    return "/".join(parts)


def literal_part(pattern: str) -> str:
    """The directories, and perhaps the file, that a pattern names without any of ``*?[``."""
    parts = []
    for part in pattern.split("/"):
        if _MAGIC.search(part):
            break
        parts.append(part)
    return "/".join(parts)


def matcher(pattern: str) -> re.Pattern[str]:
    """What paths of files match a (clean) pattern: those it names, and everything below."""
    text, parts = "", pattern.split("/") if pattern else []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:.*/)?"
        else:
            text += "".join(_translated(part)) + ("" if last else "/")
    return re.compile(text + "(?:/.*)?" if parts else ".*", re.DOTALL)


def _translated(part: str) -> Iterator[str]:
    at = 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            while part.startswith("*", at):
                at += 1
            yield "[^/]*"
        elif char == "?":
            yield "[^/]"
        elif char == "[" and (end := part.find("]", at + 1)) > 0:
            inside = part[at:end].replace("\\", r"\\").replace("[", r"\[").replace("&", r"\&")
            inside = inside.replace("~", r"\~").replace("|", r"\|")
            yield _set(f"[^/{inside[1:]}]" if inside.startswith(("!", "^")) else f"[{inside}]")
            at = end + 1
        else:
            yield re.escape(char)


def _set(text: str) -> str:
    try:
        re.compile(text)
    except re.error:
        return "(?!)"  # a range that ends before it begins ([z-a]) matches nothing, as in git
    return text


def open_directory(root: int, path: str) -> int:
    """Open a directory below ``root`` (a descriptor), which no link on the way leads to. Raises OSError."""
    here = os.open(".", _DIRECTORY, dir_fd=root)
    for part in path.split("/") if path else []:
        try:
            inner = os.open(part, _DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here


def open_file(root: int, path: str) -> int:
    """Open a regular file below ``root``. Raises :class:`Refused` for anything else, OSError."""
    parent = open_directory(root, os.path.dirname(path))
    try:
        file = os.open(os.path.basename(path), _FILE, dir_fd=parent)
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Refused(f"{shown(path)} is not a regular file")
    return file
