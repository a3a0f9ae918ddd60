"""The index that an outer git has chosen: in a hook of ``git commit -a``, for example, what is about to be committed.

git names it in ``GIT_INDEX_FILE``. All other variables of an outer git are ignored (:mod:`.git`).
"""

from __future__ import annotations

import os
from pathlib import Path

from pilothouse.cli.checkout.errors import PackingError
from pilothouse.cli.checkout.git import Git

_VARIABLE = "GIT_INDEX_FILE"


def chosen_index(git: Git, *, top: bool) -> Path | None:
    """The index to read in place of the repository's own; ``None``: its own.

    It counts if it lies in this repository's git directory. One of another repository (a hook there has started us)
    is ignored, and so is one that does not exist. Raises PackingError at the ``top`` if nothing tells which
    repository it belongs to: then the index would be a matter of luck.
    """
    named = os.environ.get(_VARIABLE)
    if not named:
        return None
    index = git.directory / named  # git runs hooks at the top of the work tree, whatever a hook does then
    if not index.is_file():
        return None
    owner = _owner(index.resolve())
    if owner is None and top:
        raise PackingError(
            f"{_VARIABLE} is {index}, which is in no repository's git directory",
            hint=f"unset {_VARIABLE} to send the index of {git.directory}",
        )
    ours = owner is not None and owner == _git_directory(git)
    return index.resolve() if ours else None


def _git_directory(git: Git) -> Path:
    return Path(git.line("rev-parse", "--absolute-git-dir")).resolve()


def _owner(index: Path) -> Path | None:
    """The nearest git directory around a file, also that of a linked worktree or a submodule."""
    for directory in index.parents:
        if (directory / "HEAD").is_file() and any(
            (directory / name).exists() for name in ("objects", "commondir")
        ):
            return directory
    return None
