"""The directories in which steps run, one per job, below one root.

The root has an invalid ``.git`` file: git, and tools that read ``.gitignore`` files, stop there when they search for
a repository from a workspace upwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from pathlib import Path

from pilothouse.agent.removal import remove_tree

STAGING = ".checkout-"  # no workspace id begins with a dot
BARRIER = "gitdir: /dev/null/none\n"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class WorkspaceError(Exception):
    """`code`: WORKSPACE_ID_INVALID, ARCHIVE_INVALID, ARCHIVE_TOO_LARGE, or the code of an error in layout.py."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Workspaces:
    """`owner` (uid, gid): the owner of the directories, if steps run as another user."""

    def __init__(self, root: Path, owner: tuple[int, int] | None = None) -> None:
        self._root = root
        self._owner = owner

    def path(self, workspace_id: str) -> Path:
        """The path of a workspace, which need not exist. Raises WorkspaceError unless the id is a plain file name."""
        if _ID.fullmatch(workspace_id) is None:
            raise WorkspaceError("WORKSPACE_ID_INVALID", f"not a workspace id: {workspace_id[:140]!r}")
        return self._root / workspace_id

    async def create(self, workspace_id: str) -> Path:
        """The directory, created if it does not exist; its contents are kept."""
        path = self.path(workspace_id)
        await asyncio.to_thread(self._make, path)
        return path

    async def fresh(self, workspace_id: str) -> Path:
        """The directory, created or emptied."""
        path = self.path(workspace_id)
        await asyncio.to_thread(remove_tree, path)
        await asyncio.to_thread(self._make, path)
        return path

    async def staging(self, workspace_id: str) -> Path:
        """A new private directory in which to prepare a workspace; then call :meth:`adopt` or :meth:`discard`."""
        path = self._root / f"{STAGING}{self.path(workspace_id).name}-{secrets.token_hex(4)}"
        await asyncio.to_thread(self._make_root)
        await asyncio.to_thread(path.mkdir, 0o700)
        return path

    async def adopt(self, workspace_id: str, prepared: Path) -> Path:
        """Make a prepared directory the workspace, replacing the existing one."""
        path = self.path(workspace_id)
        await asyncio.to_thread(self._adopt, path, prepared)
        return path

    async def discard(self, staging: Path) -> None:
        """Remove a staging directory."""
        await asyncio.to_thread(remove_tree, staging)

    async def discard_leftovers(self, leftovers: list[Path]) -> None:
        """Remove staging directories from before a restart of the agent."""
        for path in leftovers:
            with contextlib.suppress(OSError):
                await self.discard(path)

    def leftovers(self) -> list[Path]:
        """Existing staging directories; to be called before any is created."""
        return list(self._root.glob(f"{STAGING}*"))

    async def remove(self, workspace_id: str) -> None:
        await asyncio.to_thread(remove_tree, self.path(workspace_id))

    async def existing(self) -> list[str]:
        """The ids of all workspaces on disk, sorted."""
        return await asyncio.to_thread(self._list)

    def _make(self, path: Path) -> None:
        self._make_root()
        path.mkdir(mode=0o700, exist_ok=True)
        if self._owner:
            os.chown(path, *self._owner, follow_symlinks=False)

    def _make_root(self) -> None:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        barrier = self._root / ".git"
        with contextlib.suppress(FileExistsError), barrier.open("x") as file:
            file.write(BARRIER)

    def _adopt(self, path: Path, prepared: Path) -> None:
        prepared.chmod(0o700)
        remove_tree(path)
        prepared.rename(path)

    def _list(self) -> list[str]:
        if not self._root.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self._root) if _ID.fullmatch(entry.name))
