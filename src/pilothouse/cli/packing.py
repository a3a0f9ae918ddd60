"""A checkout as a tar.gz: the same files give the same bytes, wherever and whenever they are packed."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pilothouse.cli.errors import CliError

MAX_BYTES = 256 << 20
"""Of the packed file; a server takes no more either, unless told to."""

_OURS = ".pilothouse"  # a server's data directory: its database and keys are nobody's checkout


@dataclass(frozen=True, slots=True)
class Checkout:
    """The directory that a run begins with. ``branch`` and ``commit`` are empty outside git."""

    root: Path
    in_git: bool
    branch: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed checkout: its hex digest, its size in bytes, the number of files in it."""

    sha256: str
    size: int
    files: int


class PackingError(CliError):
    """The checkout cannot be packed."""

    code = "PACKING_FAILED"


class CheckoutTooLarge(PackingError):
    """It is over the limit."""

    code = "CHECKOUT_TOO_LARGE"


def find_checkout(directory: Path) -> Checkout:
    """The git work tree around ``directory``, or the directory itself."""
    top = _git(directory, "rev-parse", "--show-toplevel")
    if not top:
        return Checkout(directory.resolve(), in_git=False)
    root = Path(os.fsdecode(top.removesuffix(b"\n")))
    branch = _git(root, "symbolic-ref", "--short", "-q", "HEAD") or b""
    commit = _git(root, "rev-parse", "-q", "--verify", "HEAD") or b""
    return Checkout(root, in_git=True, branch=os.fsdecode(branch).strip(), commit=os.fsdecode(commit).strip())


def pack(checkout: Checkout, file: IO[bytes], limit: int = MAX_BYTES) -> Packed:
    """Write the checkout into ``file``. Raises CheckoutTooLarge as soon as it is, PackingError."""
    sink = _Bounded(file, limit, checkout.root)
    count = 0
    names = sorted(
        _git_files(checkout.root) if checkout.in_git else _all_files(checkout.root), key=os.fsencode
    )
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=sink, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            count += _add(archive, checkout.root / name, name)
    return Packed(sink.digest.hexdigest(), sink.size, count)


class _Bounded:
    """Counts and digests what is written, up to a limit."""

    def __init__(self, file: IO[bytes], limit: int, root: Path) -> None:
        self._file = file
        self._limit = limit
        self._root = root
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self.size > self._limit:
            raise CheckoutTooLarge(
                f"{self._root} is over {self._limit >> 20} MiB packed",
                hint="keep large files out with .gitignore, or run with --no-checkout and fetch them in a step",
            )
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _add(archive: tarfile.TarFile, path: Path, name: str) -> bool:
    """Add one file or symlink; others (sockets, pipes) and what has vanished meanwhile are left out."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    entry = tarfile.TarInfo(name)  # owner, group and time stay zero
    if stat.S_ISLNK(found.st_mode):
        entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
        archive.addfile(entry)
        return True
    if not stat.S_ISREG(found.st_mode):
        return False
    entry.mode = 0o755 if found.st_mode & 0o100 else 0o644
    try:
        with path.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)
    except OSError as error:
        raise PackingError(
            f"cannot pack {path}: {error.strerror or 'it changed while it was read'}"
        ) from error
    return True


def _git_files(root: Path) -> Iterator[str]:
    """Tracked files and those that are not ignored, submodules' included."""
    listed = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    if listed is None:
        raise PackingError(f"git cannot list the files of {root}")
    for name in dict.fromkeys(os.fsdecode(item) for item in listed.split(b"\0") if item):
        if name.endswith("/") or name.split("/", 1)[0] == _OURS:
            continue  # another repository that merely lies there; a server's data
        path = root / name
        if path.is_dir() and not path.is_symlink():
            if (path / ".git").exists():
                yield from (f"{name}/{inner}" for inner in _git_files(path))
        else:
            yield name


def _all_files(root: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise PackingError(f"cannot read {error.filename}: {error.strerror}")

    for directory, inner, files in os.walk(root, onerror=refuse):
        links = [name for name in inner if os.path.islink(os.path.join(directory, name))]
        inner[:] = sorted(_kept(inner, links))
        for name in (*files, *links):
            yield os.path.relpath(os.path.join(directory, name), root)


def _kept(directories: Iterable[str], links: Iterable[str]) -> set[str]:
    return set(directories) - {_OURS, ".git", *links}


def _git(directory: Path, *arguments: str) -> bytes | None:
    """git's answer; ``None`` if it failed or there is no git."""
    try:
        done = subprocess.run(("git", "-C", str(directory), *arguments), capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
