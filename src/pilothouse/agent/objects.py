"""The object cache: the packs of each repository, and the tree of the commit that was laid out last.

Below the root, for each repository: ``repo.git`` (a bare repository with packs named by their sha256), ``incoming``
(incomplete packs), ``packs`` (a mark for each indexed pack), ``tree`` and ``tree.index`` (a pristine work tree, not
used by steps) with ``tree.json`` (its commit and settings; missing while it changes), and ``copy``, a copy of the
tree made in advance, which becomes the next workspace.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from pilothouse.agent.checkout import CheckoutFetcher
from pilothouse.agent.file_operations import HASH_SIZES, Index
from pilothouse.agent.removal import remove_quietly
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.workers.children import ChildWroteTooMuch, Limits
from pilothouse.workers.git import Git, GitFailed, config_file

MAX_PACKS = 60  # per repository; more packs make lookups slow
LIST_LIMIT = 64 << 20  # bytes of the listing of a tree
FREE = 1 << 30  # bytes of disk space that trees must leave free
MIN_COPY_SIZE = 32 << 20  # bytes of a tree from which a copy is made in advance
BESIDE = 1024  # bytes written per file besides its contents, such as its index entry
DURABLE = {"core.fsync": "default"}  # the cache must be intact after a power failure

log = structlog.get_logger("agent.objects")


class TreeTooLarge(Exception):
    """A commit exceeds the agent's limits on files or bytes."""

    code = "TREE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Limits of a commit's tree: total bytes and number of files."""

    bytes: int
    files: int

    @property
    def laying_out(self) -> Limits:
        """Limits of the git process: ``ident``, line ends and encodings can make files larger than their blobs."""
        return Limits(written=self.bytes + self.files * BESIDE)

    def check(self, bytes: int, files: int) -> None:
        """Raises TreeTooLarge."""
        if files > self.files:
            raise TreeTooLarge(f"the commit has {files} files, more than {self.files}")
        if bytes > self.bytes:
            raise TreeTooLarge(f"the commit's files have {bytes} bytes, more than {self.bytes}")


@dataclass(frozen=True, slots=True)
class Tree:
    """A work tree with its index and its state file, which is missing while the tree changes."""

    files: Path
    index: Path
    state: Path

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state file: the tree is complete."""
        half = self.state.with_suffix(".half")
        half.write_text(json.dumps(state))
        half.replace(self.state)

    def discard(self) -> None:
        """Delete the tree."""
        for path in (self.state, self.index, self.index.with_name(self.index.name + ".lock")):
            path.unlink(missing_ok=True)
        remove_quietly(self.files)


Copier = Callable[[Tree, Tree], Awaitable[None]]
"""Copies the files of a tree into another, empty one, with a separate index."""


@dataclass(slots=True)
class _Shared:
    """State shared by concurrent uses of a repository."""

    users: int = 0
    recovery: asyncio.Lock = field(default_factory=asyncio.Lock)
    tree: asyncio.Lock = field(default_factory=asyncio.Lock)
    copy: asyncio.Lock = field(default_factory=asyncio.Lock)
    packs: dict[str, asyncio.Lock] = field(default_factory=dict)


class ObjectCache:
    """The repositories below ``root``. ``limit``: bytes beyond which the least recently used ones are evicted."""

    def __init__(self, root: Path, git: Git, fetcher: CheckoutFetcher, limit: int, trees: TreeLimits) -> None:
        self._root, self._git, self._fetcher = root, git, fetcher
        self._limit, self._trees = limit, trees
        self._used: dict[str, _Shared] = {}
        self._recovered: set[str] = set()
        self._trash = itertools.count()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def use(self, repository: str, object_format: str) -> AsyncIterator[CachedRepository]:
        """The cache of a repository, which is not evicted while in the context."""
        name = (
            f"{hashlib.sha256(repository.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}-{object_format}"
        )
        directory = self._root / name
        shared = self._used.setdefault(name, _Shared())
        shared.users += 1
        try:
            async with shared.recovery:  # otherwise recovery could delete a pack that another use is fetching
                if name not in self._recovered:
                    await asyncio.to_thread(_recover, directory, object_format)
                    self._recovered.add(name)
            await asyncio.to_thread(os.utime, directory)
            yield CachedRepository(directory, self._git, self._fetcher, shared, self._trees)
        finally:
            shared.users -= 1
            if not shared.users:
                del self._used[name]

    async def evict(self) -> None:
        """Remove repositories beyond the limit, and those whose removal was interrupted by a restart."""
        for directory in await asyncio.to_thread(self._beyond_limit):
            if directory.name in self._used:
                continue
            self._recovered.discard(directory.name)
            trash = self._root / f".trash-{time.time_ns()}-{next(self._trash)}"
            with contextlib.suppress(FileNotFoundError):
                directory.rename(trash)
                log.info("agent.cache_evicted", repository=directory.name)
        for trash in self._root.glob(".trash-*"):
            await asyncio.to_thread(remove_quietly, trash)

    def _beyond_limit(self) -> list[Path]:
        kept = [path for path in self._root.iterdir() if not path.name.startswith(".")]
        sizes = {path: _size(path) for path in kept}
        over = sum(sizes.values()) - self._limit
        evicted = []
        for path in sorted(kept, key=lambda path: path.stat().st_mtime):
            if over > 0 and path.name not in self._used:
                over -= sizes[path]
                evicted.append(path)
        return evicted


class CachedRepository:
    """One repository of the cache, while it is in use."""

    def __init__(
        self, directory: Path, git: Git, fetcher: CheckoutFetcher, shared: _Shared, trees: TreeLimits
    ) -> None:
        self.git_dir = directory / "repo.git"
        self._directory, self._git, self._fetcher = directory, git, fetcher
        self._shared, self.trees = shared, trees
        self.size = (0, 0)  # bytes and number of files of the tree that was returned last

    def pack(self, sha256: str) -> tuple[Path, Path]:
        """The paths of a pack and its index."""
        stem = self.git_dir / "objects" / "pack" / f"pack-{sha256}"
        return stem.with_suffix(".pack"), stem.with_suffix(".idx")

    async def have(self, pack: pb.CheckoutPack) -> None:
        """Fetch and index a pack if it is missing; concurrent calls fetch it once.

        Raises StepImpossible, GitFailed, OSError.
        """
        async with self._shared.packs.setdefault(pack.sha256, asyncio.Lock()):
            if not await asyncio.to_thread(self._is_whole, pack.sha256):
                await self._bring(pack)

    async def _bring(self, pack: pb.CheckoutPack) -> None:
        incoming = self._directory / "incoming" / f"pack-{pack.sha256}.pack"
        index = incoming.with_suffix(".idx")
        try:
            await self._fetcher.fetch(pack, incoming, "pack")
            # Every object is decompressed and hashed. File names are checked when a tree is laid out.
            await self._git.run(
                "index-pack", "-o", str(index), str(incoming), git_dir=self.git_dir, config=DURABLE
            )
            await asyncio.to_thread(self._settle, pack.sha256, incoming, index)
        finally:
            for path in (incoming, index, incoming.with_suffix(".rev")):
                path.unlink(missing_ok=True)

    def _settle(self, sha256: str, incoming: Path, index: Path) -> None:
        mark = self._mark(sha256)
        for old, new in zip((incoming, index), self.pack(sha256), strict=True):
            old.chmod(0o444)
            old.replace(new)
        half = mark.with_suffix(".half")
        half.write_text(json.dumps(self._seen(sha256)))
        half.replace(mark)

    def _mark(self, sha256: str) -> Path:
        return self._directory / "packs" / sha256

    def _seen(self, sha256: str) -> list[list[int]]:
        found = [path.stat() for path in self.pack(sha256)]
        return [[one.st_size, one.st_mtime_ns] for one in found]

    def _is_whole(self, sha256: str) -> bool:
        """Whether the pack exists and was not modified (workspaces have hard links to it)."""
        mark = self._mark(sha256)
        try:
            if json.loads(mark.read_text()) == self._seen(sha256):
                os.utime(mark)
                return True
        except (OSError, ValueError):
            pass
        mark.unlink(missing_ok=True)
        for path in self.pack(sha256):
            path.unlink(missing_ok=True)
        return False

    async def drop_old_packs(self, keep: set[str]) -> None:
        """Delete the least recently used packs beyond MAX_PACKS, if there is no concurrent use."""
        marks = await asyncio.to_thread(lambda: sorted((self._directory / "packs").iterdir(), key=_mtime))
        if self._shared.users > 1:
            return
        for mark in marks[: max(0, len(marks) - MAX_PACKS)]:
            if mark.name not in keep:
                for path in (mark, *self.pack(mark.name)):
                    path.unlink(missing_ok=True)

    # -- the pristine tree and its copy -----------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def pristine(self, commit: str, settings: Mapping[str, str]) -> AsyncIterator[Tree | None]:
        """The tree of a commit, which does not change while in the context; None if the disk is too full.

        Raises GitFailed, TreeTooLarge, OSError.
        """
        async with self._shared.tree:
            yield await self._pristine(commit, settings)

    async def take_copy(self, commit: str, settings: Mapping[str, str]) -> Tree | None:
        """The copy, updated to this commit; the caller must move it. None if there is no copy.

        Raises GitFailed, TreeTooLarge, OSError.
        """
        copy = self._named("copy")
        async with self._shared.copy:
            there = await asyncio.to_thread(_loaded, copy.state)
            if there.get("settings") != dict(settings):
                return None
            if there.get("commit") != commit:
                await self.measure(commit)
            copy.state.unlink()
            await self.read_tree(copy, commit, settings)
            taken = self._named(f"taken-{time.time_ns()}")
            copy.files.rename(taken.files)
            copy.index.rename(taken.index)
            return taken

    async def prepare_copy(self, commit: str, settings: Mapping[str, str], copier: Copier) -> None:
        """Copy the pristine tree in advance, if it is large and there is enough disk space."""
        copy = self._named("copy")
        async with self._shared.copy, self._shared.tree:
            tree = await self._pristine(commit, settings)
            there = await asyncio.to_thread(_loaded, copy.state)
            if tree is None or there.get("settings") == dict(settings):
                return
            size = int(_loaded(tree.state).get("bytes", 0))
            if size < MIN_COPY_SIZE or await self._free() - size < FREE:
                return
            await asyncio.to_thread(copy.discard)
            copy.files.mkdir(mode=0o700)
            await copier(tree, copy)
            copy.write({"commit": commit, "settings": dict(settings), "bytes": size})

    async def _pristine(self, commit: str, settings: Mapping[str, str]) -> Tree | None:
        tree = self._named("tree")
        there = await asyncio.to_thread(_loaded, tree.state)
        if there.get("settings") == dict(settings) and there.get("commit") == commit:
            self.size = (int(there.get("bytes", 0)), int(there.get("files", 0)))
            return tree
        size = await self.measure(commit)
        tree.state.unlink(missing_ok=True)
        if there.get("settings") != dict(settings):
            await asyncio.to_thread(tree.discard)
            there = {}
        # Space for the pristine tree and for the copy of it.
        if await self._free() - 2 * size + int(there.get("bytes", 0)) < FREE:
            await asyncio.to_thread(tree.discard)
            return None
        tree.files.mkdir(mode=0o700, exist_ok=True)
        await self.read_tree(tree, commit, settings)
        # If the index is not newer than its files, git reads all of them again.
        later = time.time() + 2
        os.utime(tree.index, (later, later))
        size, files = self.size
        tree.write({"commit": commit, "settings": dict(settings), "bytes": size, "files": files})
        return tree

    async def read_tree(
        self, tree: Tree, commit: str, settings: Mapping[str, str], git_dir: Path | None = None
    ) -> None:
        """Have git lay out a commit over the existing files. ``git_dir``: another repository that has the commit.

        Raises GitFailed, TreeTooLarge; the tree is then deleted.
        """
        try:
            await self._git.run(
                *("read-tree", "--reset", "-u", f"{commit}^{{tree}}"),
                git_dir=git_dir or self.git_dir,
                work_tree=tree.files,
                index=tree.index,
                config=settings,
                limits=self.trees.laying_out,
            )
            object_format = self._directory.name.rpartition("-")[2]
            self.size = await asyncio.to_thread(_laid_out, tree.index, object_format)
            self.trees.check(*self.size)
        except ChildWroteTooMuch:
            await asyncio.to_thread(tree.discard)
            raise TreeTooLarge(f"the commit's files grow to more than {self.trees.bytes} bytes") from None
        except BaseException:  # an incomplete tree is useless and not counted in the cache's size
            await asyncio.to_thread(tree.discard)
            raise

    async def _free(self) -> int:
        return (await asyncio.to_thread(shutil.disk_usage, self._directory)).free

    def _named(self, name: str) -> Tree:
        stem = self._directory / name
        return Tree(stem, stem.with_suffix(".index"), stem.with_suffix(".json"))

    async def measure(self, commit: str) -> int:
        """The total bytes of a commit's files. Raises TreeTooLarge; GitFailed if the commit is missing."""
        listing = self._directory / "incoming" / f"list-{commit}"
        limits = Limits(output=LIST_LIMIT)
        try:
            await self._git.run(
                *("ls-tree", "-r", "-l", "-z", "--full-tree", commit),
                git_dir=self.git_dir,
                stdout=listing,
                limits=limits,
            )
        except GitFailed:
            if listing.stat().st_size >= LIST_LIMIT:
                raise TreeTooLarge(f"the commit has more than {self.trees.files} files") from None
            raise
        else:
            size, files = await asyncio.to_thread(_sizes, listing)
        finally:
            listing.unlink(missing_ok=True)
        self.trees.check(size, files)
        return size


def _recover(directory: Path, object_format: str) -> None:
    """Create missing directories, and remove incomplete files from before a restart."""
    for name in ("repo.git/objects/pack", "repo.git/objects/info", "repo.git/refs", "packs"):
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_quietly(directory / "incoming")
    (directory / "incoming").mkdir(mode=0o700)
    for leftover in (*directory.glob("*.half"), *directory.glob("packs/*.half"), *directory.glob("*.lock")):
        leftover.unlink()
    for leftover in directory.glob("repo.git/objects/pack/tmp_*"):
        leftover.unlink()
    for stem in (directory / "tree", directory / "copy", *directory.glob("taken-*")):
        tree = Tree(stem, stem.with_suffix(".index"), stem.with_suffix(".json"))
        if not tree.state.exists():
            tree.discard()
    version, extensions = (
        (1, [("extensions", "", {"objectFormat": "sha256"})]) if object_format != "sha1" else (0, [])
    )
    core = {"repositoryFormatVersion": str(version), "bare": "true"}
    (directory / "repo.git" / "HEAD").write_text("ref: refs/heads/none\n")
    (directory / "repo.git" / "config").write_text(config_file([("core", "", core), *extensions]))


def _loaded(state: Path) -> dict[str, Any]:
    try:
        found = json.loads(state.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sizes(listing: Path) -> tuple[int, int]:
    size = files = 0
    with listing.open("rb") as file:
        rest = b""
        while chunk := file.read(1 << 18):
            *entries, rest = (rest + chunk).split(b"\0")
            for entry in entries:
                found = re.match(rb"\d+ \w+ \w+ +(\d+|-)\t", entry)
                files += 1
                size += int(found[1]) if found and found[1] != b"-" else 0
    return size, files


def _laid_out(index: Path, object_format: str) -> tuple[int, int]:
    """Bytes on disk and number of files of a tree that git has just laid out."""
    return Index(index.read_bytes(), HASH_SIZES[object_format]).size


def _size(directory: Path) -> int:
    packs = sum(path.stat().st_size for path in directory.glob("repo.git/objects/pack/*"))
    return packs + sum(int(_loaded(directory / name).get("bytes", 0)) for name in ("tree.json", "copy.json"))


def _mtime(path: Path) -> float:
    return path.stat().st_mtime
