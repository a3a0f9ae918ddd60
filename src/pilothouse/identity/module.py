"""The module of identity: users, projects, tokens and the audit trail."""

from __future__ import annotations

import asyncio

from pilothouse.edge.limits import RouteLimit
from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.identity.http import ROUTERS
from pilothouse.identity.service import Identity, IdentitySettings

CLEAR_EVERY = 60.0
MAX_LOGIN = 16 << 10
"""Bytes of the body of a login, which strangers may send."""


def module(core: Core, settings: IdentitySettings) -> Module:
    """Provides :class:`Identity`."""
    identity = Identity(core.storage, core.journal, settings, core.clock)
    core.provide(identity)
    deleted = asyncio.Event()
    identity.projects.wake_on_delete(deleted.set)

    async def clear() -> None:
        while await core.storage.write(identity.projects.clear):
            pass

    return Module(
        "identity",
        routers=ROUTERS,
        background=(
            Periodic("identity.deleted_projects", clear, every=CLEAR_EVERY, wake=deleted, exclusive=True),
        ),
        streams={
            "project": "PROJECT_NOT_FOUND",
            "token": "TOKEN_NOT_FOUND",
            "user": "USER_NOT_FOUND",
            "tenant": "TENANT_NOT_FOUND",
        },
        envelope_prefixes=tuple(
            f"/api/v1/{family}" for family in ("projects", "roles", "tenants", "identity")
        ),
        body_limits={"/api/v1/auth/login": MAX_LOGIN},
        rate_limits=(RouteLimit("POST", "/api/v1/auth/login", "login", by_address=True),),
        closed=identity.close,
    )
