"""Encryption of secrets at rest: AES-256-GCM with one key, bound to a context."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_BYTES = 12


class SecretBoxError(Exception):
    """Decryption failed: another key, another context, or modified data."""

    code = "SECRET_BOX_UNREADABLE"


class SecretBox:
    """Encrypts and decrypts under ``key`` (32 bytes).

    ``context`` is authenticated but not stored: data encrypted for ``secret/a`` cannot be decrypted as
    ``secret/b``.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SecretBoxError(f"a key has {KEY_BYTES} bytes, this one has {len(key)}")
        self._cipher = AESGCM(key)

    def encrypt(self, plain: bytes, context: bytes = b"") -> bytes:
        """Encrypt; returns version, nonce, ciphertext with tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, _VERSION + context)

    def decrypt(self, box: bytes, context: bytes = b"") -> bytes:
        """Decrypt. Raises :class:`SecretBoxError`."""
        nonce, sealed = box[1 : 1 + _NONCE_BYTES], box[1 + _NONCE_BYTES :]
        if box[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
            raise SecretBoxError("this is not encrypted data")
        try:
            return self._cipher.decrypt(nonce, sealed, _VERSION + context)
        except InvalidTag as error:
            raise SecretBoxError("encrypted with another key or for another context") from error


def derive_key(root: bytes, purpose: str) -> bytes:
    """Derive a key for one purpose from a root key, so that a leaked key does not compromise the others."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(root)


def load_or_create_key(path: Path) -> bytes:
    """The 32-byte key in file ``path``; created on first use, readable only by its owner.

    If two processes start at the same time, both get the key of the first one.
    """
    if not path.exists():
        _create(path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise SecretBoxError(f"{path} does not hold a key: {len(key)} bytes instead of {KEY_BYTES}")
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return key


def _create(path: Path) -> None:
    # Written to a temporary file and linked, so that no incomplete key is ever read and the first link wins.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
