"""Packing a checkout: what goes in, and the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pilothouse.cli.packing import Checkout, CheckoutTooLarge, Packed, PackingError, find_checkout, pack

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


def git(directory: Path, *arguments: str) -> str:
    command = ("git", "-C", str(directory), "-c", "protocol.file.allow=always", *arguments)
    done = subprocess.run(command, env={**os.environ, **GIT}, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text("ignored/\n*.o\n")
    (root / "tracked.txt").write_text("tracked")
    (root / "tool.sh").write_text("#!/bin/sh\n")
    (root / "tool.sh").chmod(0o755)
    (root / "link").symlink_to("tracked.txt")
    (root / "ignored").mkdir()
    (root / "ignored" / "secret").write_text("x")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def packed(checkout: Checkout, **more: int) -> tuple[Packed, bytes]:
    buffer = io.BytesIO()
    return pack(checkout, buffer, **more), buffer.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_the_work_tree_as_it_is(repository: Path) -> None:
    (repository / "new.txt").write_text("not committed")
    (repository / "tracked.txt").write_text("changed")
    (repository / "sub").mkdir()
    (repository / "sub" / "über raum\n.txt").write_text("odd name")
    result, data = packed(find_checkout(repository))
    assert set(members(data)) == {
        ".gitignore",
        "tracked.txt",
        "tool.sh",
        "link",
        "new.txt",
        "sub/über raum\n.txt",
    }
    assert (result.files, result.size, result.sha256) == (6, len(data), hashlib.sha256(data).hexdigest())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("tracked.txt")
        assert file is not None
        assert file.read() == b"changed"


def test_modes_and_links_are_kept_and_nobody_is_named(repository: Path) -> None:
    (repository / "tracked.txt").chmod(0o600)
    found = members(packed(find_checkout(repository))[1])
    assert (found["tool.sh"].mode, found["tracked.txt"].mode) == (0o755, 0o644)
    assert found["link"].issym()
    assert found["link"].linkname == "tracked.txt"
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "", "", 0)}


def test_the_same_files_give_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    first = packed(find_checkout(repository))[1]
    clone = tmp_path / "elsewhere"
    git(tmp_path, "clone", "-q", str(repository), str(clone))
    os.utime(clone / "tracked.txt", (1, 1))
    assert packed(find_checkout(clone))[1] == first
    assert first[4:8] == bytes(4), "gzip's own time is not in it"


def test_from_a_directory_within(repository: Path) -> None:
    (repository / "sub").mkdir()
    found = find_checkout(repository / "sub")
    assert found == Checkout(repository.resolve(), True, "main", git(repository, "rev-parse", "HEAD"))


def test_a_deleted_file_and_a_pipe_are_left_out(repository: Path) -> None:
    (repository / "tracked.txt").unlink()
    os.mkfifo(repository / "pipe")
    assert set(members(packed(find_checkout(repository))[1])) == {".gitignore", "tool.sh", "link"}


def test_submodules_go_along_and_strangers_do_not(repository: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    (library / "lib.txt").write_text("lib")
    git(library, "add", ".")
    git(library, "commit", "-q", "-m", "lib")
    git(repository, "submodule", "add", "-q", str(library), "vendor")
    git(tmp_path, "clone", "-q", str(library), str(repository / "stranger"))
    names = set(members(packed(find_checkout(repository))[1]))
    assert "vendor/lib.txt" in names
    assert not any(name.startswith("stranger") for name in names)


def test_outside_git_everything_but_a_servers_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "plain"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "to-directory").symlink_to("a")
    (root / ".pilothouse").mkdir()
    (root / ".pilothouse" / "admin-password").write_text("hush")
    checkout = find_checkout(root)
    assert checkout == Checkout(root.resolve(), in_git=False)
    assert set(members(packed(checkout)[1])) == {"a/b/file", "to-directory"}


def test_in_git_a_servers_data_stays_out_too(repository: Path) -> None:
    (repository / ".pilothouse").mkdir()
    (repository / ".pilothouse" / "admin-password").write_text("hush")
    assert not any(name.startswith(".pilothouse") for name in members(packed(find_checkout(repository))[1]))


def test_a_limit_with_a_clear_message(repository: Path) -> None:
    (repository / "large").write_bytes(os.urandom(3 << 20))
    with pytest.raises(CheckoutTooLarge, match="is over 2 MiB packed") as refused:
        packed(find_checkout(repository), limit=2 << 20)
    assert ".gitignore" in refused.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(repository: Path) -> None:
    (repository / "tracked.txt").chmod(0)
    with pytest.raises(PackingError, match=r"tracked\.txt: Permission denied"):
        packed(find_checkout(repository))


def test_an_empty_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    checkout = find_checkout(tmp_path)
    assert (checkout.branch, checkout.commit) == ("main", "")
    result, data = packed(checkout)
    assert (result.files, members(data)) == (0, {})
    assert gzip.decompress(data)
