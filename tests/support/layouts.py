"""Checkouts (docs/checkout.md) made from real repositories with plain git commands, and a desk to lay them out on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilothouse.agent.errors import StepImpossible
from pilothouse.agent.layout import ArchiveLimits, Layout
from pilothouse.agent.objects import ObjectCache, TreeLimits
from pilothouse.agent.workspace import Workspaces
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.workers.children import Children
from pilothouse.workers.git import Git, find_git

KEY = "cache-of-the-shop"
HIDDEN = ("--ita-invisible-in-index",)
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_ALLOW_PROTOCOL": "file",
    "LC_ALL": "C",
}


def git(where: Path, *arguments: str, stdin: bytes | str = b"", check: bool = True) -> str:
    """What git prints; a failure of it is one of the test."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=where, input=data, capture_output=True, env=ENVIRONMENT, check=False)
    assert not check or done.returncode == 0, (arguments, done.stderr.decode())
    return os.fsdecode(done.stdout)


def new_repository(path: Path, files: dict[str, str | bytes] | None = None, *options: str) -> Path:
    """A repository with one commit, unless there are no files."""
    path.mkdir(parents=True)
    git(path, "init", "-q", *options)
    for name, content in (files or {}).items():
        write(path / name, content)
    if files:
        commit(path)
    return path


def write(path: Path, content: str | bytes = "x\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def commit(path: Path, message: str = "a change") -> str:
    git(path, "add", "-A")
    git(path, "commit", "-q", "--allow-empty", "-m", message)
    return head(path)


def head(path: Path) -> str:
    return git(path, "rev-parse", "HEAD").strip()


def pack(path: Path, *ids: str) -> bytes:
    """A pack of these objects."""
    command = ["git", "pack-objects", "--stdout", "-q"]
    lines = "".join(f"{one}\n" for one in ids).encode()
    return subprocess.run(
        command, cwd=path, input=lines, capture_output=True, check=True, env=ENVIRONMENT
    ).stdout


def pack_of(path: Path, revision: str, *without: str, depth: int = 1) -> bytes:
    """A pack of a commit with so much history, without what other commits have."""
    count = [f"--max-count={depth}"] if depth else []
    excluded = [f"^{one}" for one in without]
    listed = git(path, "rev-list", "--objects", *count, revision, *excluded)
    return pack(path, *(line.split()[0] for line in listed.splitlines()))


@dataclass
class Checkout:
    """A checkout on its way: its archive's members, and its packs by sha256."""

    manifest: dict[str, Any] = field(default_factory=lambda: {"version": 1, "git": True, "repositories": []})
    members: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    packs: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str | bytes, data: bytes = b"", mode: int = 0o644) -> None:
        info = tarfile.TarInfo(os.fsdecode(name) if isinstance(name, bytes) else name)
        info.size, info.mode = len(data), mode
        self.members.append((info, data))

    def add_path(self, name: str, path: Path) -> None:
        """A file, link or empty directory as it is."""
        info = tarfile.TarInfo(name)
        if path.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
            self.members.append((info, b""))
        elif path.is_dir():
            info.type = tarfile.DIRTYPE
            self.members.append((info, b""))
        else:
            self.add(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)

    def add_pack(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self.packs[name] = data
        return name

    @property
    def archive(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
            text = json.dumps(self.manifest).encode()
            info = tarfile.TarInfo("manifest.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
            for order in (False, True):
                for member, data in self.members:
                    if member.name.startswith("files") is order:
                        tar.addfile(member, io.BytesIO(data))
        return packed.getvalue()

    def repository(self, source: Path, path: str = "", *, depth: int = 1, **fields: Any) -> dict[str, Any]:
        """Add a repository with all the changes in its work tree."""
        number = len(self.manifest["repositories"])
        born = git(source, "rev-parse", "-q", "--verify", "HEAD", check=False).strip()
        branch = git(source, "symbolic-ref", "-q", "--short", "HEAD", check=False).strip()
        described: dict[str, Any] = {"path": path, "key": KEY, "commit": born, "branch": branch, "packs": []}
        described["object_format"] = "sha256" if len(born) == 64 else "sha1"
        if born:
            described["packs"] = [self.add_pack(pack_of(source, born, depth=depth))]
            described["depth"] = depth
            described["shallow"] = _shallow(source, born, depth)
        self.manifest["repositories"].append({**described, **fields})
        _add_changes(self, number, source, path, born)
        return dict(self.manifest["repositories"][number])

    def message(self, fetcher: LocalFetcher, repository: str = KEY) -> pb.Checkout:
        """As a server would announce it."""
        message = pb.Checkout(**fetcher.announce(self.archive))
        for data in self.packs.values():
            message.packs.add(**fetcher.announce(data), repository=repository)
        return message


def checkout_of(source: Path, **fields: Any) -> Checkout:
    """A work tree without submodules."""
    made = Checkout()
    made.repository(source, **fields)
    return made


def _shallow(source: Path, commit_id: str, depth: int) -> list[str]:
    if not depth:
        return []
    listed = git(source, "rev-list", f"--max-count={depth}", commit_id).split()
    inside = set(listed)
    return [
        one
        for one in listed
        if set(git(source, "rev-list", "--parents", "--max-count=1", one).split()[1:]) - inside
    ]


def _z(text: str) -> list[str]:
    return [part for part in text.split("\0") if part]


def _add_changes(made: Checkout, number: int, source: Path, path: str, born: str) -> None:
    empty = git(source, "hash-object", "-t", "tree", "--stdin", "-w").strip()
    base = born or empty
    gone, entries, objects = [], [], []
    fields = _z(
        git(source, "diff-index", "--cached", "--raw", "--no-renames", "--no-abbrev", "-z", *HIDDEN, base)
    )
    for told, name in zip(fields[::2], fields[1::2], strict=True):
        _, mode, _, target, status = told.split()
        gone.append(f"0 {'0' * len(target)}\t{name}\0")
        if status not in ("D", "U"):
            entries.append(f"{mode} {target}\t{name}\0")
            objects += [target] if mode != "160000" else []
    for told in _z(git(source, "ls-files", "--unmerged", "-z")):
        entries.append(told + "\0")
        objects.append(told.split()[1])
    intent = _z(git(source, "diff-files", "--name-only", "--diff-filter=A", "-z"))
    if gone or entries:
        made.add(f"index/{number}", os.fsencode("".join((*dict.fromkeys(gone), *entries))))
    if objects:
        made.add(f"pack/{number}", pack(source, *dict.fromkeys(objects)))
    if intent:
        made.manifest["repositories"][number]["intent_to_add"] = intent
    tracked = _z(git(source, "ls-tree", "-r", "--name-only", "-z", born)) if born else []
    both = dict.fromkeys([*tracked, *_z(git(source, "ls-files", "-z"))])
    deleted = [name for name in both if not _there(source, name)]
    if deleted:
        made.add(f"deleted/{number}", os.fsencode("".join(f"{name}\0" for name in deleted)))
    changed = _z(git(source, "diff", "--name-only", "--no-renames", "-z", base))
    untracked = _z(git(source, "ls-files", "--others", "--exclude-standard", "-z"))
    nested = [one["path"] for one in made.manifest["repositories"]]
    for name in dict.fromkeys([*changed, *untracked, *intent]):
        name = name.rstrip("/")
        inside = f"{path}/{name}" if path else name
        if name not in deleted and inside not in nested and not (source / name / ".git").exists():
            made.add_path(f"files/{inside}", source / name)
    for name in _empty_directories(source):
        made.add_path(f"files/{path}/{name}" if path else f"files/{name}", source / name)


def _empty_directories(source: Path) -> Iterable[str]:
    for directory, names, files in os.walk(source):
        names[:] = [name for name in names if name != ".git" and not Path(directory, name, ".git").exists()]
        if not names and not files:
            yield os.path.relpath(directory, source)


def _there(source: Path, name: str) -> bool:
    """Whether that very path is there, and not something behind a link."""
    at = source
    for part in name.split("/")[:-1]:
        at = at / part
        if at.is_symlink():
            return False
    return os.path.lexists(source / name)


# -- laying out -----------------------------------------------------------------------------------------


class LocalFetcher:
    """Returns the configured announcements."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def announce(self, data: bytes) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        self.blobs[name] = data
        return {"url": f"/{name}", "sha256": name, "size": len(data)}

    async def fetch(self, wanted: Any, target: Path, what: str = "checkout") -> None:
        if wanted.sha256 not in self.blobs:
            raise StepImpossible(f"cannot fetch the {what}: the server answers 404")
        self.fetched.append(wanted.sha256)
        target.write_bytes(self.blobs[wanted.sha256])


class Desk:
    """Everything of an agent that lays out workspaces."""

    def __init__(
        self,
        directory: Path,
        *,
        with_git: bool = True,
        owner: tuple[int, int] | None = None,
        limits: ArchiveLimits = ArchiveLimits(),
        cache: int = 10 << 30,
    ) -> None:
        self.root = directory / "agent"
        self.root.mkdir(exist_ok=True)
        self.fetcher = LocalFetcher()
        self.children = Children(self.root)
        found = find_git()
        assert found is not None
        self.git = Git(*found, self.children) if with_git else None
        trees = TreeLimits(limits.total_bytes, limits.members)
        self.objects = None
        if self.git is not None:
            self.objects = ObjectCache(self.root / "objects", self.git, self.fetcher, cache, trees)  # type: ignore[arg-type]
        self.layout = Layout(self.fetcher, self.children, self.git, self.objects, owner, limits)  # type: ignore[arg-type]
        self.workspaces = Workspaces(self.root / "work", owner)

    async def lay_out(self, made: Checkout | bytes, name: str = "ws", repository: str = KEY) -> Path:
        """The workspace."""
        if isinstance(made, bytes):
            return await self.obey(pb.Checkout(**self.fetcher.announce(made)), name)
        return await self.obey(made.message(self.fetcher, repository), name)

    async def obey(self, message: pb.Checkout, name: str = "ws") -> Path:
        staging = await self.workspaces.staging(name)
        try:
            return await self.workspaces.adopt(name, await self.layout.lay_out(message, staging))
        finally:
            await self.workspaces.discard(staging)


def contents(root: Path, without: Iterable[str] = (".git",)) -> dict[str, Any]:
    """What lies below: a file's bytes and whether it can be executed, a link's target, an empty directory."""
    found: dict[str, Any] = {}
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in without]
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        for name in (*files, *links):
            path = Path(directory, name)
            if name in without:
                continue
            key = os.path.relpath(path, root)
            if path.is_symlink():
                found[key] = ("link", os.readlink(path))
            else:
                found[key] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
        if not names and not files and not os.path.exists(os.path.join(directory, ".git")):
            found[os.path.relpath(directory, root) + "/"] = None
    return found


def state(path: Path) -> dict[str, str]:
    """State of a work tree according to git."""
    return {
        "head": git(path, "rev-parse", "-q", "--verify", "HEAD", check=False),
        "branch": git(path, "symbolic-ref", "-q", "HEAD", check=False),
        "status": git(path, "status", "--porcelain=v2", "-z", "--ignore-submodules=none"),
        "index": git(path, "ls-files", "--stage", "-z", "-t"),
        "staged": git(path, "diff", "--cached"),
        "unstaged": git(path, "diff"),
    }
