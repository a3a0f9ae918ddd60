"""Places what an artifact holds in a directory, without trusting the artifact or the directory.

For agents (the workspace of a job) and clients. Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from typing import IO, Any

CHUNK = 1 << 20
MAX_PATH, MAX_DEPTH = 4000, 100
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The job cannot be done; the message is for people."""


def shown(text: str) -> str:
    """A path for people: short, on one line."""
    short = text if len(text) <= 200 else text[:200] + "…"
    return "".join(char if char.isprintable() else "?" for char in short)


def place(job: dict[str, Any], workspace: int, source: IO[bytes]) -> dict[str, Any]:
    """Unpack a zip, or copy a single file, into a directory below ``workspace`` (a descriptor), made if missing.

    ``job``: ``path`` (of the directory), ``file_name`` (of a single file; empty: ``source`` is a zip), ``max_files``,
    ``max_bytes``. Existing files are replaced; nothing is written through a link. Returns ``{"files", "bytes"}``.
    Raises :class:`Refused`.
    """
    target = _directory(workspace, parts_of(job["path"]))
    try:
        if job["file_name"]:
            return {"files": 1, "bytes": _write(target, job["file_name"], 0o644, source, job["max_bytes"])}
        return _unzip(job, target, source)
    finally:
        os.close(target)


def _unzip(job: dict[str, Any], target: int, source: IO[bytes]) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            if len(entries) > job["max_files"]:
                raise Refused(f"the artifact has more than {job['max_files']} files")
            files, size = 0, 0
            for entry in entries:
                path = parts_of(entry.filename)
                if entry.is_dir() or not path:
                    os.close(_directory(target, path))
                    continue
                parent = _directory(target, path[:-1])
                try:
                    mode = 0o755 if (entry.external_attr >> 16) & 0o111 else 0o644
                    with archive.open(entry) as content:
                        size += _write(parent, path[-1], mode, content, job["max_bytes"] - size)
                finally:
                    os.close(parent)
                files += 1
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
        raise Refused(f"the artifact cannot be unpacked: {error}") from None
    return {"files": files, "bytes": size}


def parts_of(path: str) -> list[str]:
    """The parts of a relative path. Raises :class:`Refused` for one that leads elsewhere."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if (
        path.startswith("/")
        or ".." in parts
        or "\0" in path
        or len(path) > MAX_PATH
        or len(parts) > MAX_DEPTH
    ):
        raise Refused(f"{shown(path)} is not a path below the directory")
    return parts


def _directory(root: int, parts: list[str]) -> int:
    here = os.open(".", _DIRECTORY, dir_fd=root)
    for part in parts:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            inner = os.open(part, _DIRECTORY, dir_fd=here)
        except OSError as error:
            raise Refused(f"{shown('/'.join(parts))} cannot be a directory: {error.strerror}") from None
        finally:
            os.close(here)
        here = inner
    return here


def _write(parent: int, name: str, mode: int, content: IO[bytes], most: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise Refused(f"{shown(name)} is a directory in the workspace")
        os.unlink(name, dir_fd=parent)
    written = 0
    with open(os.open(name, _NEW, mode, dir_fd=parent), "wb") as file:
        while data := content.read(CHUNK):
            written += len(data)
            if written > most:
                raise Refused("the artifact is larger than was announced")
            file.write(data)
    return written
