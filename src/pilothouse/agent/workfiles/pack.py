"""Packs files of the workspace into what is uploaded as an artifact: a zip, or one file as it is."""

from __future__ import annotations

import os
import stat
import time
import zipfile
from typing import IO, Any

from pilothouse.agent.workfiles.walk import Found, Search, literal_part, open_file
from pilothouse.wire.placing import Refused, shown

CHUNK = 1 << 20


def pack(job: dict[str, Any], workspace: int, out: IO[bytes]) -> dict[str, Any]:
    """Write the artifact to ``out``, a file. Raises :class:`Refused`.

    ``job``: ``patterns``, ``hidden``, ``archive`` (false: one file as it is), ``level`` (0-9), ``max_files``,
    ``max_bytes`` (of the files together). Returns ``{"files", "unpacked", "file_name", "notes"}``;
    ``files`` 0: nothing matches, and nothing was written.
    """
    search = Search(workspace, job["max_files"], job["hidden"])
    found = search.find(job["patterns"])
    if not found:
        return {"files": 0, "notes": search.notes}
    total = sum(each.size for each in found)
    if total > job["max_bytes"]:
        raise Refused(f"the files have {total} bytes together, at most {job['max_bytes']} are allowed")
    if job["archive"]:
        written, unpacked = _zip(search, found, job, workspace, out)
        name = ""
    else:
        written, unpacked, name = 1, _one(found, job, workspace, out), os.path.basename(found[0].path)
    out.flush()
    return {
        "files": written,
        "unpacked": unpacked,
        "file_name": name,
        "notes": search.notes,
    }


def _one(found: list[Found], job: dict[str, Any], workspace: int, out: IO[bytes]) -> int:
    if len(found) > 1:
        raise Refused(f"archive: false is for one file, and {len(found)} match")
    with open(open_file(workspace, found[0].path), "rb") as file:
        return _copy(file, out, job["max_bytes"])


def _zip(
    search: Search, found: list[Found], job: dict[str, Any], workspace: int, out: IO[bytes]
) -> tuple[int, int]:
    root, left = common_root(job["patterns"], found), job["max_bytes"]
    written = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=job["level"]) as archive:
        for each in found:
            name = each.path[len(root) :]
            try:
                name.encode()
            except UnicodeEncodeError:
                search.note(f"{shown(name)} is left out: its name is not UTF-8")
                continue
            try:
                file = open_file(workspace, each.path)
            except OSError as error:
                search.note(f"{shown(name)} is left out: {error.strerror}")
                continue
            with open(file, "rb") as source:
                entry = _entry(name, os.fstat(file))
                with archive.open(entry, "w", force_zip64=each.size > 1 << 30) as target:
                    left -= _copy(source, target, left)
            written += 1
    return written, job["max_bytes"] - left


def _entry(name: str, found: os.stat_result) -> zipfile.ZipInfo:
    at = time.localtime(min(max(found.st_mtime, 315_619_200), 4_354_732_800))[
        :6
    ]  # 1980 to 2107, as zip can say
    entry = zipfile.ZipInfo(name, (at[0], at[1], at[2], at[3], at[4], at[5]))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | (found.st_mode & 0o777)) << 16
    entry.file_size = found.st_size
    return entry


def common_root(patterns: list[str], found: list[Found]) -> str:
    """The directory, with its slash, that paths in the archive are relative to: the deepest one that all patterns
    have in common, as in GitHub Actions."""
    paths = {each.path for each in found}
    bases = []
    for pattern in patterns:
        if pattern.startswith("!"):
            continue
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        base = literal_part("/".join(parts))
        bases.append(os.path.dirname(base) if base in paths else base)
    common = bases[0].split("/") if bases[0] else []
    for base in bases[1:]:
        parts = base.split("/") if base else []
        same = [a for a, b in zip(common, parts, strict=False) if a == b]
        common = same if common[: len(same)] == same and parts[: len(same)] == same else []
    root = "/".join(common) + "/" if common else ""
    return root if all(path.startswith(root) for path in paths) else ""


def _copy(source: IO[bytes], target: IO[bytes], most: int) -> int:
    """At most as many bytes as are allowed: a file may grow while it is read."""
    copied = 0
    while data := source.read(CHUNK):
        copied += len(data)
        if copied > most:
            raise Refused("the files have grown while they were read, and are larger than is allowed")
        target.write(data)
    return copied
