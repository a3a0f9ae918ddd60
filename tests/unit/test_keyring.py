"""The server's keys: files, rotation, and what former keys are still good for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilothouse.access.errors import AuthError
from pilothouse.identity.tokens import SessionTokens
from pilothouse.storage import keyring as keyrings
from pilothouse.storage.keyring import Key, Keyring, KeyringBox, read_keys, rotate, write_keys
from pilothouse.storage.secretbox import SecretBox, SecretBoxError, derive_key

OLD, NEW = bytes(32), bytes(range(32))
NOW = 1_800_000_000_000


def at(now: int) -> Keyring:
    """A key that follows at ``NOW``, as seen at ``now``."""
    return Keyring([Key(NEW, NOW), Key(OLD)], clock=lambda: now)


def test_a_key_is_used_from_its_time_on_and_decrypts_before() -> None:
    before, after = KeyringBox(at(NOW - 1), "secrets"), KeyringBox(at(NOW), "secrets")
    assert before.keyring.current.root == OLD
    assert after.keyring.current.root == NEW
    for box, other in ((before, after), (after, before)):
        sealed = box.encrypt(b"value", b"a/b")
        assert sealed.startswith(box.prefix)
        assert not sealed.startswith(other.prefix)
        assert other.decrypt(sealed, b"a/b") == b"value"
        with pytest.raises(SecretBoxError):
            other.decrypt(sealed, b"a/c")


@pytest.mark.parametrize("roots", [(OLD,), (NEW, OLD), (NEW, OLD, bytes(31) + b"1")])
def test_what_was_encrypted_before_keys_had_names_is_decrypted(roots: tuple[bytes, ...]) -> None:
    sealed = SecretBox(derive_key(OLD, "secrets")).encrypt(b"value", b"a/b")
    assert KeyringBox(Keyring.of(*roots), "secrets").decrypt(sealed, b"a/b") == b"value"
    for box in (KeyringBox(Keyring.of(NEW), "secrets"), KeyringBox(Keyring.of(*roots), "else")):
        with pytest.raises(SecretBoxError):
            box.decrypt(sealed, b"a/b")


@pytest.mark.parametrize(
    "box", [b"", b"\x01", b"\x02", b"\x02" + bytes(8), b"\x02" + bytes(60), b"\x03" * 60]
)
def test_garbage_is_refused(box: bytes) -> None:
    with pytest.raises(SecretBoxError):
        KeyringBox(Keyring.of(NEW, OLD), "secrets").decrypt(box)


def test_a_key_under_another_name_does_not_decrypt() -> None:
    box = KeyringBox(Keyring.of(NEW, OLD), "secrets")
    sealed = box.encrypt(b"value")
    swapped = sealed[:1] + Key(OLD).id + sealed[9:]
    with pytest.raises(SecretBoxError):
        box.decrypt(swapped)


def test_logins_of_a_former_key_are_good_until_it_is_gone() -> None:
    token = SessionTokens(Keyring.of(OLD)).issue("t1", "u1", NOW + 60_000)
    assert SessionTokens(Keyring.of(NEW, OLD)).verify(token, NOW) == "t1"
    with pytest.raises(AuthError):
        SessionTokens(Keyring.of(NEW)).verify(token, NOW)
    renewed = SessionTokens(Keyring.of(NEW, OLD)).issue("t2", "u1", NOW + 60_000)
    assert SessionTokens(Keyring.of(NEW)).verify(renewed, NOW) == "t2"


def test_files_of_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    first = Keyring.load(path)
    assert len(path.read_bytes()) == 32
    added = rotate(path, NOW + 5000, NOW)
    assert [key.root for key in read_keys(path)] == [added.root, first.current.root]
    assert read_keys(path)[0].active_from == NOW + 5000
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["server.key"]
    with pytest.raises(SecretBoxError, match="not in use yet"):
        rotate(path, NOW + 9000, NOW)
    rotate(path, NOW + 9000, NOW + 5000)
    assert len(read_keys(path)) == 3


def test_a_running_server_notices_new_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "server.key"
    ours = Keyring.load(path)
    rotate(path, 0, NOW)
    theirs = KeyringBox(Keyring.load(path), "secrets")
    assert KeyringBox(ours, "secrets").decrypt(theirs.encrypt(b"value")) == b"value"
    assert ours.keys == theirs.keyring.keys
    # A stranger who names keys that are not there does not make the server read the file all the time.
    reads: list[Path] = []
    monkeypatch.setattr(keyrings, "_stamp", lambda at: reads.append(at))
    assert {ours.find(bytes([n] * 8)) for n in range(50)} == {None}
    assert len(reads) <= 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"keys": []}', b'{"keys": [{"key": "00", "active_from": 0}]}']
)
def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "server.key"
    ours = Keyring.load(path)
    known = ours.keys
    path.write_bytes(content)
    ours.refresh()
    assert ours.keys == known
    path.unlink()
    ours.refresh()
    assert ours.keys == known
    path.write_bytes(content)
    with pytest.raises(SecretBoxError):
        Keyring.load(path)


def test_a_write_that_is_cut_off_leaves_the_former_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server.key"
    former = Keyring.load(path).keys

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for moment in ("fsync", "fchown"):
        with monkeypatch.context() as patch:
            patch.setattr(os, moment, killed)
            if moment == "fchown":
                patch.setattr(os, "geteuid", lambda: 0)
            with pytest.raises(KeyboardInterrupt):
                rotate(path, 0, NOW)
        assert read_keys(path) == former


def test_the_newest_key_is_never_dropped(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    ours = Keyring.load(path)
    old = ours.current.id
    new = rotate(path, 0, NOW)
    ours.refresh()
    ours.forget(new.id)
    assert [key.id for key in ours.keys] == [new.id, old]
    ours.forget(old)
    assert [key.id for key in ours.keys] == [new.id]
    assert [key.id for key in read_keys(path)] == [new.id]


def test_two_keys_are_not_lost_when_they_are_added_at_once(tmp_path: Path) -> None:
    """The file is read and replaced under a lock."""
    path = tmp_path / "server.key"
    write_keys(path, [Key(OLD)])
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            rotate(path, 0, NOW)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(read_keys(path)) == 5
