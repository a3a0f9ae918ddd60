"""Secrets at rest, and keys in files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.storage.secretbox import SecretBox, SecretBoxError, derive_key, load_or_create_key

KEY = bytes(range(32))


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_what_was_sealed_opens_in_its_place(plain: bytes, context: bytes) -> None:
    box = SecretBox(KEY).encrypt(plain, context)
    assert SecretBox(KEY).decrypt(box, context) == plain
    assert SecretBox(KEY).encrypt(plain, context) != box


@given(st.integers(0, 60), st.integers(1, 255))
def test_nothing_else_opens(at: int, flip: int) -> None:
    box = bytearray(SecretBox(KEY).encrypt(b"a secret worth keeping, of 40 bytes or so", b"secret/a"))
    with pytest.raises(SecretBoxError):
        SecretBox(KEY).decrypt(bytes(box), b"secret/b")
    with pytest.raises(SecretBoxError):
        SecretBox(derive_key(KEY, "else")).decrypt(bytes(box), b"secret/a")
    box[at] ^= flip
    with pytest.raises(SecretBoxError):
        SecretBox(KEY).decrypt(bytes(box), b"secret/a")


@pytest.mark.parametrize("box", [b"", b"\x01", b"\x01short", b"\x02" + bytes(40)])
def test_garbage_is_refused(box: bytes) -> None:
    with pytest.raises(SecretBoxError):
        SecretBox(KEY).decrypt(box)


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert load_or_create_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    path.chmod(0o644)
    assert load_or_create_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(SecretBoxError):
        load_or_create_key(tmp_path / "key")
