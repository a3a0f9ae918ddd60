"""A copy of a repository while it is used: what is read from it, and commits that are made in it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.pipelines.errors import RepositoryUnavailable
from pilothouse.pipelines.git.refs import Tag
from pilothouse.workers.children import Limits

if TYPE_CHECKING:
    from pilothouse.pipelines.git.repositories import Remote, Repositories

PACKING = 120.0
"""Seconds in which a pack is made."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who a commit is by."""

    name: str
    email: str


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
            stdout=file, config={"core.bigFileThreshold": "32k"}, limits=Limits(PACKING, output=limit),
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


def _lines(words: Sequence[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()
