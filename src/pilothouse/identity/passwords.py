"""Password hashes (argon2id), computed in separate threads."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pilothouse.access.errors import Refusal
from pilothouse.wire.bounds import MAX_PASSWORD

T = TypeVar("T")

MIN_LENGTH = 8
#: With 64 MiB per argon2 hash, this also limits the memory used by many concurrent logins.
_AT_ONCE = 2
#: Of these for strangers, whose guesses must not delay the logins of users.
_OF_STRANGERS = 1
MAX_WAITING = 32
"""Hashes that wait at most, of strangers and of others each."""


_NICE = 10


def _give_way() -> None:
    """Hashes use all processors for a tenth of a second; the event loop comes first. On Linux this is for the thread
    and those that it starts alone."""
    if sys.platform == "linux":
        os.nice(_NICE)


class Passwords:
    """Hashes and verifies passwords, in the same time for unknown users."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "argon2", _give_way)
        self._decoy = _decoy(self._hasher)
        self._strangers, self._users = _Turns(_OF_STRANGERS), _Turns(_AT_ONCE)

    async def hash(self, password: str, *, checked: bool = True) -> str:
        """The hash to store.

        ``checked``: raises ``VALIDATION_FAILED`` for a password that is too short or too long.
        """
        if checked:
            check(password)
        return await self._users.run(self._threads, self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str, *, known: bool = False) -> bool:
        """Whether ``password`` matches ``stored``; ``None`` (unknown user) takes the same time.

        ``known``: no stranger; strangers wait for each other. Raises ``SERVER_BUSY`` if too many wait.
        """
        turns = self._users if known else self._strangers
        return await turns.run(self._threads, self._verify, stored, password)

    def outdated(self, stored: str) -> bool:
        """Whether the hash has weaker parameters than the current ones."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False)

    def _verify(self, stored: str | None, password: str) -> bool:
        try:
            matches = self._hasher.verify(stored or self._decoy, password[: MAX_PASSWORD + 1])
        except (VerificationError, InvalidHashError):
            return False
        return matches and stored is not None


class _Turns:
    """At most so many calls at once; a bounded number of others waits."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._most = at_once + MAX_WAITING
        self._here = 0

    async def run(self, threads: ThreadPoolExecutor, call: Callable[..., T], *arguments: Any) -> T:
        """Call in a thread. Raises ``SERVER_BUSY``."""
        if self._here >= self._most:
            raise Refusal(
                "Too many logins wait; try again shortly", code="SERVER_BUSY", headers={"Retry-After": "1"}
            )
        self._here += 1
        try:
            async with self._free:
                return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)
        finally:
            self._here -= 1


def _decoy(hasher: PasswordHasher) -> str:
    """A hash that no password has, and that costs as much to verify as another; to make a real one costs 0.2 s."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")
        for size in (hasher.salt_len, hasher.hash_len)
    )
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${cost}${salt}${digest}"


def check(password: str) -> None:
    """Raise ``VALIDATION_FAILED`` unless the password's length is within the limits."""
    if not MIN_LENGTH <= len(password) <= MAX_PASSWORD:
        raise Refusal.of(
            "VALIDATION_FAILED",
            f"A password has {MIN_LENGTH} to {MAX_PASSWORD} characters",
            field="password",
        )
