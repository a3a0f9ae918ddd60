"""Work trees that travel: git for tests, a stand-in for server and agent that follows docs/checkout.md with plain git,
and the comparison of a work tree with what arrived."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilothouse.cli.checkout.known import KnownCommit, StoredPack
from pilothouse.cli.checkout.options import DEFAULT_LIMIT, CheckoutOptions
from pilothouse.cli.checkout.repository import find_repository
from pilothouse.cli.checkout.sending import Packed, pack_tree
from pilothouse.cli.checkout.tree import Tree, read_tree

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": "/dev/null",
    "LC_ALL": "C",
}


def git(directory: Path, *arguments: str | bytes, input: bytes | None = None, ok: bool = True) -> bytes:
    """git's stdout; ``ok=False``: whatever its exit status is."""
    command = ("git", "-C", os.fspath(directory), "-c", "protocol.file.allow=always", *arguments)
    env = {n: v for n, v in os.environ.items() if not n.startswith("GIT_") or n == "GIT_CEILING_DIRECTORIES"}
    done = subprocess.run(command, env={**env, **GIT}, input=input, capture_output=True)
    assert done.returncode == 0 or not ok, f"{arguments}: {os.fsdecode(done.stderr)}"
    return done.stdout


def commit(root: Path, message: str = "next") -> str:
    """Everything that is there, committed; the commit's id."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD").decode().strip()


@dataclass
class Server:
    """What a server keeps of uploads, and an agent lays out. ``received``: bytes of each upload."""

    packs: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, list[KnownCommit]] = field(default_factory=dict)
    received: list[int] = field(default_factory=list)

    def take(self, packed: Packed) -> bytes:
        """Take all uploads, and know the run's commits from now on; the archive comes back."""
        self.received = [packed.archive.size]
        for pack in packed.new_packs:
            data = pack.file.read_bytes()
            assert (pack.sha256, pack.size) == (hashlib.sha256(data).hexdigest(), len(data))
            self.packs[pack.sha256] = data
            self.received.append(len(data))
        for each in packed.repositories:
            packs = tuple(StoredPack(f"blob-{p.sha256[:8]}", p.sha256, p.size) for p in each.packs)
            assert 0 < len(packs) <= 20
            assert all(pack.sha256 in self.packs for pack in packs)
            known = [
                k for k in self.commits.get(each.key, []) if (k.commit, k.depth) != (each.commit, each.depth)
            ]
            self.commits[each.key] = [KnownCommit(each.commit, each.depth, packs), *known][:20]
        data = packed.archive.file.read_bytes()
        assert (packed.archive.sha256, packed.archive.size) == (hashlib.sha256(data).hexdigest(), len(data))
        return data


@dataclass
class Journey:
    """A work tree, what was sent for it, and the copy that was laid out."""

    tree: Tree
    packed: Packed
    copy: Path
    manifest: dict[str, Any]


def travel(
    root: Path,
    scratch: Path,
    server: Server | None = None,
    options: CheckoutOptions = CheckoutOptions(),
    limit: int = DEFAULT_LIMIT,
) -> Journey:
    """Send a work tree and lay it out below ``scratch``; the original's ``.git`` must not change by it."""
    server = server or Server()
    before = insides(root)
    tree = read_tree(find_repository(root), options)
    out = fresh(scratch / "packed")
    packed = pack_tree(tree, options, server.commits, out, limit)
    assert insides(root) == before, "the repository was written to"
    (scratch / "checkout.tar.gz").write_bytes(server.take(packed))
    copy = fresh(scratch / "copy")
    manifest = lay_out(scratch / "checkout.tar.gz", server.packs, copy)
    return Journey(tree, packed, copy, manifest)


def fresh(directory: Path) -> Path:
    """An empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def insides(root: Path) -> dict[str, tuple[int, bytes]]:
    """All files of a tree, of all ``.git``, too: times and contents."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
                digest = hashlib.sha256(Path(path).read_bytes()).digest() if status.st_size < 1 << 24 else b""
                # Whoever reads a split index renews the time of the part that is shared.
                found[path] = (0 if name.startswith("sharedindex.") else status.st_mtime_ns, digest)
    return found


# -- laying out, as docs/checkout.md says ---------------------------------------------------------------------


def lay_out(archive: Path, packs: dict[str, bytes], copy: Path) -> dict[str, Any]:
    """Lay out an archive; its manifest comes back."""
    unpacked = fresh(archive.with_suffix(".unpacked"))
    manifest = unpack(archive, unpacked)
    paths = [each["path"] for each in manifest["repositories"]]
    assert len(paths) == len(set(paths))
    for number, repository in enumerate(manifest["repositories"]):
        _Layout(unpacked, number, repository, copy).begin(packs)
    _place_files(unpacked / "files", copy)
    for number, repository in enumerate(manifest["repositories"]):
        _Layout(unpacked, number, repository, copy).end()
    return manifest


def unpack(archive: Path, target: Path) -> dict[str, Any]:
    """Unpack and check the order and the modes of members."""
    order = []
    with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            assert not member.pax_headers
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
            assert member.mode in (0o644, 0o755) or member.issym()
            order.append(member.name)
            tar.extract(member, target, set_attrs=not member.issym(), filter="fully_trusted")
    assert order[0] == "manifest.json"
    assert len(order) == len(set(order))
    kinds = [name.split("/")[0] == "files" for name in order]
    assert kinds == sorted(kinds), "files come last"
    return json.loads((target / "manifest.json").read_text("ascii"))


class _Layout:
    def __init__(self, unpacked: Path, number: int, repository: dict[str, Any], copy: Path) -> None:
        self._unpacked = unpacked
        self._number = number
        self._repository = repository
        self._root = copy / repository["path"]

    def _member(self, name: str) -> bytes:
        file = self._unpacked / name / str(self._number)
        return file.read_bytes() if file.exists() else b""

    def _git(self, *arguments: str, input: bytes | None = None, ok: bool = True) -> bytes:
        return git(self._root, *arguments, input=input, ok=ok)

    def begin(self, packs: dict[str, bytes]) -> None:
        """Everything but files."""
        repository = self._repository
        self._root.mkdir(parents=True, exist_ok=True)
        git(self._root, "init", "-q", f"--object-format={repository['object_format']}")
        for name in ("autocrlf", "eol"):
            if name in repository:
                self._git("config", f"core.{name}", repository[name])
        if repository["origin"]:
            self._git("config", "remote.origin.url", repository["origin"])
        for data in [*(packs[each] for each in repository["packs"]), self._member("pack")]:
            if data:
                self._git("index-pack", "--stdin", input=data)
        self._refs()
        if repository["commit"]:
            self._git("read-tree", "HEAD")
        self._git("update-index", "-z", "--index-info", input=self._member("index"))
        self._git("update-index", "-z", "--skip-worktree", "--stdin", input=self._member("skip-worktree"))
        self._git("checkout-index", "-a", "-f")
        for path in self._member("deleted").split(b"\0")[:-1]:
            _delete(os.fsencode(self._root), path)

    def _refs(self) -> None:
        repository = self._repository
        if repository.get("shallow"):
            text = "".join(f"{each}\n" for each in repository["shallow"])
            (self._root / ".git" / "shallow").write_text(text)
        if repository["branch"]:
            self._git("symbolic-ref", "HEAD", f"refs/heads/{repository['branch']}")
        if repository["commit"]:
            self._git(
                "update-ref", *(() if repository["branch"] else ("--no-deref",)), "HEAD", repository["commit"]
            )
        for name, oid in repository.get("tags", {}).items():
            self._git("update-ref", f"refs/tags/{name}", oid)

    def end(self) -> None:
        """Once the files are there."""
        added = self._repository.get("intent_to_add", [])
        if added:
            paths = b"".join(each.encode("utf-8", "surrogateescape") + b"\0" for each in added)
            missing = [self._root / each for each in added if not os.path.lexists(self._root / each)]
            for path in missing:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
            self._git(
                "--literal-pathspecs",
                "add",
                "-f",
                "-N",
                "--pathspec-from-file=-",
                "--pathspec-file-nul",
                input=paths,
            )
            for path in missing:
                path.unlink()
        self._git(
            "update-index", "-z", "--assume-unchanged", "--stdin", input=self._member("assume-unchanged")
        )
        self._git("update-index", "-q", "--refresh", ok=False)
        self._git("fsck", "--connectivity-only", "--no-dangling")


def _delete(root: bytes, path: bytes) -> None:
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        above = os.path.join(root, *parts[:depth])
        if os.path.islink(above) or not os.path.isdir(above):
            return
    full = os.path.join(root, path)
    if os.path.isdir(full) and not os.path.islink(full):
        with contextlib.suppress(OSError):  # it is not empty: something else has its name now
            os.rmdir(full)
    elif os.path.lexists(full):
        os.unlink(full)
    for depth in range(len(parts) - 1, 0, -1):
        above = os.path.join(root, *parts[:depth])
        if os.listdir(above):
            return
        os.rmdir(above)


def _place_files(files: Path, copy: Path) -> None:
    if not files.exists():
        return
    source, target = os.fsencode(files), os.fsencode(copy)
    for directory, names, leaves in os.walk(source):
        place = os.path.join(target, os.path.relpath(directory, source))
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        os.makedirs(place, exist_ok=True)
        for name in (*leaves, *links):
            end = os.path.join(place, name)
            if os.path.isdir(end) and not os.path.islink(end):
                shutil.rmtree(end)
            elif os.path.lexists(end):
                os.unlink(end)
            os.rename(os.path.join(directory, name), end)


# -- comparing ------------------------------------------------------------------------------------------------


def picture(root: Path, ignore_submodules: str = "dirty") -> dict[str, Any]:
    """The state of a work tree according to git and the file system."""
    status = git(
        root,
        "status",
        "--porcelain=v2",
        "-z",
        "-uall",
        "--no-renames",
        f"--ignore-submodules={ignore_submodules}",
    )
    paths = git(root, "ls-files", "-z", "-co", "--exclude-standard").split(b"\0")[:-1]
    return {
        "head": git(root, "rev-parse", "-q", "--verify", "HEAD", ok=False),
        "branch": git(root, "symbolic-ref", "-q", "HEAD", ok=False),
        "status": sorted(status.split(b"\0")),
        "index": git(root, "ls-files", "-z", "-s", "-v"),
        "diff": git(root, "diff", "--raw", "-z", "--no-renames", "--ignore-submodules=dirty"),
        "staged": git(root, "diff", "--cached", "--raw", "-z", "--no-renames", ok=False),
        "files": {
            path: shape(os.path.join(os.fsencode(root), path)) for path in set(paths) - _gitlinks(root)
        },
    }


def _gitlinks(root: Path) -> set[bytes]:
    """Submodules that are directories, or nothing: whether they are populated is another question."""
    entries = git(root, "ls-files", "-z", "-s").split(b"\0")
    links = {entry.partition(b"\t")[2] for entry in entries if entry.startswith(b"160000")}
    return {
        path for path in links if shape(os.path.join(os.fsencode(root), path))[0] in ("directory", "nothing")
    }


def shape(path: bytes) -> tuple[Any, ...]:
    """Kind, content and executability of what is there."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ("nothing",)
    except OSError as error:
        assert error.errno == errno.ELOOP, error
        return ("nothing",)
    if stat.S_ISLNK(found.st_mode):
        return ("link", os.readlink(path))
    if stat.S_ISREG(found.st_mode):
        return ("file", Path(os.fsdecode(path)).read_bytes(), bool(found.st_mode & 0o100))
    if stat.S_ISDIR(found.st_mode):
        return ("directory",) if os.listdir(path) else ("nothing",)  # git does not track empty ones
    return ("special",)


def same(original: Path, copy: Path, but: Iterable[str] = (), ignore_submodules: str = "dirty") -> None:
    """Assert that a copy is what the original is, ``but`` for some keys of the picture."""
    one, other = picture(original, ignore_submodules), picture(copy, ignore_submodules)
    for key in one.keys() - set(but):
        assert other[key] == one[key], key
