"""What ``git ls-remote`` tells of a repository's branches and tags; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pilothouse.pipelines.git.address import good_branch

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Head:
    """``commit``: empty if the branch does not exist."""

    commit: str
    branch: str


@dataclass(frozen=True, slots=True)
class Tag:
    """``object``: the commit, or of an annotated tag its own object."""

    name: str
    object: str
    commit: str

    @property
    def annotated(self) -> bool:
        """Whether the tag has an object of its own."""
        return self.object != self.commit


def read_head(listed: str, ref: str) -> Head:
    """The output of ``git ls-remote --symref`` for one ref."""
    commit, target = "", ref
    for line in listed.splitlines():
        value, _, name = line.partition("\t")
        if name == ref and value.startswith("ref: "):
            target = value.removeprefix("ref: ")
        elif name == ref and COMMIT.fullmatch(value):
            commit = value
    return Head(commit, target.removeprefix("refs/heads/") if target != "HEAD" else "")


def read_tags(listed: str) -> list[Tag]:
    """The output of ``git ls-remote --tags``."""
    objects: dict[str, str] = {}
    commits: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, ref = line.partition("\t")
        tag = ref.removeprefix("refs/tags/")
        if COMMIT.fullmatch(name) and tag != ref and good_branch(tag.removesuffix("^{}")):
            (commits if tag.endswith("^{}") else objects)[tag.removesuffix("^{}")] = name
    return [Tag(tag, name, commits.get(tag, name)) for tag, name in objects.items()]
