"""What the directory in front of us is: a git work tree, or just a directory."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from pilothouse.cli.checkout.errors import GitFailed, GitMissing, PackingError
from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.origin import key_of, last_segment, without_credentials

_NO_REPOSITORY = b"fatal: not a git repository (or any "


@dataclass(frozen=True, slots=True)
class Repository:
    """A work tree, or a plain directory (``in_git`` is false; then the fields of git are empty).

    ``key`` names it in object caches and for pipelines (docs/checkout.md). ``origin`` has no credentials.
    ``branch`` is empty for a detached ``HEAD``, ``commit`` before the first one, ``tag`` unless one is exactly at
    ``HEAD``. ``name``: the last part of the remote's path, else the directory's name.
    """

    root: Path
    in_git: bool
    key: str
    name: str
    origin: str = ""
    branch: str = ""
    commit: str = ""
    tag: str = ""


def find_repository(directory: Path) -> Repository:
    """The git work tree around ``directory``; the directory itself if there is none.

    Raises GitFailed with git's reason where git does not take a repository (of another owner, damaged, bare),
    GitMissing where there is one but no git: a work tree is never taken for a plain directory.
    """
    directory = directory.resolve()
    marked = top_directory(directory)
    try:
        top = Git(directory).line("rev-parse", "--show-toplevel")
    except GitMissing:
        if marked is None:
            return _plain(directory)
        raise GitMissing(f"{marked} is a git work tree, but there is no git in PATH") from None
    except GitFailed as refusal:
        if marked is None and refusal.said.startswith(_NO_REPOSITORY):
            return _plain(directory)
        if refusal.said.startswith(_NO_REPOSITORY):
            raise _not_taken(marked) from None
        raise
    root = Path(top)
    if marked is not None and marked != root:
        raise _not_taken(marked)
    return read_repository(root)


def read_repository(root: Path) -> Repository:
    """The repository whose work tree has its top at ``root``. Raises as :func:`find_repository`."""
    git = Git(root)
    found = git.line("rev-parse", "--show-toplevel")
    if Path(found) != root:
        raise _not_taken(root)
    head = git.line("symbolic-ref", "-q", "HEAD", expect=(0, 1))
    commit = git.line("rev-parse", "-q", "--verify", "HEAD", expect=(0, 1))
    if not commit and not (head and _is_unborn(git, head)):
        git.answer("rev-parse", "--verify", "HEAD")  # says why
    url = git.line("remote", "get-url", "origin", expect=(0, 2, 128)).partition("\n")[0]
    origin = _origin(url, root)
    return Repository(
        root=root,
        in_git=True,
        key=key_of(origin) or directory_key(root),
        name=last_segment(origin) or _directory_name(root),
        origin=origin,
        branch=head.removeprefix("refs/heads/") if head.startswith("refs/heads/") else "",
        commit=commit,
        tag=git.line("describe", "--tags", "--exact-match", commit, expect=(0, 128)) if commit else "",
    )


def top_directory(directory: Path) -> Path | None:
    """The nearest directory, from here upward, that has a ``.git``, found without git.

    As git does, it stops at ``GIT_CEILING_DIRECTORIES`` and, unless told otherwise, at the file system's border.
    """
    ceilings = {
        os.path.realpath(each)
        for each in os.environ.get("GIT_CEILING_DIRECTORIES", "").split(os.pathsep)
        if each
    }
    across = os.environ.get("GIT_DISCOVERY_ACROSS_FILESYSTEM", "").lower() in ("1", "true", "yes", "on")
    device = directory.stat().st_dev
    for here in (directory, *directory.parents):
        if here != directory and (str(here) in ceilings or not (across or here.stat().st_dev == device)):
            return None
        if os.path.lexists(here / ".git"):
            return here
    return None


def _not_taken(root: Path | None) -> PackingError:
    return PackingError(
        f"there is {root}/.git, but git does not take it for a repository",
        hint="repair it, or remove it to send the directory without git",
    )


def _is_unborn(git: Git, head: str) -> bool:
    """Whether ``HEAD`` names a branch that does not exist yet."""
    return not git.line("for-each-ref", "--count=1", "--format=%(refname)", head)


def _origin(url: str, root: Path) -> str:
    origin = without_credentials(url)
    if origin and ":" not in origin and not os.path.isabs(origin):
        return os.path.normpath(root / origin)  # another directory of this machine
    return origin


def _plain(directory: Path) -> Repository:
    return Repository(directory, False, directory_key(directory), _directory_name(directory))


def directory_key(directory: Path) -> str:
    """The key of a directory without a remote."""
    place = socket.gethostname().encode() + b"\0" + os.fsencode(directory)
    return f"dir:{hashlib.sha256(place).hexdigest()[:32]}"


def _directory_name(directory: Path) -> str:
    return directory.name or "root"
