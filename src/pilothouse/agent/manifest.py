"""Parses and validates the manifest of a checkout (docs/checkout.md), which is not trusted. Pure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pilothouse.agent.unpack import Refused, checked
from pilothouse.workers.git import encodable, good_ref

MAX_REPOSITORIES, MAX_PACKS, MAX_TEXT = 200, 20, 2048
OBJECT_ID = {"sha1": re.compile(r"[0-9a-f]{40}"), "sha256": re.compile(r"[0-9a-f]{64}")}
SHA256 = OBJECT_ID["sha256"]
SETTINGS = {"autocrlf": ("true", "input"), "eol": ("crlf", "lf")}


class ManifestInvalid(Exception):
    """The manifest is invalid, or the checkout does not match it."""

    code = "MANIFEST_INVALID"


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of a work tree. ``number``: its index in the manifest; ``path``: empty for the top.

    ``settings``: core.autocrlf and core.eol, if given.
    """

    number: int
    path: str
    name: str = ""
    nested: bool = False
    origin: str = ""
    commit: str = ""
    branch: str = ""
    object_format: str = "sha1"
    packs: tuple[str, ...] = ()
    shallow: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    intent_to_add: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """The nesting depth below the top."""
        return len(self.path.split("/")) if self.path else 0


def read_manifest(text: bytes, packs: Collection[str]) -> list[Repository]:
    """The repositories, parents before children; none for a plain directory. ``packs``: the sha256 of the packs
    announced by the server. Raises ManifestInvalid."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ManifestInvalid("the checkout's manifest is not JSON") from None
    if not isinstance(found, dict) or found.get("version") != 1:
        raise ManifestInvalid("the checkout has a manifest of another version; update this agent")
    listed = found.get("repositories", [])
    if not isinstance(listed, list) or len(listed) > MAX_REPOSITORIES:
        raise ManifestInvalid(f"a checkout has at most {MAX_REPOSITORIES} repositories")
    if not found.get("git"):
        return []
    repositories = [_repository(number, fields, packs) for number, fields in enumerate(listed)]
    paths = [repository.path for repository in repositories]
    if not paths or paths[0] != "" or len(set(paths)) != len(paths):
        raise ManifestInvalid(
            "the checkout's repositories must begin with the top, each at a path of its own"
        )
    return sorted(repositories, key=lambda repository: repository.depth)


def _repository(number: int, fields: Any, packs: Collection[str]) -> Repository:
    if not isinstance(fields, dict):
        raise ManifestInvalid(f"repository {number} of the manifest is not an object")
    object_format = _text(fields, "object_format") or "sha1"
    if object_format not in OBJECT_ID:
        raise ManifestInvalid(f"repository {number} has an unknown object format")
    ids = OBJECT_ID[object_format]
    commit, branch = _text(fields, "commit"), _text(fields, "branch")
    named = _list(fields, "packs", SHA256)
    if not commit and not branch:
        raise ManifestInvalid(f"repository {number} has neither a commit nor a branch")
    if commit and not ids.fullmatch(commit):
        raise ManifestInvalid(f"repository {number}: {commit[:80]!r} is not a commit id")
    if branch and not good_ref(branch):
        raise ManifestInvalid(f"repository {number}: {branch[:80]!r} is not a branch name")
    if len(named) > MAX_PACKS or not set(named) <= set(packs) or (commit and not named):
        raise ManifestInvalid(f"repository {number} needs packs that the run does not have")
    return Repository(
        number=number,
        path=os.fsdecode(_path(_text(fields, "path"))),
        name=_text(fields, "name"),
        nested=fields.get("kind") == "nested",
        origin=without_credentials(_text(fields, "origin")),
        commit=commit,
        branch=branch,
        object_format=object_format,
        packs=named,
        shallow=_list(fields, "shallow", ids),
        tags=_tags(fields.get("tags") or {}, ids),
        intent_to_add=tuple(os.fsdecode(_path(path)) for path in _list(fields, "intent_to_add")),
        settings={
            f"core.{key}": fields[key] for key, values in SETTINGS.items() if fields.get(key) in values
        },
    )


def without_credentials(origin: str) -> str:
    """A remote's URL without password, and for http(s) without user name, which may be a token."""
    if "://" not in origin:
        return origin
    try:
        parts = urlsplit(origin)
        user, at, host = parts.netloc.rpartition("@")
        keep = user.partition(":")[0] + at if parts.scheme not in ("http", "https") else ""
        return urlunsplit(parts._replace(netloc=keep + host, query="", fragment=""))
    except ValueError:
        return ""


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str) or (re.search(r"[\x00-\x1f\x7f]", value) and key != "path"):
        raise ManifestInvalid(f"the manifest's {key} is not a line of text")
    if not encodable(value):
        raise ManifestInvalid(f"the manifest's {key} has an unpaired surrogate, which is not a character")
    if len(value) > (MAX_TEXT if key != "path" else 2 * MAX_TEXT):
        raise ManifestInvalid(f"the manifest's {key} is too long")
    return value


def _list(fields: Mapping[str, Any], key: str, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
    values = fields.get(key) or []
    if not isinstance(values, list) or not all(
        isinstance(value, str) and (pattern is None or pattern.fullmatch(value)) for value in values
    ):
        raise ManifestInvalid(f"the manifest's {key} has an invalid entry")
    return tuple(values)


def _tags(tags: Any, ids: re.Pattern[str]) -> dict[str, str]:
    if not isinstance(tags, dict):
        raise ManifestInvalid("the manifest's tags are not an object")
    for name, target in tags.items():
        if not good_ref(name) or not isinstance(target, str) or not ids.fullmatch(target):
            raise ManifestInvalid(f"{name[:80]!r} is not a tag name")
    return tags


def _path(path: str) -> bytes:
    try:
        encoded = os.fsencode(path)
        if checked(encoded) != encoded or b"\0" in encoded:
            raise Refused(f"{path[:80]!r} is not a plain path")
    except (Refused, UnicodeEncodeError) as refused:
        raise ManifestInvalid(str(refused)) from None
    return encoded
