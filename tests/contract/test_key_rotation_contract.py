"""After a rotation every secret is encrypted with the new key, on both databases, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.secrets import rotation, store
from pilothouse.secrets.rotation import KeyRounds, renew
from pilothouse.secrets.service import Secrets
from pilothouse.storage.keyring import Key, Keyring, KeyringBox, write_keys
from support.kernel import KEY, PROJECT, Kernel

NEW = bytes(31) + b"\x07"
RUNS = ["r1", "r2", "r3", "r4"]
NAMES = [f"NAME_{number}" for number in range(7)] + ["Z", "a", "_x", "lower-case"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "BATCH", 3)


async def fill(kernel: Kernel) -> None:
    """Secrets of two projects, some of them replaced twice, and one deleted."""
    for project in (PROJECT, "Élan", "z"):
        for name in NAMES:
            for value in ("first", "second", "third"):
                await kernel.write(
                    lambda tx, p=project, n=name, v=value: kernel.secrets.put(
                        tx, SYSTEM, p, n, f"{p}/{n}/{v}"
                    )
                )
                kernel.clock.advance(1)
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, "z", "Z"))
    for run in RUNS:
        values = frozenset({f"DERIVED IN {run}"})
        await kernel.write(lambda tx, r=run, v=values: kernel.secrets.keep_derived(tx, PROJECT, r, v))


def box(*roots: bytes) -> KeyringBox:
    return KeyringBox(Keyring.of(*roots), "secrets")


async def all_values(kernel: Kernel, sealed: KeyringBox) -> dict[str, set[str]]:
    """By project: all values, replaced ones included, that this box decrypts."""
    secrets = Secrets(sealed, kernel.identity)
    with kernel.database.read() as conn:
        found = {p: secrets.values_since(conn, p, frozenset(NAMES), 0) for p in (PROJECT, "Élan", "z")}
        found["derived"] = {value for run in RUNS for value in secrets.derived(conn, PROJECT, run)}
        return found


async def test_all_values_are_renewed_in_bounded_transactions(kernel: Kernel) -> None:
    await fill(kernel)
    before = await all_values(kernel, box(KEY))
    assert [len(values) for values in before.values()] == [33, 33, 33, 4]
    place: store.Place | None = store.START
    changed = []
    while place is not None:
        done = await kernel.write(lambda tx, at=place: renew(tx.conn, box(NEW, KEY), at))
        changed.append(done.changed)
        place = done.then
    assert max(changed) == 3
    assert sum(changed) == 103
    assert await all_values(kernel, box(NEW)) == before
    assert await all_values(kernel, box(KEY)) == {p: set() for p in before}
    again = await kernel.write(lambda tx: renew(tx.conn, box(NEW, KEY), store.START))
    assert again.values == []


async def test_a_value_that_was_set_meanwhile_is_kept(kernel: Kernel) -> None:
    await kernel.secret("A", "old value")
    with kernel.database.read() as conn:
        (old,) = store.outdated_values(conn, box(NEW).prefix, store.START, 10).values
    await kernel.secret("A", "new value")
    assert not await kernel.write(lambda tx: store.replace_value(tx.conn, old, b"renewed"))
    with kernel.database.read() as conn:
        assert kernel.secrets.values(conn, PROJECT, ["A"]) == {"A": "new value"}


async def test_rounds_renew_and_then_drop_former_keys(kernel: Kernel, tmp_path: Path) -> None:
    await fill(kernel)
    before = await all_values(kernel, box(KEY))
    path = tmp_path / "server.key"
    active = kernel.clock.now + 60_000
    write_keys(path, [Key(NEW, active), Key(KEY)])
    sealed = KeyringBox(Keyring.load(path, kernel.clock), "secrets")
    rounds = KeyRounds(kernel.storage, sealed, kernel.clock, keep_seconds=3600)
    await rounds.round()  # the new key is not in use yet
    assert await all_values(kernel, box(KEY)) == before
    kernel.clock.advance(61)
    await rounds.round()
    assert await all_values(kernel, box(NEW)) == before
    assert len(sealed.keyring.keys) == 2, "logins are signed with the former one"
    kernel.clock.advance(3600)
    await kernel.secret("LATE", "by a server that has not noticed")
    await rounds.round()
    assert [key.root for key in sealed.keyring.keys] == [NEW]
    assert await all_values(kernel, box(NEW)) == before


async def test_a_value_that_no_key_decrypts_stops_nothing(kernel: Kernel, tmp_path: Path) -> None:
    for name in NAMES:
        lost = Secrets(box(bytes(31) + b"\x09"), kernel.identity)
        await kernel.write(lambda tx, n=name, s=lost: s.put(tx, SYSTEM, PROJECT, n, f"lost {n}"))
    await kernel.secret("ZZ", "a value")
    path = tmp_path / "server.key"
    write_keys(path, [Key(NEW, 1), Key(KEY)])
    sealed = KeyringBox(Keyring.load(path, kernel.clock), "secrets")
    await KeyRounds(kernel.storage, sealed, kernel.clock, keep_seconds=1).round()
    assert [key.root for key in sealed.keyring.keys] == [NEW]
    with kernel.database.read() as conn:
        assert Secrets(box(NEW), kernel.identity).values(conn, PROJECT, [*NAMES, "ZZ"]) == {"ZZ": "a value"}
