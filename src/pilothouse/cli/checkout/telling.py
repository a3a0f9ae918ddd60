"""What is said about a checkout: what travels, what does not, and why it is too large."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Sequence

from pilothouse.cli.checkout.errors import CheckoutTooLarge, readable
from pilothouse.cli.checkout.tree import Tree
from pilothouse.cli.text import size

_SHOWN = 3


def notes(tree: Tree) -> list[str]:
    """What is left out, or not as one may expect; one line each."""
    found = []
    if tree.submodules:
        found.append(
            f"{_listed('submodule', tree.submodules)} left out: "
            f"`checkout: {{submodules: true}}` in the spec sends them"
        )
    if tree.special:
        found.append(f"{_listed('special file', tree.special)} left out")
    if tree.hidden:
        found.append(
            f"{_listed('git repository', tree.hidden)} sent as plain files, ignored ones included, since "
            f"{tree.root} is no git work tree"
        )
    return found


def sending(tree: Tree, files: int, objects: int, total: int) -> str:
    """The line that says what travels. ``objects``, ``total``: bytes."""
    if not tree.parts:
        return f"sending {_count(files, 'file')} of {tree.root} ({size(total)})"
    new = f"{size(objects)} of new objects" if objects else "no new objects"
    return f"sending {_count(files, 'changed file')} and {new} of {tree.root} ({size(total)})"


def too_large(tree: Tree, limit: int, how: str) -> CheckoutTooLarge:
    """The error that names the largest files."""
    largest = ", ".join(f"{path} ({size(count)})" for count, path in _largest(tree))
    return CheckoutTooLarge(
        f"{tree.root} is over {size(limit)} {how}; its largest files: {largest}",
        hint="keep large files out with .gitignore, raise PILOT_MAX_CHECKOUT (here and for agents) and the server's "
        "PILOT_MAX_BLOB, or run with --no-checkout and fetch them in a step",
    )


def _largest(tree: Tree) -> list[tuple[int, str]]:
    root = os.fsencode(tree.root) + b"/"
    travelling = [file.path for file in tree.files]
    sizes = []
    for part in tree.parts:
        prefix = part.place.prefix
        travelling += [prefix + file.path for file in part.state.files]
        sizes += [(count, prefix + path) for count, path in part.state.tracked.largest]
    sizes += [(_size(root + path), path) for path in travelling]
    return [(count, readable(path)) for count, path in heapq.nlargest(_SHOWN, set(sizes))]


def _size(path: bytes) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _listed(noun: str, paths: Sequence[bytes]) -> str:
    """``2 submodules (a, b)``, with a few of the names."""
    shown = ", ".join(_names(paths))
    return f"{_count(len(paths), noun)} ({shown})"


def _names(paths: Sequence[bytes]) -> Iterable[str]:
    yield from (readable(path) or "." for path in paths[:_SHOWN])
    if len(paths) > _SHOWN:
        yield "…"


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {plural}"
