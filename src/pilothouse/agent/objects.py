"""The object cache: for each repository its packs, and the tree of the commit that was laid out last.

Below the root, for each repository: ``repo.git`` (a bare repository of our own making, its packs named by their
sha256), ``incoming`` (packs on their way), ``packs`` (a mark for each pack that is indexed), ``tree`` and
``tree.index`` (a pristine work tree, given to no step) with ``tree.json`` (what the tree is; gone while it changes),
and as ``spare`` a copy of it, made beforehand, that becomes the next workspace.
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
from pilothouse.agent.children import ChildWroteTooMuch, Limits
from pilothouse.agent.git import Git, GitFailed, config_file
from pilothouse.agent.place import HASH_SIZES, Index
from pilothouse.wire.agent.v1 import agent_pb2 as pb

MAX_PACKS = 60  # of one repository; more make every look-up slow
LIST_LIMIT = 64 << 20  # bytes of a tree's listing
FREE = 1 << 30  # bytes that trees leave free on the disk
WORTH_A_SPARE = 32 << 20  # bytes of a tree
BESIDE = 1024  # bytes written for each file beside its own, such as its entry of the index
DURABLE = {"core.fsync": "default"}  # what is in the cache must be whole after a power cut

log = structlog.get_logger("agent.objects")


class TreeTooLarge(Exception):
    """A commit has more files, or larger ones, than this agent lays out."""

    code = "TREE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Of a commit's tree: the bytes of all files, and how many there are."""

    bytes: int
    files: int

    @property
    def laying_out(self) -> Limits:
        """Of the git that does: by ``ident``, line ends and encodings files grow beyond the blobs' sizes."""
        return Limits(written=self.bytes + self.files * BESIDE)

    def check(self, bytes: int, files: int) -> None:
        """Raises TreeTooLarge."""
        if files > self.files:
            raise TreeTooLarge(f"the commit has {files} files, more than {self.files}")
        if bytes > self.bytes:
            raise TreeTooLarge(f"the commit's files have {bytes} bytes, more than {self.bytes}")


@dataclass(frozen=True, slots=True)
class Tree:
    """A work tree with its index, and what it is: not there while it changes."""

    files: Path
    index: Path
    state: Path

    def write(self, state: Mapping[str, Any]) -> None:
        """It is whole, and this."""
        half = self.state.with_suffix(".half")
        half.write_text(json.dumps(state))
        half.replace(self.state)

    def discard(self) -> None:
        """It goes."""
        for path in (self.state, self.index, self.index.with_name(self.index.name + ".lock")):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.files, ignore_errors=True)


Copy = Callable[[Tree, Tree], Awaitable[None]]
"""Copies the files of one tree into another, which is empty, with an index of its own."""


@dataclass(slots=True)
class _Shared:
    """What those share who use a repository at the same time."""

    users: int = 0
    recovery: asyncio.Lock = field(default_factory=asyncio.Lock)
    tree: asyncio.Lock = field(default_factory=asyncio.Lock)
    spare: asyncio.Lock = field(default_factory=asyncio.Lock)
    packs: dict[str, asyncio.Lock] = field(default_factory=dict)


class ObjectCache:
    """The repositories below ``root``. ``limit``: bytes beyond which those that nobody uses go, oldest use first."""

    def __init__(self, root: Path, git: Git, fetcher: CheckoutFetcher, limit: int, trees: TreeLimits) -> None:
        self._root, self._git, self._fetcher = root, git, fetcher
        self._limit, self._trees = limit, trees
        self._used: dict[str, _Shared] = {}
        self._recovered: set[str] = set()
        self._trash = itertools.count()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def use(self, repository: str, object_format: str) -> AsyncIterator[CachedRepository]:
        """The cache of a repository, which stays while it is used."""
        name = (
            f"{hashlib.sha256(repository.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}-{object_format}"
        )
        directory = self._root / name
        shared = self._used.setdefault(name, _Shared())
        shared.users += 1
        try:
            async with shared.recovery:  # else one user's recovery removes what another has begun to fetch
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
        """Remove what is over the limit, and what an earlier life has left half removed."""
        doomed = await asyncio.to_thread(self._too_much)
        for directory in doomed:
            if directory.name in self._used:
                continue
            self._recovered.discard(directory.name)
            trash = self._root / f".trash-{time.time_ns()}-{next(self._trash)}"
            with contextlib.suppress(FileNotFoundError):
                directory.rename(trash)
                log.info("agent.cache_evicted", repository=directory.name)
        for trash in self._root.glob(".trash-*"):
            await asyncio.to_thread(shutil.rmtree, trash, True)

    def _too_much(self) -> list[Path]:
        kept = [path for path in self._root.iterdir() if not path.name.startswith(".")]
        sizes = {path: _size(path) for path in kept}
        over = sum(sizes.values()) - self._limit
        doomed = []
        for path in sorted(kept, key=lambda path: path.stat().st_mtime):
            if over > 0 and path.name not in self._used:
                over -= sizes[path]
                doomed.append(path)
        return doomed


class CachedRepository:
    """One repository of the cache, while it is used."""

    def __init__(
        self, directory: Path, git: Git, fetcher: CheckoutFetcher, shared: _Shared, trees: TreeLimits
    ) -> None:
        self.git_dir = directory / "repo.git"
        self._directory, self._git, self._fetcher = directory, git, fetcher
        self._shared, self.trees = shared, trees
        self.size = (0, 0)  # bytes and files of the tree that was given last

    def pack(self, sha256: str) -> tuple[Path, Path]:
        """The files of a pack: the pack and its index."""
        stem = self.git_dir / "objects" / "pack" / f"pack-{sha256}"
        return stem.with_suffix(".pack"), stem.with_suffix(".idx")

    async def have(self, pack: pb.CheckoutPack) -> None:
        """Fetch and index a pack unless it is there; those who need the same one at a time fetch it once.

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
            # Every object is inflated and hashed. What a tree may be called is checked where it is laid out.
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
        """Whether it is there and nobody has written to it: workspaces hold hard links of it."""
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
        """Too many packs: those go that have not been used for longest. Only while nobody else is here."""
        marks = await asyncio.to_thread(lambda: sorted((self._directory / "packs").iterdir(), key=_mtime))
        if self._shared.users > 1:
            return
        for mark in marks[: max(0, len(marks) - MAX_PACKS)]:
            if mark.name not in keep:
                for path in (mark, *self.pack(mark.name)):
                    path.unlink(missing_ok=True)

    # -- the pristine tree, and a copy of it that is ready to be given away --------------------------------

    @contextlib.asynccontextmanager
    async def pristine(self, commit: str, settings: Mapping[str, str]) -> AsyncIterator[Tree | None]:
        """The tree of a commit, unchanged while in the context; None where the disk is too full for it.

        Raises GitFailed, TreeTooLarge, OSError.
        """
        async with self._shared.tree:
            yield await self._pristine(commit, settings)

    async def take_spare(self, commit: str, settings: Mapping[str, str]) -> Tree | None:
        """The spare tree, brought to this commit; it is the caller's, to be moved away at once.

        Raises GitFailed, TreeTooLarge, OSError.
        """
        spare = self._named("spare")
        async with self._shared.spare:
            there = await asyncio.to_thread(_loaded, spare.state)
            if there.get("settings") != dict(settings):
                return None
            if there.get("commit") != commit:
                await self.measure(commit)
            spare.state.unlink()
            await self.read_tree(spare, commit, settings)
            taken = self._named(f"taken-{time.time_ns()}")
            spare.files.rename(taken.files)
            spare.index.rename(taken.index)
            return taken

    async def make_spare(self, commit: str, settings: Mapping[str, str], copy: Copy) -> None:
        """Copy the pristine tree, where that takes long enough to be worth it, and there is room for it."""
        spare = self._named("spare")
        async with self._shared.spare, self._shared.tree:
            tree = await self._pristine(commit, settings)
            there = await asyncio.to_thread(_loaded, spare.state)
            if tree is None or there.get("settings") == dict(settings):
                return
            size = int(_loaded(tree.state).get("bytes", 0))
            if size < WORTH_A_SPARE or await self._free() - size < FREE:
                return
            await asyncio.to_thread(spare.discard)
            spare.files.mkdir(mode=0o700)
            await copy(tree, spare)
            spare.write({"commit": commit, "settings": dict(settings), "bytes": size})

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
        # The pristine tree, and what is copied from it.
        if await self._free() - 2 * size + int(there.get("bytes", 0)) < FREE:
            await asyncio.to_thread(tree.discard)
            return None
        tree.files.mkdir(mode=0o700, exist_ok=True)
        await self.read_tree(tree, commit, settings)
        # An index as old as its files has git read them all again the next time.
        later = time.time() + 2
        os.utime(tree.index, (later, later))
        size, files = self.size
        tree.write({"commit": commit, "settings": dict(settings), "bytes": size, "files": files})
        return tree

    async def read_tree(
        self, tree: Tree, commit: str, settings: Mapping[str, str], git_dir: Path | None = None
    ) -> None:
        """Have git lay out a commit, over what is there. ``git_dir``: of another repository that has it, too.

        Raises GitFailed, TreeTooLarge; then nothing of the tree is left.
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
        except BaseException:  # of no use to anybody, and counted by nobody
            await asyncio.to_thread(tree.discard)
            raise

    async def _free(self) -> int:
        return (await asyncio.to_thread(shutil.disk_usage, self._directory)).free

    def _named(self, name: str) -> Tree:
        stem = self._directory / name
        return Tree(stem, stem.with_suffix(".index"), stem.with_suffix(".json"))

    async def measure(self, commit: str) -> int:
        """The bytes of all files of a commit. Raises TreeTooLarge; GitFailed where it is not there."""
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
    """Make what is missing, and remove what an interrupted life has left."""
    for name in ("repo.git/objects/pack", "repo.git/objects/info", "repo.git/refs", "packs"):
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(directory / "incoming", ignore_errors=True)
    (directory / "incoming").mkdir(mode=0o700)
    for leftover in (*directory.glob("*.half"), *directory.glob("packs/*.half"), *directory.glob("*.lock")):
        leftover.unlink()
    for leftover in directory.glob("repo.git/objects/pack/tmp_*"):
        leftover.unlink()
    for stem in (directory / "tree", directory / "spare", *directory.glob("taken-*")):
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
    """Bytes and files of a tree that git has just laid out, as they lie there."""
    return Index(index.read_bytes(), HASH_SIZES[object_format]).size


def _size(directory: Path) -> int:
    packs = sum(path.stat().st_size for path in directory.glob("repo.git/objects/pack/*"))
    return packs + sum(int(_loaded(directory / name).get("bytes", 0)) for name in ("tree.json", "spare.json"))


def _mtime(path: Path) -> float:
    return path.stat().st_mtime
