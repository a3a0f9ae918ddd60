"""Makes the checkout of a run from a repository at a forge (docs/checkout.md): packs and an archive with a manifest.

Agents get it like an uploaded work tree, so that they need neither access to the forge nor its credentials.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from pilothouse.blobs.service import Blob, Blobs
from pilothouse.engine import checkouts
from pilothouse.engine.checkouts import RepositoryCommit
from pilothouse.pipelines.errors import RepositoryInvalid, RepositoryUnavailable
from pilothouse.pipelines.git.address import read_address
from pilothouse.pipelines.git.copy import Copy
from pilothouse.pipelines.git.history import History, history_of, read_parents, wanted_for_pack
from pilothouse.pipelines.git.repositories import Remote, Repositories
from pilothouse.storage import Storage

MAX_SUBMODULES, MAX_NESTING = 50, 5
MAX_CHAIN = 10
"""Packs of one commit; then one complete pack is made."""
MAX_TAGS = 1000
CHUNK = 256 << 10


@dataclass(frozen=True, slots=True)
class CheckoutOptions:
    """``checkout`` of a spec: see docs/pipelines.md."""

    depth: int = 1
    tags: bool = False
    submodules: bool = False


@dataclass(slots=True)
class WorkTree:
    """The checkout of one commit. ``new``: received blobs, to be recorded by the transaction that starts the run."""

    archive: Blob
    repositories: tuple[RepositoryCommit, ...]
    new: list[Blob]


@dataclass(slots=True)
class _Collected:
    manifest: list[dict[str, Any]] = field(default_factory=list)
    repositories: list[RepositoryCommit] = field(default_factory=list)
    new: list[Blob] = field(default_factory=list)
    tags: dict[int, bytes] = field(default_factory=dict)
    """By the number of the repository: a pack with the tags' own objects."""


class WorkTrees:
    """``limit``: bytes of a checkout; ``schemes``: those that submodules may use beside https and ssh."""

    def __init__(
        self, repositories: Repositories, blobs: Blobs, storage: Storage, limit: int, schemes: Collection[str]
    ) -> None:
        self._repositories = repositories
        self._blobs = blobs
        self._storage = storage
        self._limit = limit
        self._schemes = schemes

    async def make(self, remote: Remote, commit: str, branch: str, options: CheckoutOptions) -> WorkTree:
        """Raises :class:`RepositoryUnavailable`; what was received is then deleted."""
        collected = _Collected()
        try:
            await self._collect(collected, remote, commit, branch, options, "", "")
            archive = await self._receive(await asyncio.to_thread(_archive, collected))
        except BaseException:
            self.discard(collected.new)
            raise
        return WorkTree(archive, tuple(collected.repositories), [archive, *collected.new])

    def discard(self, received: Sequence[Blob]) -> None:
        """Delete blobs that were not recorded."""
        for blob in received:
            self._blobs.discard(blob)

    async def _collect(
        self,
        into: _Collected,
        remote: Remote,
        commit: str,
        branch: str,
        options: CheckoutOptions,
        path: str,
        name: str,
    ) -> None:
        number = len(into.manifest)
        if number > MAX_SUBMODULES or path.count("/") > 100:
            raise RepositoryUnavailable(f"the repository has more than {MAX_SUBMODULES} submodules")
        async with self._repositories.fetched(remote, commit, branch, options.depth) as copy:
            history = await _history(copy, commit, options.depth)
            packs, digests = await self._packs(into, copy, commit, history, options.depth)
            tags = await self._tags(into, copy, history, number) if options.tags else {}
            modules = await _submodules(copy, commit) if options.submodules else []
        into.repositories.append(RepositoryCommit(remote.address.key, commit, options.depth, packs))
        described = {
            "path": path, "name": name, "key": remote.address.key, "origin": remote.address.url, "commit": commit,
            "branch": branch, "depth": options.depth, "packs": list(digests), "shallow": list(history.shallow),
            "object_format": "sha256" if len(commit) == 64 else "sha1", "tags": tags,
        }  # fmt: skip
        into.manifest.append(
            {key: value for key, value in described.items() if value or key in ("path", "branch")}
        )
        for module in modules:
            below = f"{path}/{module.path}" if path else module.path
            if below.count("/") > 20 or _nesting(into, path) >= MAX_NESTING:
                raise RepositoryUnavailable(f"submodules are nested at most {MAX_NESTING} deep")
            await self._collect(
                into, self._of_module(remote, module), module.commit, "", options, below, module.name
            )

    def _of_module(self, parent: Remote, module: _Submodule) -> Remote:
        """Where a submodule is. It gets the parent's secret only at the parent's host."""
        relative = module.url.startswith(("./", "../"))
        url = _joined(parent.address.url, module.url) if relative else module.url
        address = read_address(url, self._schemes)
        same = address.scheme == parent.address.scheme and _host(address.url) == _host(parent.address.url)
        return Remote(parent.project, address, parent.secret if same else "")

    async def _packs(
        self, into: _Collected, copy: Copy, commit: str, history: History, depth: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Blob ids and checksums of the packs that together hold the commit."""
        project, key = copy.remote.project, copy.remote.address.key
        known = await self._storage.read(lambda conn: checkouts.known(conn, project, key))
        for each in known:
            if each["commit"] == commit and (each["depth"] == 0 or 0 < depth <= each["depth"]):
                return tuple(pack["id"] for pack in each["packs"]), tuple(
                    pack["sha256"] for pack in each["packs"]
                )
        base = await _base(copy, known)
        held = await _history(copy, base["commit"], base["depth"]) if base else None
        wanted = wanted_for_pack(history, held, base["commit"] if base else "")
        before = base["packs"] if base else []
        added = await self._pack(copy, wanted)
        into.new.extend(added)
        return (
            tuple([pack["id"] for pack in before] + [blob.id for blob in added]),
            tuple([pack["sha256"] for pack in before] + [blob.sha256 for blob in added]),
        )

    async def _pack(self, copy: Copy, wanted: list[str]) -> list[Blob]:
        with tempfile.TemporaryDirectory(dir=copy.directory, prefix="pack-") as scratch:
            file = Path(scratch) / "new.pack"
            await copy.pack_into(file, wanted, self._limit)
            return [await self._blobs.receive(_chunks(file), "")]

    async def _tags(self, into: _Collected, copy: Copy, history: History, number: int) -> dict[str, str]:
        """Name and object of each tag whose commit is in the history."""
        tags = await copy.tags(history.commits, MAX_TAGS)
        objects = sorted({found.object for found in tags if found.annotated})
        if objects:
            into.tags[number] = await copy.pack_of(objects)
        return {found.name: found.object for found in tags}

    async def _receive(self, data: bytes) -> Blob:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        return await self._blobs.receive(chunks(), "")


@dataclass(frozen=True, slots=True)
class _Submodule:
    name: str
    path: str
    url: str
    commit: str


async def _history(copy: Copy, commit: str, depth: int) -> History:
    parents = read_parents(await copy.git("rev-list", "--parents", commit, "--"))
    cut = await copy.shallow()
    return await asyncio.to_thread(history_of, parents, commit, depth, cut)


async def _base(copy: Copy, known: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The commit used last whose packs the new one builds upon."""
    for each in known:
        if len(each["packs"]) < MAX_CHAIN and await copy.holds(each["commit"], each["depth"]):
            return each
    return None


async def _submodules(copy: Copy, commit: str) -> list[_Submodule]:
    """Those of ``.gitmodules`` that the commit has."""
    if not await copy.git("ls-tree", "-z", commit, "--", ".gitmodules"):
        return []
    listed = await copy.git("config", "--blob", f"{commit}:.gitmodules", "--list", "-z", "--no-includes")
    given: dict[str, dict[str, str]] = {}
    for entry in listed.decode("utf-8", "replace").split("\0"):
        name, _, value = entry.partition("\n")
        section, _, rest = name.partition(".")
        module, _, key = rest.rpartition(".")
        if section == "submodule" and key in ("path", "url"):
            given.setdefault(module, {})[key] = value
    found = []
    for module, keys in given.items():
        path = keys.get("path", "")
        if not path or not keys.get("url") or len(given) > MAX_SUBMODULES:
            raise RepositoryInvalid(f"the submodules of {copy.remote.address.url} are not valid")
        entry = (await copy.git("ls-tree", "-z", commit, "--", path)).decode("utf-8", "replace")
        mode, _, rest = entry.partition(" ")
        if mode == "160000":
            found.append(_Submodule(module, path, keys["url"], rest.partition(" ")[2].partition("\t")[0]))
    return found


def _nesting(into: _Collected, path: str) -> int:
    """How many repositories the path is in."""
    above = [each["path"] for each in into.manifest if each["path"]]
    return sum(path == other or path.startswith(f"{other}/") for other in above)


def _joined(base: str, relative: str) -> str:
    """A relative address of a submodule, as git resolves it: below the repository's own address."""
    if "://" in base:
        return urljoin(f"{base}/", relative)
    host, _, path = base.partition(":")
    return f"{host}:{urljoin(f'/{path}/', relative).lstrip('/')}"


def _host(url: str) -> str:
    rest = url.partition("://")[2] or url.replace(":", "/", 1)
    return rest.partition("/")[0].rpartition("@")[2]


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while chunk := await asyncio.to_thread(opened.read, CHUNK):
            yield chunk


def _archive(collected: _Collected) -> bytes:
    """A tar.gz with the manifest, and the packs of tags."""
    manifest = {"version": 1, "git": True, "repositories": collected.manifest}
    members = {"manifest.json": json.dumps(manifest, separators=(",", ":")).encode("ascii")}
    members |= {f"pack/{number}": pack for number, pack in collected.tags.items()}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(written.getvalue(), mtime=0)
