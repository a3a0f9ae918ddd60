"""What an agent reads of a checkout and of a step's files, as functions of arbitrary bytes (see ``support.faults.targets``)."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile

import orjson

from pilothouse.agent.job_env import JobEnvironments
from pilothouse.agent.job_env import read as read_env
from pilothouse.agent.manifest import ManifestInvalid, read_manifest
from pilothouse.agent.unpack import MAX_META, Refused, Unpacking
from pilothouse.agent.unpack import Source as ArchiveSource
from pilothouse.workers.git import good_ref
from support.faults.targets import target
from support.faults.targets_agent import scratch


def _tar(*names: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif "->" in name:
                info.name, info.linkname = name.split("->")
                info.type = tarfile.SYMTYPE
            else:
                info.size = 4
            tar.addfile(info, io.BytesIO(b"text"))
    return packed.getvalue()[:4096]


_MANIFEST = orjson.dumps(
    {
        "version": 1,
        "git": True,
        "repositories": [
            {"path": "", "key": "k", "commit": "a" * 40, "branch": "main", "depth": 1, "packs": ["b" * 64]},
            {"path": "lib", "name": "lib", "key": "k", "commit": "a" * 40, "packs": ["b" * 64]},
        ],
    }
)


@target(
    _tar("a", "d/", "d/b", "l->d"),
    _tar("../x"),
    _tar("l->..", "l/x"),
    _tar("l->../archive", "l"),
    _tar("manifest.json", "index/0", "deleted/0", "files/a"),
    gzip.compress(_tar("a"), mtime=0),
)
def checkout(data: bytes) -> None:
    """An archive of any bytes: unpacked within its directory, or refused."""
    with scratch() as directory:
        archive, into = directory / "archive", directory / "into"
        archive.write_bytes(data)
        into.mkdir()
        with archive.open("rb") as file, contextlib.chdir(into), contextlib.suppress(Refused):
            Unpacking(ArchiveSource(file, 2 << 20), 1 << 20, 100).run()
        assert {entry.name for entry in os.scandir(directory)} == {"archive", "into"}, (
            "it has left its directory"
        )
        assert archive.read_bytes() == data, "it has written through a link"
        assert {entry.name for entry in os.scandir(into)} <= {"tree", "meta"}
        files = [path for path in into.rglob("*") if path.is_file() and not path.is_symlink()]
        assert len(files) <= 100
        assert sum(path.stat().st_size for path in files) <= (1 << 20) + MAX_META


@target(
    _MANIFEST,
    _MANIFEST.replace(b'"lib",', b'"../lib",'),
    _MANIFEST.replace(b'"main"', b'"\\ud800"'),
    b'{"version":1,"git":false}',
    words=(b"[", b"{}", b'"path":', b"null", b"1e999", b'"', b"/.git/"),
)
def manifest(data: bytes) -> None:
    """The manifest of a checkout: repositories whose paths and names are good, or a refusal."""
    try:
        found = read_manifest(data, {"b" * 64})
    except ManifestInvalid:
        return
    for repository in found:
        assert ".." not in repository.path.split("/")
        assert not repository.path.startswith("/")
        assert not repository.branch or good_ref(repository.branch)


@target(
    b"A=1\nB<<END\nx\ny\nEND\n\nC = d\n",
    b"PILOT_X=1\n=x\nA=\0\nD<<E\n",
    b"A=\xff\xfe\r\n",
    words=(b"<<", b"=", b"\n", b"PILOT_", b"\0"),
)
def step_environment(data: bytes) -> None:
    """What a step wrote to ``PILOT_ENV``: variables that a process can have, kept as they are for later steps."""
    with scratch() as directory:
        (directory / "env").write_bytes(data)
        written = read_env(directory / "env")
        kept = JobEnvironments(directory / "kept")
        kept.add("w", written)
        for name, value in kept.load("w").items():
            assert written.variables[name] == value
            assert name
            assert not name.startswith("PILOT_")
            assert not {"=", "\0"} & set(name)
            assert "\0" not in value
            os.fsencode(value)
