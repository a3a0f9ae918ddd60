"""The tags that travel with a history."""

from __future__ import annotations

from pilothouse.cli.checkout.git import Git
from pilothouse.cli.checkout.history import History

_FORMAT = "--format=%(objectname) %(objecttype) %(object) %(type) %(refname:strip=2)"


def read_tags(git: Git, commit: str, history: History) -> tuple[dict[str, str], list[str]]:
    """Name and object id of each tag that leads to a commit of the history; and the ids of tag objects."""
    merged = ("--merged", commit) if history.commits is None else ()
    tags: dict[str, str] = {}
    objects: dict[str, None] = {}
    for record in git.records("for-each-ref", *merged, _FORMAT, "refs/tags", end=b"\n"):
        oid, kind, target, target_kind, name = record.decode("utf-8", "surrogateescape").split(" ", 4)
        chain = [oid] if kind == "tag" else []
        if kind == "tag" and target_kind == "tag":  # a tag of a tag
            *inner, target = _followed(git, target)
            chain += inner
        at = target if kind == "tag" else oid
        if history.commits is None or at in history.commits:
            tags[name] = oid
            objects.update(dict.fromkeys(chain))
    return tags, list(objects)


def _followed(git: Git, oid: str) -> list[str]:
    """The tag objects from here on, and what the last of them is of."""
    found = [oid]
    while git.line("cat-file", "-t", found[-1]) == "tag":
        first = git.line("cat-file", "tag", found[-1]).partition("\n")[0]
        found.append(first.removeprefix("object "))
    return found
