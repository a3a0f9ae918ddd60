"""Removes directories that steps have written to, whatever they contain.

``shutil.rmtree`` recurses once, and keeps a descriptor open, for each level: a step that makes a few thousand nested
directories would end it with a RecursionError, and could use up the descriptors of the agent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

MAX_LEVELS = 64
"""Levels of directories, and so descriptors, at a time. What is deeper is moved up first."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a file or directory if it exists; a symbolic link is removed, not followed. Raises OSError."""
    remove_at(os.fspath(path), None)


def remove_quietly(path: Path) -> None:
    """Like :func:`remove_tree`; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        remove_tree(path)


def remove_at(path: str | bytes, parent: int | None) -> None:
    """Like :func:`remove_tree`, relative to the directory of this descriptor."""
    try:
        mode = os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path, dir_fd=parent)
        return
    top = _open(path, parent)
    try:
        while _empty(top, top, 1):
            pass
    finally:
        os.close(top)
    os.rmdir(path, dir_fd=parent)


def _empty(directory: int, top: int, level: int) -> bool:
    """Remove all entries; returns whether a directory was moved to ``top`` instead."""
    moved = False
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        child = _open(name, directory)  # also makes it writable, without which it cannot be moved
        try:
            if level < MAX_LEVELS:
                moved |= _empty(child, top, level + 1)
            else:
                os.rename(name, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=top)
                moved = True
                continue
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)
    return moved


def _open(name: str | bytes, parent: int | None) -> int:
    """Open a directory, made accessible if it belongs to the agent (read-only ones: Go's module cache)."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    found = os.fstat(descriptor)
    if found.st_mode & 0o700 != 0o700 and found.st_uid == os.geteuid():
        os.fchmod(descriptor, 0o700)
    return descriptor
