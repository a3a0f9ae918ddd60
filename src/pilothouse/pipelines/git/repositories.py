"""Copies of git repositories on this server, and what is read from and written to them.

Below the root, one bare repository for each project and repository, ``asking``, an empty one for questions about any
repository, which may not exist, and ``scratch``. A copy is only a cache: every
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
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.pipelines.errors import BranchMoved, RepositoryUnavailable
from pilothouse.pipelines.git.address import RepositoryAddress
from pilothouse.pipelines.git.copy import Copy
from pilothouse.pipelines.git.credentials import SshSettings, environment
from pilothouse.pipelines.git.refs import Head, Tag, read_head, read_tags
from pilothouse.pipelines.git.slots import Slots
from pilothouse.workers.children import Children, ChildWroteTooMuch, Ended, Limits
from pilothouse.workers.git import Git, GitFailed, config_file, find_git

MIB = 1 << 20
ASKING, FETCHING = 30.0, 120.0
"""Seconds for a question about refs, and for a fetch or a push."""
MAX_REFS = 4 * MIB
"""Bytes of the list of a repository's refs."""
FETCHED = "refs/pilothouse/fetched"
MAX_COPIES = 500
"""Copies of all projects: each costs files, however small its repository is."""
MAX_PACKS = 60
"""Packs of a copy; with more of them it is slow, and made anew."""
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


_UNKNOWN_HOST = re.compile(
    r"host key is known for|[Hh]ost key verification failed|REMOTE HOST IDENTIFICATION"
)


def reason(error: GitFailed) -> str:
    """Why git failed, for its user: ssh's reason where git only says that the connection ended."""
    if _UNKNOWN_HOST.search(error.stderr):
        return "the host key of this server is not known, or has changed (PILOT_GIT_KNOWN_HOSTS)"
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    if "Could not read from remote repository" in str(error) and lines and not lines[0].startswith("fatal:"):
        return "".join(char if char.isprintable() else "?" for char in lines[0][:300])
    return str(error)


class Repositories:
    """All copies. Every method raises :class:`RepositoryUnavailable` with a reason that holds no secret."""

    def __init__(self, root: Path, settings: GitSettings) -> None:
        self._root = root
        self._settings = settings
        self._scratch = root / "scratch"
        self._asking = root / "asking"
        self._git: Git | None = None
        self._slots = Slots()
        self._locks: dict[str, asyncio.Lock] = {}
        self._preparing = asyncio.Lock()

    async def head(self, remote: Remote, branch: str) -> Head:
        """The head of a branch; of the default branch if that is empty. Asks the forge."""
        ref = f"refs/heads/{branch}" if branch else "HEAD"
        await self._prepared(self._asking)
        listed = await self._network(
            self._asking, remote, ASKING, "ls-remote", "--symref", "--", remote.address.url, ref
        )
        return read_head(listed.stdout.decode("utf-8", "replace"), ref)

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
        async with self._preparing:
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

    async def _network(self, copy: Path, remote: Remote, seconds: float, *arguments: str) -> Ended:
        """Run git with access to this remote."""
        config = _NETWORK | {f"protocol.{remote.address.scheme}.allow": "always"}
        if self._settings.ca is not None:
            config["http.sslCAInfo"] = str(self._settings.ca)
        limits = Limits(seconds=seconds, output=self._settings.fetched, written=self._settings.fetched)
        ssh = SshSettings(self._settings.known_hosts)
        async with self._slots.slot(remote.project):
            with environment(remote.address, remote.secret, ssh, self._scratch) as variables:
                return await self.call(
                    copy,
                    *arguments,
                    config=config,
                    limits=limits,
                    environment=variables,
                    about=remote.address.url,
                )

    async def run(self, copy: Path, *arguments: str, about: str, **how: Any) -> bytes:
        """The output of git in a copy; see :meth:`call`."""
        return (await self.call(copy, *arguments, about=about, **how)).stdout

    async def call(
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
    ) -> Ended:
        """Run git in a copy. ``about``: what messages name."""
        assert self._git is not None, "the copy was prepared"
        try:
            return await self._git.call(
                *arguments, git_dir=copy, stdin=stdin, stdout=stdout, config=config, environment=environment,
                limits=limits, index=index,
            )  # fmt: skip
        except ChildWroteTooMuch:
            raise RepositoryUnavailable(
                f"{about} is too large: {limits.written // MIB} MiB at most"
            ) from None
        except GitFailed as error:
            raise RepositoryUnavailable(f"{about}: {reason(error)}") from None

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
        return said.stderr.decode("utf-8", "replace")

    async def tags(self, copy: Path, remote: Remote, commits: Collection[str], most: int) -> list[Tag]:
        """See :meth:`Copy.tags`."""
        listed = await self._network(copy, remote, ASKING, "ls-remote", "--tags", "--", remote.address.url)
        tags = [tag for tag in read_tags(listed.stdout.decode("utf-8", "replace")) if tag.commit in commits][
            :most
        ]
        wanted = [f"+refs/tags/{tag.name}:refs/tags/{tag.name}" for tag in tags if tag.annotated]
        if wanted:
            await self._network(
                copy, remote, FETCHING, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc",
                "--", remote.address.url, *wanted,
            )  # fmt: skip
        return tags

    def _evict(self) -> None:
        """Delete the least recently used copies while all of them together are too many or too large."""
        copies = sorted(self._root.glob("*.git"), key=lambda path: path.stat().st_mtime)
        sizes = {path: _size(path) for path in copies}
        for path in copies:
            few = len(sizes) <= MAX_COPIES and sum(sizes.values()) <= self._settings.kept
            small = few or path == copies[-1]
            if small and len(list(path.glob("objects/pack/*.pack"))) <= MAX_PACKS:
                continue
            lock = self._locks.get(path.stem)
            if lock is None or not lock.locked():
                sizes.pop(path)
                away = self._scratch / f"{path.stem}-{time.monotonic_ns()}"
                path.rename(away)
                shutil.rmtree(away, ignore_errors=True)


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
