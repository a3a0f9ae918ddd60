"""What the server has of a repository already, and which of it a new pack builds upon. Pure but for git's reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilothouse.cli.checkout.git import Git

MAX_CHAIN = 20
"""Packs that one commit may consist of."""

_COMFORTABLE = 10
_NEAR = 5000


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack that the server has; ``id`` is its blob's."""

    id: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class NewPack:
    """A pack that is sent."""

    file: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class KnownCommit:
    """A commit that the server has or gets, with its history to ``depth`` (0: all of it), in these packs."""

    commit: str
    depth: int
    packs: tuple[StoredPack | NewPack, ...]

    def holds(self, commit: str, depth: int) -> bool:
        """Whether it is this commit, with at least this depth."""
        return self.commit == commit and (self.depth == 0 or 0 < depth <= self.depth)


def choose_base(git: Git, commit: str, depth: int, known: Sequence[KnownCommit]) -> KnownCommit | None:
    """What to build upon: the commit itself, else the nearest ancestor, else the newest that is here, too.

    A chain of packs that has grown long is not grown further while there is a shorter one; none is longer than
    MAX_CHAIN. ``known``: newest use first.
    """
    exact = next((each for each in known if each.holds(commit, depth) and len(each.packs) <= MAX_CHAIN), None)
    if exact is not None:
        return exact
    here = _present(git, [each.commit for each in known])
    usable = [each for each in known if each.commit in here and 0 < len(each.packs) < MAX_CHAIN]
    if not usable:
        return None
    nearest = _nearest(git, commit, {each.commit for each in usable})
    best = next((each for each in usable if each.commit == nearest), usable[0])
    if len(best.packs) > _COMFORTABLE:
        return min(usable, key=lambda each: len(each.packs))
    return best


def _present(git: Git, commits: Sequence[str]) -> set[str]:
    """Those that this repository has, without asking a promisor remote for the others."""
    wanted = [commit for commit in commits if commit.isalnum() and len(commit) in (40, 64)]
    if not wanted:
        return set()
    found = git.records(
        "rev-list",
        "--ignore-missing",
        "--missing=allow-any",
        "--no-walk=unsorted",
        "--stdin",
        input=(f"{commit}\n".encode() for commit in wanted),
        end=b"\n",
    )
    return {record.decode() for record in found}


def _nearest(git: Git, commit: str, wanted: set[str]) -> str:
    for record in git.records("rev-list", f"--max-count={_NEAR}", commit, end=b"\n"):
        if record.decode() in wanted:
            return record.decode()
    return ""
