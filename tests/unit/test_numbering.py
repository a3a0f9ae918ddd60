"""The agent's numbers of its connections rise over restarts, whatever has become of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.agent.numbering import Numbering


def test_each_number_is_higher_than_all_before(tmp_path: Path) -> None:
    first = Numbering(tmp_path)
    assert [first.next(), first.next()] == [1, 2]
    assert Numbering(tmp_path).next() == 3


@pytest.mark.parametrize("kept", [b"", b"x", b"-4", b"9" * 40, "٣".encode(), b"\x00"])
def test_a_damaged_file_is_none(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "connections").write_bytes(kept)
    assert Numbering(tmp_path).next() == 1


def test_a_full_disk_does_not_stop_the_agent(tmp_path: Path) -> None:
    numbering = Numbering(tmp_path / "missing")
    assert [numbering.next(), numbering.next()] == [1, 2]
