"""A whole identity over a real database, with its HTTP edge; used by the ``test_identity_*`` files.

The database is a fresh SQLite file, or one in our PostgreSQL (``support.databases``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from fastapi import FastAPI

from pilothouse.access.model import SYSTEM, Role
from pilothouse.edge.answers import Answers
from pilothouse.edge.limits import RateLimits, RateLimitSettings, RouteLimit
from pilothouse.edge.web import install
from pilothouse.identity.http import ROUTERS
from pilothouse.identity.service import Identity, IdentitySettings
from pilothouse.journal import Journal
from pilothouse.storage import Database, Storage, Writer, metadata, now_ms
from pilothouse.storage.keyring import Keyring
from support.databases import drop_database, reopened, server_database
from support.waiting import PATIENCE

PASSWORD = "correct horse"
KEYRING = Keyring.of(bytes(32))
ENVELOPES = tuple(f"/api/v1/{family}" for family in ("projects", "roles", "tenants", "pipelines", "identity"))
OFF = RateLimitSettings("off", "off", "off")
ROUTE_LIMITS = (
    RouteLimit("POST", "/api/v1/auth/login", "login", by_address=True),
    RouteLimit("POST", "/api/v1/sessions", "sessions"),
)


class Clock:
    """The real time, plus what a test has let pass."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


class Stack:
    """Everything from the database to an HTTP client; :attr:`admin` is a token."""

    def __init__(self, database: Database, limits: RateLimitSettings, options: dict[str, Any]) -> None:
        self.clock = Clock()
        self.database = database
        self.journal = Journal(database)
        self.writer = Writer(database, self.clock)
        self.storage = Storage(database, self.writer)
        self.identity = self.another()
        self.limits = RateLimits(limits, self.clock)
        self.app = FastAPI()
        for router in ROUTERS:
            self.app.include_router(router)
        answers = Answers(self.storage, KEYRING)
        services = {Identity: self.identity, Storage: self.storage}
        install(
            self.app,
            self.identity,
            answers,
            services=services,
            rate_limits=ROUTE_LIMITS,
            envelope_prefixes=ENVELOPES,
            limits=self.limits,
            **options,
        )
        self.http = self.client()
        self.admin = ""

    def another(self) -> Identity:
        """Another server's view of the same database."""
        cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        settings = IdentitySettings(keyring=KEYRING, token_ttl=3600)
        return Identity(self.storage, self.journal, settings, self.clock, cheap)

    def client(self, address: str = "192.0.2.1", scheme: str = "http") -> httpx.AsyncClient:
        """An HTTP client at ``address``, without a token."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 4711))
        return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://pilot.test")

    async def user(self, name: str, role: Role = Role.USER) -> str:
        """Create a user; returns a token."""
        await self.identity.create_user(SYSTEM, username=name, password=PASSWORD, role=role)
        return (await self.identity.login(name, PASSWORD)).token

    async def call(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        """One request, as admin unless said otherwise; no cookie is ever kept."""
        headers = {"Authorization": f"Bearer {token or self.admin}", **more.pop("headers", {})}
        self.http.cookies.clear()
        return await self.http.request(method, f"/api/v1{path}", headers=headers, **more)


@asynccontextmanager
async def running(directory: Path, limits: RateLimitSettings = OFF, **options: Any) -> AsyncIterator[Stack]:
    """A running stack with its ``admin`` logged in."""
    given = server_database()
    database = Database(given or f"sqlite:///{directory / 'pilot.db'}")
    metadata.create_all(database.write_engine)
    stack = Stack(database, limits, options)
    stack.writer.start(stack.journal)
    try:
        await stack.identity.bootstrap(PASSWORD)
        stack.admin = (await stack.identity.login("admin", PASSWORD)).token
        yield stack
    finally:
        await stack.http.aclose()
        stack.identity.close()
        await stack.writer.stop()
        database.close()
        if given:
            drop_database(given)


@asynccontextmanager
async def beside(first: Stack) -> AsyncIterator[Stack]:
    """A second server on the same database, with a writer of its own."""
    database = reopened(first.database)
    second = Stack(database, OFF, {})
    second.writer.start(second.journal)
    second.admin = first.admin
    try:
        yield second
    finally:
        await second.http.aclose()
        second.identity.close()
        await second.writer.stop()
        database.close()


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Poll for a condition; fails the test if it does not come true."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("this did not happen in time")
