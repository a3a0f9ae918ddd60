"""Guessing passwords is limited, and keeps nobody out who has been there before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select

from identity_kit import PASSWORD, Stack, running
from pilothouse.edge.limits import RateLimitSettings
from pilothouse.identity import passwords
from pilothouse.identity.address_store import KEPT_MS, MOST
from pilothouse.identity.passwords import Passwords
from pilothouse.identity.tables import login_addresses
from support.waiting import eventually

LIMITS = RateLimitSettings(login="5/minute", sessions="off", default="off")
PROXY = "10.0.0.1"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path, LIMITS, trusted_proxies=[PROXY, "127.0.0.1"]) as stack:
        yield stack


async def login(
    stack: Stack, address: str, password: str = PASSWORD, name: str = "admin", peer: str = PROXY
) -> int:
    """The status of an attempt from this address, through the proxy unless ``peer`` is somebody else."""
    headers = {"X-Forwarded-For": address} if peer == PROXY else {}
    async with stack.client(peer) as client:
        body = {"username": name, "password": password}
        return (await client.post("/api/v1/auth/login", json=body, headers=headers)).status_code


async def attack(stack: Stack, many: int = 20, name: str = "admin") -> list[int]:
    """Wrong passwords, each from another address."""
    return [await login(stack, f"203.0.113.{n}", f"guess {n}", name) for n in range(many)]


async def test_guesses_from_many_addresses_are_limited_and_keep_nobody_out(stack: Stack) -> None:
    assert await login(stack, "198.51.100.7") == 200
    assert await attack(stack) == [401] * 5 + [429] * 15
    assert await login(stack, "198.51.100.8") == 429, "an unknown address is one of many"
    assert await login(stack, "198.51.100.7") == 200, "a known one is not"
    assert await login(stack, "", peer="127.0.0.1") == 200, "nor is the machine itself"
    assert await login(stack, "", peer="::1") == 200
    assert await attack(stack, 3) == [429] * 3
    stack.clock.ahead += 60_000
    assert await login(stack, "198.51.100.8") == 200
    assert await attack(stack, 6) == [401] * 5 + [429]
    assert await login(stack, "198.51.100.8") == 200, "it is known now"


@pytest.mark.parametrize("name", ["ADMIN", "nobody"])
async def test_names_are_one_whatever_their_case_and_whether_they_exist(stack: Stack, name: str) -> None:
    assert await attack(stack, 7, name) == [401] * 5 + [429] * 2
    assert await login(stack, "198.51.100.7") == (429 if name == "ADMIN" else 200)


async def test_a_known_address_has_a_limit_too(stack: Stack) -> None:
    assert await login(stack, "198.51.100.7") == 200
    stack.clock.ahead += 60_000
    for _ in range(5):
        assert await login(stack, "198.51.100.7", "guess") == 401
    assert await login(stack, "198.51.100.7") == 429
    assert await login(stack, "198.51.100.8") == 200, "guesses there are not counted elsewhere"


async def test_known_addresses_are_those_of_that_user(stack: Stack) -> None:
    await stack.user("ann")
    assert await login(stack, "198.51.100.7", name="ann") == 200
    await attack(stack)
    assert await login(stack, "198.51.100.7") == 429


async def test_a_host_with_ipv6_is_known_by_its_network(stack: Stack) -> None:
    assert await login(stack, "2001:db8::1") == 200
    await attack(stack)
    assert await login(stack, "2001:db8::2") == 200
    assert await login(stack, "2001:db8:0:1::1") == 429


async def test_a_forwarded_loopback_address_is_not_the_machine_itself(stack: Stack) -> None:
    await attack(stack)
    for headers in (
        {"X-Forwarded-For": "203.0.113.99"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=203.0.113.99"},
        {"X-Real-IP": "203.0.113.99"},
        {"Via": "1.1 proxy"},
    ):
        async with stack.client("127.0.0.1") as client:
            body = {"username": "admin", "password": PASSWORD}
            answer = await client.post("/api/v1/auth/login", json=body, headers=headers)
            assert answer.status_code == 429, headers
            stack.limits._windows["login"]._hits.clear()  # type: ignore[union-attr]  # that of the address


async def test_an_address_is_forgotten(stack: Stack) -> None:
    assert await login(stack, "198.51.100.7") == 200
    stack.clock.ahead += KEPT_MS - 3600_000  # however long the test takes
    await attack(stack)
    assert await login(stack, "198.51.100.7") == 200
    stack.clock.ahead += KEPT_MS + 1000
    await attack(stack)
    assert await login(stack, "198.51.100.7") == 429


async def test_known_addresses_of_a_user_are_bounded(stack: Stack) -> None:
    for n in range(MOST + 5):
        assert await login(stack, f"198.51.100.{n}") == 200
        stack.clock.ahead += 1000
    counted = select(func.count()).select_from(login_addresses)
    assert await stack.storage.read(lambda conn: conn.execute(counted).scalar_one()) == MOST
    stack.clock.ahead += 60_000
    await attack(stack)
    assert await login(stack, "198.51.100.4") == 429
    assert await login(stack, "198.51.100.5") == 200


async def test_many_guesses_at_once_are_no_more(stack: Stack) -> None:
    """Each is counted before its password is checked."""
    at_once = [login(stack, f"203.0.113.{n}", "guess") for n in range(20)]
    assert sorted(await asyncio.gather(*at_once)) == [401] * 5 + [429] * 15


async def test_only_failures_count_for_a_name(stack: Stack) -> None:
    for n in range(12):
        assert await login(stack, f"198.51.100.{n}") == 200
    assert await attack(stack, 6) == [401] * 5 + [429]


async def test_guesses_at_logins_do_not_prevent_a_change_of_password(stack: Stack) -> None:
    await attack(stack)
    wrong = {"current_password": "guess", "new_password": "another one"}
    assert (await stack.call("POST", "/auth/password", json=wrong)).status_code == 401
    good = {"current_password": PASSWORD, "new_password": "another one"}
    assert (await stack.call("POST", "/auth/password", json=good)).status_code == 200


async def test_wrong_current_passwords_count_for_the_user_whatever_the_token(stack: Stack) -> None:
    tokens = [(await stack.identity.login("admin", PASSWORD)).token for _ in range(6)]
    wrong = {"current_password": "guess", "new_password": "another one"}
    codes = [(await stack.call("POST", "/auth/password", one, json=wrong)).status_code for one in tokens]
    assert codes == [401] * 5 + [429]


# -- hashing --------------------------------------------------------------------------------------------


class Slow(PasswordHasher):
    """A hasher whose verifications end when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Semaphore(0)
        self.now = self.peak = 0
        self._lock = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        self.go.acquire()
        with self._lock:
            self.now -= 1
        return True


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Passwords, Slow]]:
    monkeypatch.setattr(passwords, "MAX_WAITING", 3)
    hasher: Any = Slow()
    made = Passwords(hasher)
    yield made, hasher
    hasher.go.release(100)
    made.close()


async def test_hashes_are_bounded_and_strangers_leave_room(slow: tuple[Passwords, Slow]) -> None:
    passwords, hasher = slow
    strangers = [asyncio.create_task(passwords.verify("x", "guess")) for _ in range(6)]
    await eventually(lambda: sum(task.done() for task in strangers) == 2)
    refused = [task for task in strangers if task.done()]
    assert {getattr(task.exception(), "code", None) for task in refused} == {"SERVER_BUSY"}
    await eventually(lambda: hasher.now == 1)
    known = asyncio.create_task(passwords.verify("x", "right", known=True))
    await eventually(lambda: hasher.now == 2)
    hasher.go.release(5)
    assert await known
    assert all(await asyncio.gather(*(task for task in strangers if task not in refused)))
    assert hasher.peak == 2


async def test_a_login_that_found_no_room_is_no_guess(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack.identity.passwords._strangers, "_most", 0)
    assert [await login(stack, f"203.0.113.{n}") for n in range(8)] == [503] * 8
    monkeypatch.undo()
    assert await login(stack, "203.0.113.9") == 200
