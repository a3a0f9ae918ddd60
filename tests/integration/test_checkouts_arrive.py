"""What the client packs, laid out by the agent itself: both sides of docs/checkout.md against each other."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import support.checkout_odd_states  # noqa: F401 (registers them)
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from support import checkout_kit
from support.checkout_kit import Server, commit, fresh, git, same, travel
from support.checkout_states import STATES, base
from support.layouts import Desk

#: What of the picture differs: what is left out on purpose, and attributes that the copy does not have.
_BUT = {"servers_data": {"status", "files"}, "attributes_of_the_user": {"status", "diff"}}


@pytest.fixture(autouse=True)
def _by_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    (tmp_path / "desk").mkdir()

    def lay_out(archive: Path, packs: dict[str, bytes], copy: Path) -> dict[str, Any]:
        with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar:
            member = tar.extractfile("manifest.json")
            assert member is not None
            manifest = json.loads(member.read())
        workspace = asyncio.run(_obey(tmp_path / "desk", archive.read_bytes(), packs, manifest))
        copy.rmdir()
        workspace.rename(copy)
        return dict(manifest)

    monkeypatch.setattr(checkout_kit, "lay_out", lay_out)


async def _obey(desk: Path, archive: bytes, packs: dict[str, bytes], manifest: dict[str, Any]) -> Path:
    """A workspace of an agent whose object cache is that of the calls before."""
    agent = Desk(desk)
    message = pb.Checkout(**agent.fetcher.announce(archive))
    for repository in manifest["repositories"]:
        for name in repository["packs"]:
            message.packs.add(**agent.fetcher.announce(packs[name]), repository=repository["key"])
    return await agent.obey(message)


@pytest.mark.parametrize("name", STATES)
def test_a_state_arrives(name: str, tmp_path: Path) -> None:
    root = base(tmp_path / "repo", "sha1")
    STATES[name](root)
    same(root, travel(root, tmp_path).copy, _BUT.get(name, ()))


def test_commit_after_commit_arrives(tmp_path: Path) -> None:
    """Each sends what is new only, and the agent has the rest."""
    root, server = base(tmp_path / "repo", "sha1"), Server()
    for number in range(5):
        (root / "growing.txt").write_text("line\n" * number)
        if number % 2:
            (root / "staged.txt").write_text(str(number))
            git(root, "add", "staged.txt")
        else:
            commit(root, f"commit {number}")
        same(root, travel(root, tmp_path, server).copy)
    assert fresh(tmp_path / "nothing").is_dir()
