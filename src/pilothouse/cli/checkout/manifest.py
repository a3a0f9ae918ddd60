"""``manifest.json`` of a checkout (docs/checkout.md). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pilothouse.cli.checkout.known import NewPack, StoredPack
from pilothouse.cli.checkout.options import CheckoutOptions
from pilothouse.cli.checkout.tree import Part, Tree

VERSION = 1


def manifest(
    tree: Tree,
    options: CheckoutOptions,
    tags: Sequence[Mapping[str, str]],
    packs: Sequence[Iterable[StoredPack | NewPack]],
) -> dict[str, Any]:
    """The manifest; ``tags`` and ``packs`` are those of each of the tree's parts."""
    parts = zip(tree.parts, tags, packs, strict=True)
    return {
        "version": VERSION,
        "git": bool(tree.parts),
        "repositories": [_repository(part, options, named, held) for part, named, held in parts],
    }


def _repository(
    part: Part, options: CheckoutOptions, tags: Mapping[str, str], packs: Iterable[StoredPack | NewPack]
) -> dict[str, Any]:
    repository, settings, place = part.repository, part.settings, part.place
    optional = {
        "kind": place.kind if place.kind == "nested" else "",
        "name": place.name,
        "shallow": list(part.history.shallow) if part.history else [],
        "tags": dict(tags),
        "intent_to_add": [text_of(path) for path in part.state.intent_to_add],
        "autocrlf": settings.autocrlf,
        "eol": settings.eol,
    }
    return {
        "path": text_of(place.path),
        "key": repository.key,
        "origin": repository.origin,
        "commit": repository.commit,
        "branch": repository.branch,
        "depth": options.depth,
        "object_format": settings.object_format,
        "packs": [pack.sha256 for pack in packs],
        **{name: value for name, value in optional.items() if value},
    }


def text_of(path: bytes) -> str:
    """A path as JSON has it: bytes that are not UTF-8 as lone surrogates."""
    return path.decode("utf-8", "surrogateescape")
