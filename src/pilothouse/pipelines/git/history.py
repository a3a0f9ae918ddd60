"""Which commits of a copy belong to a work tree, and what a pack with them needs; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

Parents = Mapping[str, tuple[str, ...]]
"""Commits, and the parents of each that the copy knows of."""


@dataclass(frozen=True, slots=True)
class History:
    """``commits``: of the work tree's repository; ``shallow``: those of them whose parents are not among them."""

    commits: frozenset[str]
    shallow: tuple[str, ...]


def read_parents(listed: bytes) -> dict[str, tuple[str, ...]]:
    """The output of ``git rev-list --parents``."""
    found = {}
    for line in listed.decode("ascii").splitlines():
        commit, *parents = line.split(" ")
        found[commit] = tuple(parents)
    return found


def history_of(parents: Parents, commit: str, depth: int, cut: Collection[str]) -> History:
    """The commit and its history to ``depth`` commits (0: all). ``cut``: commits whose parents the copy lacks."""
    level, seen, number = [commit], {commit}, 1
    while level and (depth == 0 or number < depth):
        level = list(dict.fromkeys(p for name in level for p in parents.get(name, ()) if p not in seen))
        seen.update(level)
        number += 1
    shallow = [name for name in seen if name in cut or not seen.issuperset(parents.get(name, ()))]
    return History(frozenset(seen), tuple(sorted(shallow)))


def wanted_for_pack(history: History, base: History | None, base_commit: str) -> list[str]:
    """Lines for ``git pack-objects --revs``: the commits that ``base`` lacks, without the objects that it has."""
    there = base.commits if base is not None else frozenset()
    new = sorted(history.commits - there)
    excluded = [f"^{base_commit}^{{tree}}"] if base_commit else []
    return [*(f"--shallow {name}" for name in new), *new, *excluded]
