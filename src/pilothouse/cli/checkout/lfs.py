"""Pointers of git LFS: whether a file is the one that a blob points to. LFS's own filter is not run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from pilothouse.cli.checkout.git import Git

MAX_POINTER = 1024
_AT_ONCE = 1000
_POINTER = re.compile(
    rb"version https://[^\n]+/spec/v1\n(?:[^\n]*\n)*?oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)


def pointed_to(git: Git, files: Mapping[Path, bytes]) -> set[Path]:
    """Those of the files that are what the blob of this id, a pointer, stands for."""
    items = iter(files.items())
    found: set[Path] = set()
    while some := list(islice(items, _AT_ONCE)):
        pointers = _pointers(git, {oid for _, oid in some})
        found.update(file for file, oid in some if oid in pointers and _is(file, *pointers[oid]))
    return found


def _pointers(git: Git, oids: set[bytes]) -> dict[bytes, tuple[str, int]]:
    """Digest and size by the pointer's id."""
    answer = git.answer("cat-file", "--batch", input=b"".join(oid + b"\n" for oid in oids))
    pointers = {}
    for oid, content in _blobs(answer):
        if match := _POINTER.match(content):
            pointers[oid] = (match[1].decode(), int(match[2]))
    return pointers


def _blobs(answer: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(answer):
        end = answer.index(b"\n", at)
        oid, _, size = answer[at:end].split(b" ")
        at = end + 1 + int(size)
        yield oid, answer[end + 1 : at]
        at += 1


def _is(file: Path, sha256: str, size: int) -> bool:
    try:
        if file.lstat().st_size != size:
            return False
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == sha256
    except OSError:
        return False
