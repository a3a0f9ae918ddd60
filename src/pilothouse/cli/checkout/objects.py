"""Packs: of the commits that the server does not have, and of what only the index or a tag has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.history import History, commits_within
from pilothouse.cli.checkout.known import KnownCommit, NewPack

_HEADER = 12
_PACK = ("pack-objects", "--stdout", "-q", "--delta-base-offset")
# Deltas that a repository has are used again; looking for new ones between large files costs minutes.
_QUICK = ("core.bigFileThreshold=32k",)


def pack_commits(
    git: Git, commit: str, history: History, base: KnownCommit | None, file: Path, limit: int
) -> NewPack | None:
    """The objects of the history that ``base`` does not have; ``None`` if there are none.

    Raises OverflowError beyond ``limit`` bytes.
    """
    if base is not None and base.holds(commit, history.depth):
        return None
    if history.commits is None:
        wanted = [commit, *_without(base, whole=True)]
    else:
        there = _there(git, history, base)
        new = [name for name in history.commits if name not in there]
        if not new:
            return None
        parents = {p for name in new for p in history.commits[name] if p in there}
        wanted = [f"--shallow {name}" for name in new] + new + list(_without(base, whole=False))
        wanted += [f"^{parent}^{{tree}}" for parent in sorted(parents)]
    return _write(git, file, limit, ("--revs",), wanted)


def pack_loose(
    git: Git, commit: str, objects: Iterable[str], tags: Iterable[str], file: Path, limit: int
) -> NewPack | None:
    """Objects of the index that ``commit`` does not have, and tag objects; ``None`` if there are none."""
    staged = list(dict.fromkeys(objects))
    if staged and commit:
        lines = git.records(
            "rev-list", "--objects", "--stdin", input=_lines([*staged, f"^{commit}^{{tree}}"]), end=b"\n"
        )
        staged = [line.split(b" ", 1)[0].decode() for line in lines]
    wanted = [*staged, *tags]
    return _write(git, file, limit, (), wanted) if wanted else None


def _there(git: Git, history: History, base: KnownCommit | None) -> set[str]:
    if base is None:
        return set()
    assert history.commits is not None
    return commits_within(git, base.commit, base.depth or history.depth or len(history.commits))


def _without(base: KnownCommit | None, *, whole: bool) -> Iterator[str]:
    """A base with all of its history excludes that, too; any other only what is in its own tree."""
    if base is not None:
        yield f"^{base.commit}" if whole and base.depth == 0 else f"^{base.commit}^{{tree}}"


def _write(git: Git, file: Path, limit: int, how: tuple[str, ...], wanted: Iterable[str]) -> NewPack | None:
    with file.open("wb") as target:
        sha256, size = git.with_config(_QUICK).into(target, limit, *_PACK, *how, input=_lines(wanted))
    with file.open("rb") as written:
        if int.from_bytes(written.read(_HEADER)[8:], "big") == 0:
            return None
    return NewPack(file, sha256, size)


def _lines(words: Iterable[str]) -> Iterator[bytes]:
    return (f"{word}\n".encode() for word in words)
