"""Lays out a run's checkout (docs/checkout.md): a plain directory, or a git work tree.

This happens in a staging directory that no step has accessed. The agent never runs git in a workspace in which a step
has run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from pilothouse.agent.checkout import CheckoutFetcher
from pilothouse.agent.file_operations import make_real
from pilothouse.agent.git_dir import write_git_dir
from pilothouse.agent.manifest import ManifestInvalid, Repository, read_manifest
from pilothouse.agent.objects import CachedRepository, ObjectCache, Tree, TreeTooLarge
from pilothouse.agent.removal import remove_tree
from pilothouse.agent.workspace import WorkspaceError
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.workers.children import Children, ChildTimeout, Ended, Limits, script
from pilothouse.workers.git import Git, GitFailed

PREPARING = Limits(seconds=900.0)
log = structlog.get_logger("agent.layout")
NO_GIT = "the run's work tree needs git (2.30 or newer), which this agent does not have"


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The limits of one unpacked archive."""

    total_bytes: int = 2 << 30
    members: int = 300_000


class Layout:
    """``owner`` (uid, gid): the owner of the files, if steps run as another user. ``objects`` is None without git."""

    def __init__(
        self,
        fetcher: CheckoutFetcher,
        children: Children,
        git: Git | None,
        objects: ObjectCache | None,
        owner: tuple[int, int] | None,
        limits: ArchiveLimits = ArchiveLimits(),
    ) -> None:
        self._fetcher, self._children = fetcher, children
        self._git, self._objects = git, objects
        self._owner, self._limits = owner, limits
        self._noted: dict[tuple[str, str], Repository] = {}

    async def lay_out(self, checkout: pb.Checkout, staging: Path) -> Path:
        """Lay out a checkout in a directory below ``staging`` (empty and private); returns that directory.

        Raises WorkspaceError, StepImpossible, OSError.
        """
        archive = staging / "archive"
        await self._fetcher.fetch(checkout, archive)
        try:
            unpacked = await self._unpack(archive, staging)
            archive.unlink()
            if not unpacked["manifest"]:
                if checkout.packs:
                    raise ManifestInvalid("the run has packs, and its archive no manifest")
                return await self._plain(staging)
            text = await asyncio.to_thread((staging / "meta" / "manifest.json").read_bytes)
            repositories = read_manifest(text, {pack.sha256 for pack in checkout.packs})
            if not repositories:
                return await self._plain(staging)
            if self._git is None or self._objects is None:
                raise ManifestInvalid(NO_GIT)
            changed = bool(unpacked["files"])
            work = _WorkTree(self, self._git, self._objects, staging, repositories, changed)
            return await work.lay_out({pack.sha256: pack for pack in checkout.packs})
        except (GitFailed, ManifestInvalid, TreeTooLarge) as error:
            raise WorkspaceError(error.code, f"cannot lay out the work tree: {error}") from None

    def note(self, cache: str, repository: Repository) -> None:
        """Remember a repository that was laid out, to prepare for its next use."""
        self._noted[cache, repository.object_format] = repository

    async def afterwards(self) -> None:
        """Prepare copies of recently used trees, and evict from the object cache. To be run in the background."""
        while self._objects is not None and self._noted:
            (cache, object_format), repository = self._noted.popitem()
            try:
                async with self._objects.use(cache, object_format) as cached:
                    copier = partial(self._copy, object_format)
                    await cached.prepare_copy(repository.commit, repository.settings, copier)
            except (GitFailed, TreeTooLarge, ManifestInvalid, WorkspaceError, OSError) as error:
                log.warning("agent.copy_failed", reason=str(error))
        await self.clean()

    async def _copy(self, object_format: str, tree: Tree, target: Tree) -> None:
        await self.file_operation(
            target.files.parent,
            do="copy",
            tree=str(tree.files),
            index=str(tree.index),
            new_index=str(target.index),
            object_format=object_format,
            skip=None,
            into=target.files.name,
            leisurely=True,
        )

    async def clean(self) -> None:
        """Evict from the object cache what exceeds its limit."""
        if self._objects is not None:
            with contextlib.suppress(OSError):  # the next call tries again
                await self._objects.evict()

    async def _unpack(self, archive: Path, staging: Path) -> dict[str, Any]:
        job = {
            "archive": str(archive),
            "into": str(staging),
            "bytes": self._limits.total_bytes,
            "members": self._limits.members,
        }
        answer = await self._ask("pilothouse.agent.unpack", job)
        if "error" in answer:
            raise WorkspaceError(answer["code"], f"cannot unpack the archive: {answer['error']}")
        return answer

    async def _plain(self, staging: Path) -> Path:
        await self.file_operation(staging, do="chown", into="tree")
        return staging / "tree"

    async def file_operation(self, staging: Path, **job: Any) -> None:
        """Run an operation of ``file_operations.py`` below ``staging``."""
        if job["do"] == "chown" and self._owner is None:
            return
        answer = await self._ask(
            "pilothouse.agent.file_operations", {"root": str(staging), "owner": self._owner, **job}
        )
        if "error" in answer:
            raise ManifestInvalid(answer["error"])

    async def _ask(self, module: str, job: Mapping[str, Any]) -> dict[str, Any]:
        try:
            ended = await self._children.run(script(module), stdin=json.dumps(job).encode(), limits=PREPARING)
        except ChildTimeout as error:
            raise WorkspaceError("ARCHIVE_TOO_LARGE", f"cannot lay out the checkout: {error}") from None
        try:
            answer = json.loads(ended.stdout)
            assert isinstance(answer, dict)
        except (ValueError, AssertionError):
            raise _unanswered(ended) from None
        return answer


def _unanswered(ended: Ended) -> WorkspaceError:
    """The error for a child process that ended without an answer: a limit was exceeded, or it crashed."""
    how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    # Only the exception type from the traceback's last line: the rest may contain file names.
    found = re.match(rb"[A-Za-z_.]*(Error|Exception)\b", ended.stderr.rstrip().rpartition(b"\n")[2])
    if ended.code < 0 or found is None or found[0] == b"MemoryError":
        return WorkspaceError(
            "ARCHIVE_INVALID", f"the checkout takes more than it is allowed to, or is damaged ({how})"
        )
    return WorkspaceError(
        "AGENT_BROKEN",
        f"the agent cannot lay out checkouts ({found[0].decode()}): restart it if its installation was changed",
    )


class _WorkTree:
    """One git work tree in ``staging/work``; changed files are in ``staging/tree``, metadata in ``staging/meta``."""

    def __init__(
        self,
        layout: Layout,
        git: Git,
        objects: ObjectCache,
        staging: Path,
        repositories: list[Repository],
        changed: bool,
    ) -> None:
        self._layout, self._git, self._objects = layout, git, objects
        self._staging, self._repositories = staging, repositories
        self._work = staging / "work"
        self._changed = changed  # there are changed files besides the commits
        self._whole: list[Repository] = []  # laid out without regard to skip-worktree
        self._bytes = self._number = 0  # of the commits laid out so far

    async def lay_out(self, packs: Mapping[str, pb.CheckoutPack]) -> Path:
        self._work.mkdir(mode=0o755)
        for repository in self._repositories:
            await self._repository(repository, packs)
        if self._changed or any((self._staging / "tree").iterdir()):
            await self._merge()
            for repository in reversed(self._repositories):  # a submodule's state is part of its parent's
                await self._index(repository)
        await self._layout.file_operation(self._staging, do="chown", into="work")
        return self._work

    # -- one repository ---------------------------------------------------------------------------------

    async def _repository(self, repository: Repository, packs: Mapping[str, pb.CheckoutPack]) -> None:
        into = os.path.join("work", repository.path) if repository.path else "work"
        await asyncio.to_thread(make_real, os.fsencode(self._staging), os.fsencode(into))
        git_dir = self._git_dir(repository)
        await asyncio.to_thread(write_git_dir, git_dir, repository, self._repositories)
        if repository.commit:
            # A repository has one cache, even if its packs name different ones.
            cache = packs[repository.packs[0]].repository
            async with self._objects.use(cache, repository.object_format) as cached:
                await self._head(repository, cached, [packs[sha256] for sha256 in repository.packs], into)
        await self._own_objects(repository)
        await self._tags(repository)

    async def _head(
        self, repository: Repository, cached: CachedRepository, packs: list[pb.CheckoutPack], into: str
    ) -> None:
        for pack in packs:
            await cached.have(pack)
        git_dir = self._git_dir(repository)
        copy = None
        if git_dir.stat().st_dev == cached.git_dir.stat().st_dev:
            copy = await cached.take_copy(repository.commit, repository.settings)
        if copy is not None:
            self._whole.append(repository)
            await asyncio.to_thread(_move, copy, self._staging / into, git_dir)
        store = git_dir / "objects" / "pack"
        await asyncio.to_thread(_link, [path for pack in packs for path in cached.pack(pack.sha256)], store)
        if copy is None:
            await self._files(repository, cached, into)
        self._count(cached)
        await cached.drop_old_packs(set(repository.packs))
        self._layout.note(packs[0].repository, repository)

    def _count(self, cached: CachedRepository) -> None:
        """Apply the limits of one commit to the sum of all repositories. Raises TreeTooLarge."""
        size, files = cached.size
        self._bytes, self._number = self._bytes + size, self._number + files
        cached.trees.check(self._bytes, self._number)

    async def _files(self, repository: Repository, cached: CachedRepository, into: str) -> None:
        """Lay out the files of the commit: copied from the pristine tree, or written by git."""
        async with cached.pristine(repository.commit, repository.settings) as pristine:
            if pristine is not None:
                skip = self._meta("skip-worktree", repository)
                await self._layout.file_operation(
                    self._staging,
                    do="copy",
                    tree=str(pristine.files),
                    index=str(pristine.index),
                    new_index=str(self._git_dir(repository) / "index"),
                    object_format=repository.object_format,
                    skip=str(skip) if skip else None,
                    into=into,
                )
                return
        self._whole.append(repository)
        target = Tree(
            self._work_tree(repository), self._git_dir(repository) / "index", self._staging / "none"
        )
        await cached.read_tree(target, repository.commit, repository.settings, self._git_dir(repository))

    async def _own_objects(self, repository: Repository) -> None:
        """Add objects that only this run has: staged files and tags."""
        pack = self._meta("pack", repository)
        if pack is None:
            return
        index = pack.with_suffix(".idx")
        said = await self._run(repository, "index-pack", "-o", str(index), str(pack))
        name = re.search(rb"[0-9a-f]{40,64}", said)
        store = self._git_dir(repository) / "objects" / "pack"
        for path, suffix in ((pack, ".pack"), (index, ".idx")):
            path.chmod(0o444)
            path.rename(store / f"pack-{name[0].decode() if name else 'own'}{suffix}")

    async def _tags(self, repository: Repository) -> None:
        if not repository.tags:
            return
        lines = [f"create refs/tags/{name}\0{target}\0" for name, target in repository.tags.items()]
        await self._run(repository, "update-ref", "--stdin", "-z", stdin=os.fsencode("".join(lines)))
        await self._run(repository, "pack-refs", "--all")

    # -- the changes ------------------------------------------------------------------------------------

    async def _merge(self) -> None:
        lists = [("deleted", repository) for repository in self._repositories]
        lists += [("skip-worktree", repository) for repository in self._whole]
        deleted = [
            (os.path.join("work", repository.path), str(file))
            for kind, repository in lists
            if (file := self._meta(kind, repository))
        ]
        indexes = [
            (os.path.join("work", repository.path).rstrip("/"), str(index), repository.object_format)
            for repository in self._repositories
            if (index := self._git_dir(repository) / "index").exists()
        ]
        places = [os.path.join("work", repository.path) for repository in self._repositories]
        job = {"files": "tree", "deleted": deleted, "repositories": places, "indexes": indexes}
        await self._layout.file_operation(self._staging, do="merge", into="work", **job)

    async def _index(self, repository: Repository) -> None:
        """Install the author's index and refresh its stat data, so that git status is fast."""
        if entries := self._meta("index", repository):
            await self._run(repository, "update-index", "-z", "--index-info", stdin=entries)
        if skip := self._meta("skip-worktree", repository):
            await self._run(repository, "update-index", "-z", "--skip-worktree", "--stdin", stdin=skip)
        await self._intend(repository)
        if repository.commit or entries:
            await self._run(repository, "update-index", "-q", "--unmerged", "--refresh", good=(0, 1))
        if unchanged := self._meta("assume-unchanged", repository):
            await self._run(
                repository, "update-index", "-z", "--assume-unchanged", "--stdin", stdin=unchanged
            )

    async def _intend(self, repository: Repository) -> None:
        """``git add --intent-to-add`` requires a file; if the author has none, create it temporarily."""
        if not repository.intent_to_add:
            return
        work_tree = self._work_tree(repository)
        made = await asyncio.to_thread(_stand_ins, work_tree, repository.intent_to_add)
        paths = b"".join(os.fsencode(path) + b"\0" for path in repository.intent_to_add)
        options = ("--intent-to-add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul")
        await self._run(repository, "add", *options, stdin=paths)
        for path in reversed(made):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    # -- where things are -------------------------------------------------------------------------------

    def _work_tree(self, repository: Repository) -> Path:
        return self._work / repository.path

    def _git_dir(self, repository: Repository) -> Path:
        return self._work_tree(repository) / ".git"

    def _meta(self, kind: str, repository: Repository) -> Path | None:
        path = self._staging / "meta" / f"{kind}-{repository.number}"
        return path if path.exists() else None

    async def _run(self, repository: Repository, *arguments: str, **options: Any) -> bytes:
        return await self._git.run(
            *arguments,
            git_dir=self._git_dir(repository),
            work_tree=self._work_tree(repository),
            config=repository.settings,
            **options,
        )


def _move(tree: Tree, into: Path, git_dir: Path) -> None:
    """Move a tree of the cache to this directory, which contains nothing but ``.git``."""
    if os.listdir(into) == [".git"]:
        git_dir.rename(tree.files / ".git")
        into.rmdir()
        tree.files.rename(into)
        into.chmod(0o755)
    else:  # a nested repository, where the one around it has files
        for name in os.listdir(tree.files):
            target = into / name
            remove_tree(target)
            (tree.files / name).rename(target)
        tree.files.rmdir()
    tree.index.rename(git_dir / "index")


def _link(paths: list[Path], directory: Path) -> None:
    """Link files into ``directory``, or copy them if hard links are not supported."""
    for path in paths:
        try:
            os.link(path, directory / path.name)
        except FileExistsError:
            continue
        except OSError:
            shutil.copyfile(path, directory / path.name)


def _stand_ins(work_tree: Path, paths: tuple[str, ...]) -> list[Path]:
    made: list[Path] = []
    for path in paths:
        at = work_tree
        for part in path.split("/")[:-1]:
            at = at / part
            if not os.path.lexists(at):
                at.mkdir()
                made.append(at)
            elif at.is_symlink() or not at.is_dir():
                raise ManifestInvalid(f"{path[:200]!r} is in no directory of the work tree")
        if not os.path.lexists(work_tree / path):
            (work_tree / path).touch(exist_ok=False)
            made.append(work_tree / path)
    return made
