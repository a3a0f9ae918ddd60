"""Copies of git repositories on this server, and what is read from and written to them.

Below the root, one bare repository for each project and repository, and ``scratch``. A copy is only a cache: every
use asks the forge first, with the project's own credentials, so that a copy never shows more than these do. git runs
without the configuration, hooks and filters of any repository (:mod:`pilothouse.workers.git`), bounded in time,
memory and bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilothouse.pipelines.errors import BranchMoved, RepositoryUnavailable
from pilothouse.pipelines.git.address import RepositoryAddress, good_branch
from pilothouse.pipelines.git.credentials import SshSettings, environment
from pilothouse.pipelines.git.slots import Slots
from pilothouse.workers.children import Children, ChildWroteTooMuch, Limits
from pilothouse.workers.git import Git, GitFailed, config_file, find_git

MIB = 1 << 20
ASKING, FETCHING = 30.0, 120.0
"""Seconds for a question about refs, and for a fetch or a push."""
MAX_REFS = 4 * MIB
"""Bytes of the list of a repository's refs."""
FETCHED = "refs/pilothouse/fetched"
MAX_PACKS = 60
"""Packs of a copy; with more of them it is slow, and made anew."""
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NETWORK = {
    "protocol.version": "2",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",
    "fetch.writeCommitGraph": "false",
    "submodule.recurse": "false",
    "transfer.bundleURI": "false",
}


@dataclass(frozen=True, slots=True)
class GitSettings:
    """``fetched``: bytes that one fetch may write; ``kept``: bytes of all copies, beyond which the least recently
    used are deleted; ``ca``: certificates (PEM) that https servers are checked with, besides those of the system."""

    fetched: int = 2048 * MIB
    kept: int = 10_240 * MIB
    known_hosts: Path = Path("known_hosts")
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository as a project reaches it. ``secret``: what git shows the forge, see ``credentials.py``."""

    project: str
    address: RepositoryAddress
    secret: str = ""

    @property
    def directory(self) -> str:
        """The name of its copy."""
        return hashlib.sha256(f"{self.project}\0{self.address.url}".encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Author:
    """Who a commit is by."""

    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Push:
    """A pushed commit; ``answer``: what the forge said, such as the address of a pull request."""

    commit: str
    answer: str


@dataclass(frozen=True, slots=True)
class Tag:
    """``object``: the commit, or of an annotated tag its own object."""

    name: str
    object: str
    commit: str

    @property
    def annotated(self) -> bool:
        """Whether the tag has an object of its own."""
        return self.object != self.commit


@dataclass(frozen=True, slots=True)
class Head:
    """``commit``: empty if the branch does not exist."""

    commit: str
    branch: str


def read_head(listed: str, ref: str) -> Head:
    """The output of ``git ls-remote --symref`` for one ref."""
    commit, target = "", ref
    for line in listed.splitlines():
        value, _, name = line.partition("\t")
        if name == ref and value.startswith("ref: "):
            target = value.removeprefix("ref: ")
        elif name == ref and COMMIT.fullmatch(value):
            commit = value
    return Head(commit, target.removeprefix("refs/heads/") if target != "HEAD" else "")


def read_tags(listed: str) -> list[Tag]:
    """The output of ``git ls-remote --tags``."""
    objects: dict[str, str] = {}
    commits: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, ref = line.partition("\t")
        tag = ref.removeprefix("refs/tags/")
        if COMMIT.fullmatch(name) and tag != ref and good_branch(tag.removesuffix("^{}")):
            (commits if tag.endswith("^{}") else objects)[tag.removesuffix("^{}")] = name
    return [Tag(tag, name, commits.get(tag, name)) for tag, name in objects.items()]


class Repositories:
    """All copies. Every method raises :class:`RepositoryUnavailable` with a reason that holds no secret."""

    def __init__(self, root: Path, settings: GitSettings) -> None:
        self._root = root
        self._settings = settings
        self._scratch = root / "scratch"
        self._git: Git | None = None
        self._slots = Slots()
        self._locks: dict[str, asyncio.Lock] = {}

    async def head(self, remote: Remote, branch: str) -> Head:
        """The head of a branch; of the default branch if that is empty. Asks the forge."""
        ref = f"refs/heads/{branch}" if branch else "HEAD"
        async with self._copy(remote) as copy:
            listed = await self._network(
                copy, remote, ASKING, "ls-remote", "--symref", "--", remote.address.url, ref
            )
        return read_head(listed.decode("utf-8", "replace"), ref)

    @contextlib.asynccontextmanager
    async def fetched(self, remote: Remote, commit: str, branch: str, depth: int) -> AsyncIterator[Copy]:
        """The copy, with a commit of this branch and ``depth`` commits of its history (0: all).

        Nobody else uses it meanwhile. The commit is fetched by its id; where the forge does not allow that, the
        branch must still have it as its head.
        """
        async with self._copy(remote) as copy:
            found = Copy(self, copy, remote)
            if not await found.holds(commit, depth):
                try:
                    await self._fetch(copy, remote, commit, depth)
                except RepositoryUnavailable:
                    await self._fetch(copy, remote, f"refs/heads/{branch}" if branch else "HEAD", depth)
                if not await found.holds(commit, depth):
                    raise RepositoryUnavailable(f"{remote.address.url} has no commit {commit[:12]} any more")
            yield found
        await asyncio.to_thread(self._evict)

    async def _fetch(self, copy: Path, remote: Remote, ref: str, depth: int) -> None:
        shallow = (copy / "shallow").exists()
        complete = not shallow and (copy / FETCHED).exists()  # --depth would cut off what it has
        how = (
            ["--unshallow"]
            if shallow and not depth
            else [f"--depth={depth}"]
            if depth and not complete
            else []
        )
        await self._network(
            copy, remote, FETCHING, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc", *how,
            "--", remote.address.url, f"+{ref}:{FETCHED}",
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _copy(self, remote: Remote) -> AsyncIterator[Path]:
        """The directory of the copy, made if there is none; used by one task at a time."""
        lock = self._locks.setdefault(remote.directory, asyncio.Lock())
        async with lock:
            copy = self._root / f"{remote.directory}.git"
            await self._prepared(copy)
            copy.touch()
            yield copy

    async def _prepared(self, copy: Path) -> None:
        if self._git is None:
            self._git = await asyncio.to_thread(self._found)
        if not (copy / "config").exists():
            await asyncio.to_thread(_initialize, copy)

    def _found(self) -> Git:
        found = find_git()
        if found is None:
            raise RepositoryUnavailable("this server has no git (2.30 or newer), which repositories need")
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700, parents=True)
        return Git(*found, Children(self._scratch))

    async def _network(self, copy: Path, remote: Remote, seconds: float, *arguments: str) -> bytes:
        """Run git with access to this remote; returns its output. stderr is the answer of a push."""
        config = _NETWORK | {f"protocol.{remote.address.scheme}.allow": "always"}
        if self._settings.ca is not None:
            config["http.sslCAInfo"] = str(self._settings.ca)
        limits = Limits(seconds=seconds, output=self._settings.fetched, written=self._settings.fetched)
        ssh = SshSettings(self._settings.known_hosts)
        async with self._slots.slot(remote.project):
            with environment(remote.address, remote.secret, ssh, self._scratch) as variables:
                return await self.run(
                    copy,
                    *arguments,
                    config=config,
                    limits=limits,
                    environment=variables,
                    about=remote.address.url,
                )

    async def run(
        self,
        copy: Path,
        *arguments: str,
        about: str,
        stdin: bytes = b"",
        stdout: Path | None = None,
        config: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Limits = Limits(seconds=60.0),
        index: Path | None = None,
    ) -> bytes:
        """Run git in a copy. ``about``: what messages name."""
        assert self._git is not None, "the copy was prepared"
        try:
            return await self._git.run(
                *arguments, git_dir=copy, stdin=stdin, stdout=stdout, config=config, environment=environment,
                limits=limits, index=index,
            )  # fmt: skip
        except ChildWroteTooMuch:
            raise RepositoryUnavailable(
                f"{about} is too large: {limits.written // MIB} MiB at most"
            ) from None
        except GitFailed as error:
            raise RepositoryUnavailable(f"{about}: {error}") from None

    async def push(self, copy: Path, remote: Remote, commit: str, branch: str, expected: str) -> str:
        """Make ``commit`` the head of a branch whose head is ``expected`` (empty: that does not exist). Returns what
        the forge said. Raises :class:`BranchMoved`."""
        ref = f"refs/heads/{branch}"
        try:
            said = await self._network(
                copy, remote, FETCHING, "push", "--porcelain", "--no-verify", "--no-signed",
                "--recurse-submodules=no", f"--force-with-lease={ref}:{expected}",
                "--", remote.address.url, f"{commit}:{ref}",
            )  # fmt: skip
        except RepositoryUnavailable as error:
            if any(
                word in str(error) for word in ("stale info", "rejected", "fetch first", "failed to push")
            ):
                raise BranchMoved(
                    f"branch {branch!r} of {remote.address.url} was not updated: {error}"
                ) from None
            raise
        return said.decode("utf-8", "replace")

    async def tags(self, copy: Path, remote: Remote, commits: Collection[str], most: int) -> list[Tag]:
        """See :meth:`Copy.tags`."""
        listed = await self._network(copy, remote, ASKING, "ls-remote", "--tags", "--", remote.address.url)
        tags = [tag for tag in read_tags(listed.decode("utf-8", "replace")) if tag.commit in commits][:most]
        wanted = [f"+refs/tags/{tag.name}:refs/tags/{tag.name}" for tag in tags if tag.annotated]
        if wanted:
            await self._network(
                copy, remote, FETCHING, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc",
                "--", remote.address.url, *wanted,
            )  # fmt: skip
        return tags

    def _evict(self) -> None:
        """Delete the least recently used copies while all of them together are too large."""
        copies = sorted(self._root.glob("*.git"), key=lambda path: path.stat().st_mtime)
        sizes = {path: _size(path) for path in copies}
        for path in copies:
            small = sum(sizes.values()) <= self._settings.kept or path == copies[-1]
            if small and len(list(path.glob("objects/pack/*.pack"))) <= MAX_PACKS:
                continue
            lock = self._locks.get(path.stem)
            if lock is None or not lock.locked():
                sizes.pop(path)
                away = self._scratch / f"{path.stem}-{time.monotonic_ns()}"
                path.rename(away)
                shutil.rmtree(away, ignore_errors=True)


class Copy:
    """A copy in use."""

    def __init__(self, repositories: Repositories, directory: Path, remote: Remote) -> None:
        self._repositories = repositories
        self.directory = directory
        self.remote = remote

    async def git(self, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> bytes:
        """The output of a git command that does not use the network."""
        return await self._repositories.run(
            self.directory, *arguments, about=self.remote.address.url, stdin=stdin, index=index
        )

    async def pack_into(self, file: Path, wanted: list[str], limit: int) -> None:
        """Write a pack with the objects that ``git rev-list --objects`` finds for these lines."""
        await self._repositories.run(
            self.directory, "pack-objects", "--stdout", "-q", "--delta-base-offset", "--revs", stdin=_lines(wanted),
            stdout=file, config={"core.bigFileThreshold": "32k"}, limits=Limits(FETCHING, output=limit),
            about=self.remote.address.url,
        )  # fmt: skip

    async def holds(self, commit: str, depth: int) -> bool:
        """Whether the commit is here with ``depth`` commits of its history (0: all)."""
        try:
            listed = await self.git("rev-list", "--max-count=1", commit, "--")
        except RepositoryUnavailable:
            return False
        if not listed.strip():
            return False
        cut = await self.shallow()
        if not cut or depth == 1:
            return True
        if depth == 0:
            reached = (await self.git("rev-list", commit, "--")).decode().split()
            return not cut & set(reached)
        near = (
            (await self.git("rev-list", f"--max-count={depth - 1}", "--first-parent", commit, "--"))
            .decode()
            .split()
        )
        return not cut & set(near)

    async def shallow(self) -> set[str]:
        """The commits whose parents are not here."""
        file = self.directory / "shallow"
        return set((await asyncio.to_thread(file.read_text, "ascii")).split()) if file.exists() else set()

    async def tags(self, commits: Collection[str], most: int) -> list[Tag]:
        """The forge's tags of these commits, at most ``most``; the objects of annotated ones are fetched."""
        return await self._repositories.tags(self.directory, self.remote, commits, most)

    async def pack_of(self, objects: Sequence[str]) -> bytes:
        """A pack with just these objects."""
        return await self.git("pack-objects", "--stdout", "-q", stdin=_lines(objects))

    async def file(self, commit: str, path: str, limit: int) -> bytes | None:
        """The contents of a regular file; ``None`` if there is none of this path. Raises
        :class:`RepositoryUnavailable` for a link, a directory, or more than ``limit`` bytes."""
        listed = await self.git("ls-tree", "-z", "--long", commit, "--", path)
        if not listed:
            return None
        mode, kind, name, size = listed.partition(b"\t")[0].decode("ascii").split()
        if kind != "blob" or mode not in ("100644", "100755"):
            raise RepositoryUnavailable(f"{path} of {self.remote.address.url} is not a regular file")
        if int(size) > limit:
            raise RepositoryUnavailable(f"{path} has {size} bytes, at most {limit} are allowed")
        return await self.git("cat-file", "blob", name)

    async def commit_file(
        self, parent: str, path: str, text: bytes, message: str, author: Author, when: int
    ) -> str:
        """A commit on top of ``parent`` (empty: a first commit) in which one file has this text. ``when``: seconds
        since 1970. It is not pushed."""
        blob = (await self.git("hash-object", "-w", "--no-filters", "--stdin", stdin=text)).decode().strip()
        index = self.directory / "commit.index"
        index.unlink(missing_ok=True)
        if parent:
            await self.git("read-tree", parent, index=index)
        await self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", index=index)
        tree = (await self.git("write-tree", index=index)).decode().strip()
        index.unlink(missing_ok=True)
        body = [f"tree {tree}", *([f"parent {parent}"] if parent else [])]
        body += [f"author {author.name} <{author.email}> {when} +0000"]
        body += [f"committer {author.name} <{author.email}> {when} +0000"]
        commit = "\n".join([*body, "", message, ""]).encode()
        return (await self.git("hash-object", "-w", "-t", "commit", "--stdin", stdin=commit)).decode().strip()

    async def push(self, commit: str, branch: str, expected: str) -> str:
        """See :meth:`Repositories.push`."""
        return await self._repositories.push(self.directory, self.remote, commit, branch, expected)


def _initialize(copy: Path) -> None:
    """A bare repository with our configuration alone; nothing of a template."""
    half = copy.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    for directory in ("objects/info", "objects/pack", "refs/heads"):
        (half / directory).mkdir(parents=True, mode=0o700)
    (half / "HEAD").write_text("ref: refs/heads/none\n")
    (half / "config").write_text(
        config_file([("core", "", {"repositoryformatversion": "0", "bare": "true"})])
    )
    half.rename(copy)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def _lines(words: Sequence[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()
