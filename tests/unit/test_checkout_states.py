"""A work tree in any state arrives as it is: HEAD, branch, index, files, modes, links (docs/checkout.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

import support.checkout_odd_states  # noqa: F401 (registers them)
from support.checkout_kit import picture, same, travel
from support.checkout_states import STATES, base

#: What of the picture differs: what is left out on purpose, and attributes that the copy does not have.
_BUT = {"servers_data": {"status", "files"}, "attributes_of_the_user": {"status", "diff"}}
#: git takes them for clean, or dirty, against what there is.
_DIRTY = {"assume_unchanged": True, "servers_data": False}
#: States that contain object ids.
_OF_SHA256 = (
    "staged_then_changed",
    "removed",
    "merge_conflict",
    "nested_repositories",
    "unborn",
    "intent_to_add",
    "sparse",
)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


_CASES = [(name, "sha1") for name in STATES] + [(name, "sha256") for name in _OF_SHA256]


@pytest.mark.parametrize(("name", "object_format"), _CASES)
def test_a_state_arrives(name: str, object_format: str, tmp_path: Path) -> None:
    root = base(tmp_path / "repo", object_format)
    STATES[name](root)
    journey = travel(root, tmp_path)
    same(root, journey.copy, _BUT.get(name, ()))
    assert not (journey.copy / ".env").exists()
    listed = any(not line.startswith(b"#") for line in picture(root)["status"] if line)
    assert journey.packed.dirty == _DIRTY.get(name, listed)
