"""What a repository's configuration means for sending its work tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilothouse.cli.checkout.errors import PackingError
from pilothouse.cli.checkout.git import Git

_CONVERSIONS = ("filter", "text", "eol", "ident", "working-tree-encoding")
_SET = frozenset({b"unspecified", b"unset"})


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """``file_mode``: files can be executable here. ``drivers``: names of filters.

    ``autocrlf``, ``eol``: as for git, empty if they change nothing. ``attributes``: there are attributes outside
    the work tree, which a checkout elsewhere does not know.
    """

    object_format: str
    file_mode: bool
    drivers: tuple[str, ...]
    autocrlf: str
    eol: str
    attributes: bool
    sparse_index: bool = False

    @property
    def listing(self) -> tuple[str, ...]:
        """``git ls-files`` that leaves a sparse index as it is: to expand it, git would write tree objects."""
        return ("ls-files", "-z", *(("--sparse",) if self.sparse_index else ()))

    def without_filters(self) -> list[str]:
        """Settings that keep git from running any filter, and from insisting on one."""
        off = (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false"))
        return [f"filter.{driver}.{name}={value}" for driver in self.drivers for name, value in off]


def read_settings(git: Git) -> RepositorySettings:
    """The repository's settings, whichever file they are in."""
    values: dict[str, str] = {}
    for record in git.records("config", "-z", "--list"):
        name, _, value = os.fsdecode(record).partition("\n")
        values[name] = value
    drivers = sorted(
        {n.rpartition(".")[0][7:] for n in values if n.startswith("filter.") and n.count(".") > 1}
    )
    if any("=" in driver for driver in drivers):
        raise PackingError(f"{git.directory}: a filter with = in its name cannot be switched off")
    autocrlf = values.get("core.autocrlf", "").lower()
    eol = values.get("core.eol", "").lower()
    return RepositorySettings(
        object_format=values.get("extensions.objectformat", "sha1").lower(),
        file_mode=values.get("core.filemode", "true").lower() not in ("false", "0", "no", "off"),
        drivers=tuple(drivers),
        autocrlf={"1": "true", "yes": "true", "on": "true"}.get(autocrlf, autocrlf)
        if autocrlf in ("true", "1", "yes", "on", "input")
        else "",
        eol=eol if eol in ("lf", "crlf") else "",
        sparse_index=values.get("index.sparse", "").lower() in ("true", "1", "yes", "on"),
        attributes=_has_outer_attributes(git, values.get("core.attributesfile", "")),
    )


def converted_paths(git: Git, settings: RepositorySettings) -> set[bytes]:
    """Tracked paths whose file git may have converted by what a checkout elsewhere does not have."""
    wanted = _CONVERSIONS if settings.attributes else _CONVERSIONS[:1] if settings.drivers else ()
    if not wanted:
        return set()
    listed = (record + b"\0" for record in git.records(*settings.listing))
    found = set()
    drivers = {os.fsencode(driver) for driver in settings.drivers}
    for path, attribute, value in _triples(git.records("check-attr", "-z", "--stdin", *wanted, input=listed)):
        if value not in _SET and (attribute != b"filter" or value in drivers):
            found.add(path)
    return found


def other_line_ends(git: Git, settings: RepositorySettings) -> set[bytes]:
    """Tracked paths whose line ends are not what a checkout with these settings gives, though git sees no change."""
    found: set[bytes] = set()
    if not (settings.autocrlf or settings.eol):
        return found
    for record in git.records(*settings.listing, "--eol"):
        described, _, path = record.partition(b"\t")
        index, tree, *attributes = described.split()
        if tree[2:] not in (b"", _line_ends(index[2:], attributes, settings)):
            found.add(path)
    return found


def _line_ends(index: bytes, attributes: list[bytes], settings: RepositorySettings) -> bytes:
    """``crlf``, ``lf``, ``mixed``, …: what a checkout makes of a file that has ``index`` in the index."""
    if index != b"lf" or b"attr/-text" in attributes or b"eol=lf" in attributes:
        return index
    if b"eol=crlf" in attributes or settings.autocrlf == "true":
        return b"crlf"
    is_text = any(each in (b"attr/text", b"attr/text=auto") for each in attributes)
    return b"crlf" if is_text and settings.eol == "crlf" and not settings.autocrlf else index


def _triples(records: Iterator[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
    for path in records:
        yield path, next(records), next(records)


def _has_outer_attributes(git: Git, configured: str) -> bool:
    own = Path(git.line("rev-parse", "--git-path", "info/attributes"))
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    users = os.path.expanduser(configured) if configured else os.path.join(home, "git", "attributes")
    return any(
        _says_something(each) for each in (git.directory / own, Path(users), Path("/etc/gitattributes"))
    )


def _says_something(file: Path) -> bool:
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return False
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in lines)
