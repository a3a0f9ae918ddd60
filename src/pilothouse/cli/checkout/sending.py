"""A work tree as the files that are uploaded for it: an archive, and packs of what the server does not have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pilothouse.cli.checkout.archive import ArchiveWriter, archive_writer, joined
from pilothouse.cli.checkout.errors import PackingError
from pilothouse.cli.checkout.index import index_digest
from pilothouse.cli.checkout.known import KnownCommit, NewPack, StoredPack, choose_base
from pilothouse.cli.checkout.manifest import manifest
from pilothouse.cli.checkout.objects import pack_commits, pack_loose
from pilothouse.cli.checkout.options import UNPACKED, CheckoutOptions
from pilothouse.cli.checkout.repository import read_repository
from pilothouse.cli.checkout.tags import read_tags
from pilothouse.cli.checkout.telling import too_large
from pilothouse.cli.checkout.tree import Part, Tree, index_mark


@dataclass(frozen=True, slots=True)
class SentRepository:
    """A repository and the packs that hold its commit's objects, in their order (docs/checkout.md)."""

    key: str
    commit: str
    depth: int
    packs: tuple[StoredPack | NewPack, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """What is to be uploaded. ``files``: how many are in the archive. ``repositories``: the top first."""

    archive: NewPack
    files: int
    dirty: bool
    repositories: tuple[SentRepository, ...]

    @property
    def new_packs(self) -> list[NewPack]:
        """The packs that the server does not have."""
        packs = {
            pack.sha256: pack
            for each in self.repositories
            for pack in each.packs
            if isinstance(pack, NewPack)
        }
        return list(packs.values())

    @property
    def size(self) -> int:
        """Bytes to be sent."""
        return self.archive.size + sum(pack.size for pack in self.new_packs)


def pack_tree(
    tree: Tree,
    options: CheckoutOptions,
    known: Mapping[str, Sequence[KnownCommit]],
    directory: Path,
    limit: int,
) -> Packed:
    """Pack a tree into files in ``directory``. ``known``: by key, what the server has, newest use first.

    ``limit``: bytes that may be sent. Raises CheckoutTooLarge, PackingError; nothing was sent then.
    """
    unpacked = limit * UNPACKED - sum(part.state.tracked.size for part in tree.parts)
    if unpacked < 0:
        raise too_large(tree, limit * UNPACKED, "unpacked")
    packing = _Packing(options, known, directory, limit)
    try:
        for part in tree.parts:
            packing.add(part)
        packed = packing.archive(tree, unpacked)
    except OverflowError:
        raise too_large(tree, limit, "packed") from None
    _check_unchanged(tree)
    return packed


@dataclass(slots=True)
class _Loose:
    """What of a repository travels in the archive: a pack of objects that no commit here has, and names of tags."""

    pack: NewPack | None
    tags: dict[str, str]


@dataclass(slots=True)
class _Packing:
    options: CheckoutOptions
    known: Mapping[str, Sequence[KnownCommit]]
    directory: Path
    left: int
    sent: dict[int, SentRepository] = field(default_factory=dict)
    loose: list[_Loose] = field(default_factory=list)

    def add(self, part: Part) -> None:
        """The packs of one repository."""
        number = len(self.loose)
        if part.history is not None:
            sent = self._commits(part, self.directory / f"commits-{number}.pack")
            self.sent[number] = sent
        self.loose.append(self._loose(part, self.directory / f"loose-{number}.pack"))

    def archive(self, tree: Tree, unpacked: int) -> Packed:
        """The archive, once all packs are made."""
        file = self.directory / "checkout.tar.gz"
        packs = [self.sent[n].packs if n in self.sent else () for n in range(len(self.loose))]
        with file.open("wb") as target, archive_writer(target, self.left, unpacked) as (writer, sink):
            tags = [each.tags for each in self.loose]
            writer.manifest(manifest(tree, self.options, tags, packs))
            for number, part in enumerate(tree.parts):
                _members(writer, number, part, self.loose[number].pack)
            _files(writer, tree)
        return Packed(
            archive=NewPack(file, sink.digest.hexdigest(), sink.size),
            files=writer.files,
            dirty=any(part.state.dirty for part in tree.parts),
            repositories=tuple(self.sent.values()),
        )

    def _commits(self, part: Part, file: Path) -> SentRepository:
        repository, history = part.repository, part.history
        assert history is not None
        key, commit = repository.key, repository.commit
        ours = [
            KnownCommit(each.commit, each.depth, each.packs) for each in self.sent.values() if each.key == key
        ]
        base = choose_base(part.git, commit, history.depth, [*ours, *self.known.get(key, ())])
        pack = pack_commits(part.git, commit, history, base, file, self.left)
        packs = base.packs if base else ()
        if pack is not None:
            packs = (*packs, pack)
            self.left -= pack.size
        return SentRepository(key, commit, history.depth, packs)

    def _loose(self, part: Part, file: Path) -> _Loose:
        commit = part.repository.commit
        tags: dict[str, str] = {}
        objects: list[str] = []
        if self.options.tags and part.history is not None:
            tags, objects = read_tags(part.git, commit, part.history)
        pack = pack_loose(part.git, commit, part.state.staged, objects, file, self.left)
        return _Loose(pack, tags)


def _members(writer: ArchiveWriter, number: int, part: Part, pack: NewPack | None) -> None:
    state = part.state
    writer.data(b"index/%d" % number, joined(state.index))
    if pack is not None:
        writer.copy(b"pack/%d" % number, pack.file)
    writer.data(b"deleted/%d" % number, joined(sorted(set(state.deleted))))
    writer.data(b"skip-worktree/%d" % number, joined(state.tracked.skip_worktree))
    writer.data(b"assume-unchanged/%d" % number, joined(state.tracked.assume_unchanged))


def _files(writer: ArchiveWriter, tree: Tree) -> None:
    root = os.fsencode(tree.root)
    for directory in tree.directories:
        writer.directory(directory)
    for part in tree.parts:
        for file in sorted(part.state.files, key=lambda each: each.path):
            writer.file(root, part.place.prefix, file)
    for file in sorted(tree.files, key=lambda each: each.path):
        writer.file(root, b"", file)


def _check_unchanged(tree: Tree) -> None:
    """What was read at different times must belong together."""
    for part in tree.parts:
        now = read_repository(part.repository.root)
        same = (now.commit, now.branch) == (part.repository.commit, part.repository.branch)
        # git status, run by an editor perhaps, writes an index anew in which nothing has changed.
        if same and index_mark(part.git) != part.mark:
            same = index_digest(part.git, part.settings) == part.state.tracked.digest
        if not same:
            raise PackingError(f"{part.repository.root} changed while it was read", hint="try again")


def keys(tree: Tree) -> Iterable[str]:
    """The repositories of which the server may have something."""
    return dict.fromkeys(part.repository.key for part in tree.parts if part.history is not None)
