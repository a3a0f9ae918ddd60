"""The server's keys: one in use, and former ones for what was encrypted or signed with them.

The file holds one key (32 bytes, as it is created), or after the first rotation several, newest first, as JSON. A key
is in use from its ``active_from`` on, so that every server of a database can be given it before. Files are replaced
as a whole; a process that is killed leaves the former file or the new one, and both hold every key that is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson
import structlog

from pilothouse.storage.database import now_ms
from pilothouse.storage.secretbox import KEY_BYTES, SecretBox, SecretBoxError, derive_key, load_or_create_key

log = structlog.get_logger("storage.keyring")

ID_BYTES = 8
MAX_KEYS = 100
_VERSION = b"\x02"
_REREAD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """A root key, in use from ``active_from`` (ms) until the next one is."""

    root: bytes
    active_from: int = 0

    @property
    def id(self) -> bytes:
        """Names the key in what was encrypted or signed with it; tells nothing about it."""
        return _key_id(self.root)


class Keyring:
    """The keys of this server, newest first. May be used by several threads."""

    def __init__(
        self, keys: Sequence[Key], path: Path | None = None, clock: Callable[[], int] = now_ms
    ) -> None:
        self._keys = tuple(keys)
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._reread_at = 0.0

    @classmethod
    def of(cls, *roots: bytes) -> Keyring:
        """Keys without a file; the first is the one in use."""
        return cls([Key(root) for root in roots])

    @classmethod
    def load(cls, path: Path, clock: Callable[[], int] = now_ms) -> Keyring:
        """The keys of the file, which is created with a new key if there is none. Raises :class:`SecretBoxError`."""
        if not path.exists():
            load_or_create_key(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return cls(read_keys(path), path, clock)

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys, newest first."""
        return self._keys

    @property
    def current(self) -> Key:
        """The key in use."""
        now = self._clock()
        return next((key for key in self._keys if key.active_from <= now), self._keys[-1])

    def find(self, id: bytes) -> Key | None:
        """The key with this id, also one that was added to the file since it was read."""
        found = self._find(id)
        if found is None and time.monotonic() - self._reread_at > _REREAD_SECONDS:
            self._reread_at = time.monotonic()
            self.refresh()
            found = self._find(id)
        return found

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read changes nothing."""
        with self._lock:
            stamp = _stamp(self._path)
            if self._path is None or stamp in (None, self._stamp):
                return
            try:
                self._keys = read_keys(self._path)
                self._stamp = stamp
            except (OSError, SecretBoxError) as error:
                log.error("keyring.unreadable", error=str(error))

    def forget(self, id: bytes) -> None:
        """Remove a key that nothing needs any more from the file, unless it is the newest."""
        if self._path is None:
            return
        with changing(self._path):
            kept = [key for at, key in enumerate(read_keys(self._path)) if at == 0 or key.id != id]
            write_keys(self._path, kept)
        self.refresh()

    def _find(self, id: bytes) -> Key | None:
        return next((key for key in self._keys if key.id == id), None)


class KeyringBox:
    """Encrypts with the key in use, and decrypts with whichever key was used (:class:`SecretBox`)."""

    def __init__(self, keyring: Keyring, purpose: str) -> None:
        self.keyring = keyring
        self._purpose = purpose

    @property
    def prefix(self) -> bytes:
        """How everything begins that was encrypted with the key in use."""
        return _VERSION + self.keyring.current.id

    def encrypt(self, plain: bytes, context: bytes = b"") -> bytes:
        """Encrypt; returns version, the key's id, and the box."""
        key = self.keyring.current
        return _VERSION + key.id + _box(key.root, self._purpose).encrypt(plain, context)

    def decrypt(self, box: bytes, context: bytes = b"") -> bytes:
        """Decrypt. Raises :class:`SecretBoxError`."""
        if box[:1] == _VERSION:
            key = self.keyring.find(box[1 : 1 + ID_BYTES])
            if key is None:
                raise SecretBoxError("encrypted with another key")
            return _box(key.root, self._purpose).decrypt(box[1 + ID_BYTES :], context)
        # Of release 0.1, which names no key.
        for key in self.keyring.keys[:-1]:
            with contextlib.suppress(SecretBoxError):
                return _box(key.root, self._purpose).decrypt(box, context)
        return _box(self.keyring.keys[-1].root, self._purpose).decrypt(box, context)


def rotate(path: Path, active_from: int, now: int) -> Key:
    """Add a new key to the file, in use from ``active_from`` (ms). Raises :class:`SecretBoxError`, OSError."""
    with changing(path):
        keys = read_keys(path)
        if keys[0].active_from > now:
            raise SecretBoxError("the newest key is not in use yet; rotate again after it is")
        if len(keys) >= MAX_KEYS:
            raise SecretBoxError(f"{path} holds {len(keys)} keys already")
        key = Key(secrets.token_bytes(KEY_BYTES), active_from)
        write_keys(path, [key, *keys])
    return key


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file, newest first. Raises :class:`SecretBoxError` if it holds none, OSError."""
    data = path.read_bytes()
    if len(data) == KEY_BYTES:
        return (Key(data),)
    try:
        keys = tuple(
            Key(bytes.fromhex(key["key"]), int(key["active_from"])) for key in orjson.loads(data)["keys"]
        )
    except (ValueError, KeyError, TypeError):
        keys = ()
    if not keys or any(len(key.root) != KEY_BYTES for key in keys):
        raise SecretBoxError(f"{path} holds no keys: {len(data)} bytes")
    return keys


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file, durably and as a whole, readable only by its owner."""
    listed = [{"key": key.root.hex(), "active_from": key.active_from} for key in keys]
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(orjson.dumps({"keys": listed}, option=orjson.OPT_INDENT_2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            _give_to_owner_of(path, file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Only one process changes the file at a time."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _give_to_owner_of(path: Path, descriptor: int) -> None:
    # An administrator may rotate the key of a server that runs as another user.
    if os.geteuid() == 0 and path.exists():
        owner = path.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@lru_cache(maxsize=1024)
def derived(root: bytes, purpose: str) -> bytes:
    """As :func:`derive_key`, computed once."""
    return derive_key(root, purpose)


@lru_cache(maxsize=1024)
def _box(root: bytes, purpose: str) -> SecretBox:
    return SecretBox(derived(root, purpose))


@lru_cache(maxsize=1024)
def _key_id(root: bytes) -> bytes:
    return hashlib.sha256(derive_key(root, "key id")).digest()[:ID_BYTES]


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
