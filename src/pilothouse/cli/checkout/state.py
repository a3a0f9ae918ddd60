"""How the index and the work tree of one repository differ from ``HEAD``: read once, nothing written.

Paths are bytes, relative to the repository's top.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.cli.checkout.errors import CheckoutTooLarge, PackingError, readable
from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.index import IndexEntries, blob_sizes, look, read_index
from pilothouse.cli.checkout.lfs import MAX_POINTER, pointed_to
from pilothouse.cli.checkout.ours import DataDirectories
from pilothouse.cli.checkout.settings import RepositorySettings

MAX_FILES = 290_000
"""Files that may travel; an agent unpacks no more than 300,000 members."""

_STATUS = (
    "status",
    "--porcelain=v2",
    "-z",
    "--untracked-files=all",
    "--ignored=no",
    "--no-renames",
    "--ignore-submodules=dirty",
    "--no-ahead-behind",
)
_GITLINK = b"160000"
_ABSENT = b"000000"


@dataclass(frozen=True, slots=True)
class File:
    """A path whose content must travel. ``mode``: what git takes it for; empty: as it is on disk."""

    path: bytes
    mode: bytes = b""


@dataclass(slots=True)
class State:
    """What travels beside commits.

    ``deleted``: paths of ``HEAD`` or the index that the work tree does not have. ``index``: lines for ``git
    update-index --index-info``, removals first; ``staged``: ids of the objects in them. ``moved``: submodules whose
    commit is not the index's. ``nested``: other repositories. ``special``: tracked paths that are now sockets, pipes
    or devices. ``tracked``: all of the index. ``dirty``: anything differs from ``HEAD`` or is untracked.
    """

    tracked: IndexEntries
    files: list[File] = field(default_factory=list)
    deleted: list[bytes] = field(default_factory=list)
    index: list[bytes] = field(default_factory=list)
    staged: list[str] = field(default_factory=list)
    intent_to_add: list[bytes] = field(default_factory=list)
    moved: list[bytes] = field(default_factory=list)
    nested: list[bytes] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)
    dirty: bool = False


def read_state(git: Git, settings: RepositorySettings) -> State:
    """The state of git's work tree. Raises PackingError, CheckoutTooLarge, GitFailed."""
    git = git.with_config(settings.without_filters())
    state = State(read_index(git, settings))
    reading = _Reading(git, state)
    # What git cannot read it leaves out with a warning: then nobody knows what the work tree is.
    for record in git.records(*_STATUS, complaints=False):
        reading.record(record)
        if len(reading.untracked) + len(state.files) > MAX_FILES:
            raise CheckoutTooLarge(
                f"over {MAX_FILES} files of {git.directory} are changed or untracked",
                hint="keep generated files out with .gitignore",
            )
    reading.settle()
    return state


class _Reading:
    def __init__(self, git: Git, state: State) -> None:
        self._git = git
        self._root = os.fsencode(git.directory)
        self._state = state
        self._missing = set(state.tracked.missing)
        self.untracked: set[bytes] = set()
        self._unstaged: list[bytes] = []  # gone from the index; the file may be there, untracked
        self._empty: list[bytes] = []  # gone, and empty in the index: perhaps only intended to be added
        self._filtered: dict[Path, bytes] = {}  # changed, unless their filter says otherwise
        self._kinds: dict[bytes, Callable[[bytes], None]] = {
            b"1": self._changed,
            b"u": self._unmerged,
            b"?": lambda record: self.untracked.add(record[2:]),
        }

    def record(self, record: bytes) -> None:
        """Take one record of ``git status``."""
        if record[:1] == b"#":
            return
        read = self._kinds.get(record[:1])
        if read is None:
            raise PackingError(f"git status says something unknown: {readable(record[:200])!r}")
        read(record)

    def settle(self) -> None:
        """What can be said only once all records are known."""
        state = self._state
        self._settle_untracked()
        state.deleted += [path for path in self._unstaged if path not in self.untracked]
        self._settle_empty()
        state.dirty = state.dirty or state.tracked.changed or self._filtered_changed()
        state.files += [File(path, mode) for path, mode in state.tracked.unseen.items()]
        state.deleted += state.tracked.missing
        known = set(state.nested)
        state.nested += [
            path for path in state.tracked.covered if path not in known and self._is_repository(path)
        ]
        state.index.sort(key=lambda line: not line.startswith(b"0 "))  # stable

    def _changed(self, record: bytes) -> None:
        _, xy, sub, _, index, tree, _, oid, path = record.split(b" ", 8)
        staged, unstaged = xy[:1], xy[1:]
        state = self._state
        if xy == b".M" and path in state.tracked.filtered:
            self._filtered[Path(os.fsdecode(self._root + b"/" + path))] = oid
        else:
            state.dirty = True
        if staged != b".":
            self._stage(index, oid, path)
        if index == _ABSENT and unstaged == b".":
            self._unstaged.append(path)
        elif unstaged == b"D":
            self._gone(path)
            if staged == b"." and oid == self._state.tracked.empty_blob:
                self._empty.append(path)
        elif index == _GITLINK and tree == _GITLINK:
            if sub[1:2] == b"C":
                state.moved.append(path)
        else:
            if index == _ABSENT:
                state.intent_to_add.append(path)
            if index == _GITLINK:
                state.deleted.append(path)  # its directory; a file or link is there now
            self._there(path, tree)

    def _unmerged(self, record: bytes) -> None:
        fields = record.split(b" ", 10)
        modes, tree, oids, path = fields[3:6], fields[6], fields[7:10], fields[10]
        self._state.dirty = True
        self._stage(_ABSENT, oids[0], path)
        for stage, (mode, oid) in enumerate(zip(modes, oids, strict=True), 1):
            if mode != _ABSENT:
                self._stage(mode, oid, path, b" %d" % stage)
        if tree == _ABSENT:
            self._gone(path)
        elif tree != _GITLINK:
            self._there(path, tree)

    def _stage(self, mode: bytes, oid: bytes, path: bytes, stage: bytes = b"") -> None:
        if mode == _ABSENT:
            self._state.index.append(b"0 " + b"0" * len(oid) + b"\t" + path)
            return
        self._state.index.append(mode + b" " + oid + stage + b"\t" + path)
        if mode != _GITLINK:
            self._state.staged.append(oid.decode())

    def _there(self, path: bytes, mode: bytes) -> None:
        """A tracked path that the work tree has, with other content than ``HEAD``."""
        self._state.tracked.unseen.pop(path, None)
        found = self._look(path)
        if found is None:
            if path not in self._missing and path not in self._state.tracked.skip_worktree:
                raise self._moving(path)
        elif stat.S_ISDIR(found.st_mode):
            self._gone(path)
        elif stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            self._state.files.append(File(path, mode))
        else:
            self._state.special.append(path)
            self._state.deleted.append(path)

    def _gone(self, path: bytes) -> None:
        """A tracked path that the work tree does not have; perhaps a repository took its place."""
        self._state.tracked.unseen.pop(path, None)
        self._state.deleted.append(path)
        if self._is_repository(path):
            self._state.nested.append(path)

    def _is_repository(self, path: bytes) -> bool:
        found = self._look(path)
        return found is not None and stat.S_ISDIR(found.st_mode) and self._look(path + b"/.git") is not None

    def _settle_untracked(self) -> None:
        ours = DataDirectories(self.untracked)
        for path in sorted(self.untracked):
            if path in ours:
                continue
            self._state.dirty = True
            if path.endswith(b"/"):
                self._state.nested.append(path.rstrip(b"/"))
            elif self._look(path) is None:
                raise self._moving(path)
            else:
                self._state.files.append(File(path))

    def _filtered_changed(self) -> bool:
        sizes = blob_sizes(self._git, set(self._filtered.values()))
        pointers = {
            file: oid for file, oid in self._filtered.items() if sizes.get(oid, 0) in range(1, MAX_POINTER)
        }
        return len(pointed_to(self._git, pointers)) < len(self._filtered)

    def _settle_empty(self) -> None:
        """A path that was only intended to be added looks as if ``HEAD`` had it, once its file is gone."""
        if self._empty:
            head = self._git.line("rev-parse", "-q", "--verify", "HEAD", expect=(0, 1))
            listed = self._git.records("ls-tree", "-r", "-z", "--name-only", head) if head else ()
            known = set(self._empty).intersection(listed)
            self._state.intent_to_add += [path for path in self._empty if path not in known]

    def _look(self, path: bytes) -> os.stat_result | None:
        return look(self._root + b"/" + path)

    def _moving(self, path: bytes) -> PackingError:
        return PackingError(
            f"{readable(self._root + b'/' + path)} vanished while it was read", hint="try again"
        )
