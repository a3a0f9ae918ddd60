"""Which commits of a repository travel: ``HEAD`` and its history to a depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pilothouse.cli.checkout.git import Git

_BY_LEVEL = 50
"""Up to this depth git is asked level by level, beyond it for everything at once."""


@dataclass(frozen=True, slots=True)
class History:
    """``commits``: ids and their parents'; ``None``: all there are, of a repository that has them all.

    ``depth``: of the commits that are there, 0 for all. ``shallow``: those of them whose parents are not there.
    """

    depth: int
    commits: dict[str, tuple[str, ...]] | None
    shallow: tuple[str, ...] = ()


def read_history(git: Git, commit: str, depth: int) -> History:
    """The history of a commit, to ``depth`` (0: all). It is less deep where the repository itself is shallow."""
    cut = _shallow_commits(git)
    if depth == 0 and not cut:
        return History(0, None)
    levels = list(_levels(git, commit, depth))
    commits = {name: parents for level in levels for name, parents in level.items()}
    shallow = {
        name
        for name, parents in commits.items()
        if name in cut or any(parent not in commits for parent in parents)
    }
    first_cut = next((number for number, level in enumerate(levels, 1) if cut & level.keys()), 0)
    return History(first_cut or depth, commits, tuple(sorted(shallow)))


def commits_within(git: Git, commit: str, depth: int) -> set[str]:
    """Ids of a commit and its history to a depth of at least 1."""
    return {name for level in _levels(git, commit, depth) for name in level}


def _levels(git: Git, commit: str, depth: int) -> Iterator[dict[str, tuple[str, ...]]]:
    """The commits by their distance, each with its parents. A shallow repository's end has none."""
    everything = None if 0 < depth <= _BY_LEVEL else _parents(git, [commit], walk=True)
    seen: set[str] = set()
    level = [commit]
    number = 0
    while level and (depth == 0 or number < depth):
        found = {name: everything[name] for name in level} if everything else _parents(git, level, walk=False)
        yield found
        seen.update(found)
        level = list(dict.fromkeys(p for parents in found.values() for p in parents if p not in seen))
        number += 1


def _parents(git: Git, commits: Iterable[str], *, walk: bool) -> dict[str, tuple[str, ...]]:
    how = () if walk else ("--no-walk=unsorted",)
    lines = git.records(
        "rev-list",
        "--parents",
        *how,
        "--stdin",
        input=(f"{commit}\n".encode() for commit in commits),
        end=b"\n",
    )
    found = {}
    for line in lines:
        name, *parents = line.decode().split(" ")
        found[name] = tuple(parents)
    return found


def _shallow_commits(git: Git) -> set[str]:
    if git.line("rev-parse", "--is-shallow-repository") != "true":
        return set()
    file = git.directory / Path(git.line("rev-parse", "--git-path", "shallow"))
    return set(file.read_text("ascii").split())
