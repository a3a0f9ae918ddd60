"""All of what is in front of us: the repository with its submodules and nested repositories, or plain files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.cli.checkout.chosen_index import chosen_index
from pilothouse.cli.checkout.errors import CheckoutTooLarge, PackingError, readable
from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.history import History, read_history
from pilothouse.cli.checkout.index import look
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.ours import is_data_directory
from pilothouse.cli.checkout.repository import Repository, read_repository
from pilothouse.cli.checkout.settings import RepositorySettings, read_settings
from pilothouse.cli.checkout.state import MAX_FILES, File, State, read_state

_MAX_REPOSITORIES = 200  # a server takes no more
_MAX_NESTING = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a repository lies. ``path``: from the top. ``name``: a submodule's. ``depth``: repositories around it."""

    path: bytes = b""
    kind: str = "top"
    name: str = ""
    depth: int = 0

    @property
    def prefix(self) -> bytes:
        """What its paths begin with, from the top."""
        return self.path + b"/" if self.path else b""


@dataclass(frozen=True, slots=True)
class Part:
    """One repository of the tree. ``mark``: changes whenever its index is written. ``index``: if not its own."""

    place: Place
    repository: Repository
    settings: RepositorySettings
    state: State
    history: History | None
    mark: tuple[int, ...]
    index: Path | None = None

    @property
    def git(self) -> Git:
        """git in it."""
        return Git(self.repository.root, index=self.index)


@dataclass(slots=True)
class Tree:
    """``parts``: parents first; none outside git, where ``files`` and empty ``directories`` are what there is.

    ``submodules``: those that are left out; ``hidden``: repositories of a plain directory, sent as files.
    """

    root: Path
    parts: list[Part] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    directories: list[bytes] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)
    submodules: list[bytes] = field(default_factory=list)
    hidden: list[bytes] = field(default_factory=list)


def read_tree(repository: Repository, options: CheckoutOptions) -> Tree:
    """Everything that is to be sent. Raises PackingError."""
    tree = Tree(repository.root)
    if repository.in_git:
        _add_part(tree, repository, options, Place())
    else:
        _walk(tree, b"")
    return tree


def index_mark(git: Git) -> tuple[int, ...]:
    """Another value once the index was written again."""
    file = git.directory / git.line("rev-parse", "--git-path", "index")
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _add_part(tree: Tree, repository: Repository, options: CheckoutOptions, place: Place) -> None:
    if len(tree.parts) >= _MAX_REPOSITORIES or place.depth > _MAX_NESTING:
        raise PackingError(
            f"{tree.root} has over {_MAX_REPOSITORIES} repositories in it, or over {_MAX_NESTING} in each other",
            hint="keep them out with .gitignore",
        )
    index = chosen_index(Git(repository.root), top=place.kind == "top")
    git = Git(repository.root, index=index)
    mark = index_mark(git)
    settings = read_settings(git)
    state = read_state(git, settings)
    history = read_history(git, repository.commit, options.depth) if repository.commit else None
    tree.parts.append(Part(place, repository, settings, state, history, mark, index))
    tree.special += [place.prefix + each for each in state.special]
    if not options.submodules:
        tree.submodules += [place.prefix + each for each in state.tracked.populated]
    for inner in _within(git, state, options, place):
        directory = tree.root / os.fsdecode(inner.path)
        if inner.kind == "nested":
            _require_own(tree.root, directory)
        _add_part(tree, read_repository(directory), options, inner)


def _require_own(top: Path, directory: Path) -> None:
    """A ``.git`` file may name any repository of the user's: it is sent only where that one knows this work tree.

    Raises PackingError.
    """
    git_dir = Path(Git(directory).line("rev-parse", "--absolute-git-dir")).resolve()
    if git_dir.is_relative_to(top.resolve()):
        return
    try:
        back = (git_dir / "gitdir").read_text("utf-8", "surrogateescape").strip()
    except OSError:
        back = ""
    if not back or Path(back).resolve() != (directory / ".git").resolve():
        raise PackingError(
            f"{directory}/.git names a repository elsewhere ({git_dir}), which does not know this work tree",
            hint="keep the directory out with .gitignore, or remove its .git",
        )


def _within(git: Git, state: State, options: CheckoutOptions, place: Place) -> list[Place]:
    """The repositories of a work tree that travel with it."""
    found = [Place(place.prefix + each, "nested", "", place.depth + 1) for each in state.nested]
    if options.submodules and state.tracked.populated:
        names = _submodule_names(git)
        found += [
            Place(place.prefix + each, "submodule", names.get(each, ""), place.depth + 1)
            for each in state.tracked.populated
        ]
    return sorted(found, key=lambda each: each.path)


def _submodule_names(git: Git) -> dict[bytes, str]:
    """Path to name, as the index's ``.gitmodules`` has it."""
    pattern = r"^submodule\..*\.path$"
    found = git.answer("config", "-z", "--blob", ":.gitmodules", "--get-regexp", pattern, expect=(0, 1, 128))
    pairs = (record.partition(b"\n") for record in found.split(b"\0") if record)
    return {path: os.fsdecode(key[len(b"submodule.") : -len(b".path")]) for key, _, path in pairs}


def _walk(tree: Tree, directory: bytes) -> None:
    """All files below a directory without git, but for data directories of servers and agents."""
    pending = [directory]
    root = os.fsencode(tree.root)
    while pending:
        here = pending.pop()
        entries = sorted(_entries(os.path.join(root, here)), key=lambda entry: entry.name)
        prefix = here + b"/" if here else b""
        names = [entry.name for entry in entries]
        if here and is_data_directory(here.rpartition(b"/")[2], names):
            continue
        if b".git" in names:
            tree.hidden.append(here)
        if here and not entries:
            tree.directories.append(here)
        pending += [prefix + each for each in _sorted_in(tree, entries, prefix)]
        if len(tree.files) > MAX_FILES:
            raise CheckoutTooLarge(f"over {MAX_FILES} files in {tree.root}")


def _sorted_in(tree: Tree, entries: list[os.DirEntry[bytes]], prefix: bytes) -> Iterator[bytes]:
    """Put the files of a directory where they belong; its directories come back."""
    for entry in entries:
        found = look(entry.path)
        mode = found.st_mode if found else 0
        if entry.name == b".git":
            continue
        if stat.S_ISDIR(mode):
            yield entry.name
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            tree.files.append(File(prefix + entry.name))
        else:
            tree.special.append(prefix + entry.name)


def _entries(directory: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError as error:
        raise PackingError(f"cannot read {readable(directory)}: {error.strerror}") from None
