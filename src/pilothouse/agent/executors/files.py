"""The files of one step outside its workspace: its script, and the file in `PILOT_ENV`. Removed with the step.

They are in the agent's data directory and only accessible to the step's user, since the script may contain secrets.
Files left by a killed agent are removed at its next start.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilothouse.agent.removal import remove_tree


@dataclass(frozen=True, slots=True)
class StepFiles:
    script: Path
    env: Path


class StepFolders:
    """`root` is created and emptied. `owner` (uid, gid): the steps' user if it is not the agent's own."""

    def __init__(self, root: Path, owner: tuple[int, int] | None = None) -> None:
        self._root, self._owner = root, owner
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        for leftover in root.iterdir():
            _remove(leftover)

    @contextlib.contextmanager
    def use(self, script: str) -> Iterator[StepFiles]:
        """Raises OSError."""
        folder = Path(tempfile.mkdtemp(dir=self._root, prefix=""))
        try:
            if self._owner:  # the step's user may access both files, but neither list nor replace them
                folder.chmod(0o711)
            files = StepFiles(folder / "script", folder / "env")
            self._write(files.script, script.encode())
            self._write(files.env, b"")
            yield files
        finally:
            _remove(folder)

    def _write(self, path: Path, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            if self._owner:
                os.fchown(fd, *self._owner)
            file.write(data)


def _remove(folder: Path) -> None:
    """A step of the agent's user may have written anything into it; what is left is removed at the next start."""
    with contextlib.suppress(OSError):
        remove_tree(folder)
