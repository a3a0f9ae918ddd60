"""The module of settings that change while the server runs."""

from __future__ import annotations

from dataclasses import fields, replace

from pilothouse.access.quotas import Quotas
from pilothouse.edge.limits import RateLimits
from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.engine.artifacts.service import Artifacts
from pilothouse.engine.retention import Retention
from pilothouse.identity.service import Identity
from pilothouse.server.live.http import router
from pilothouse.server.live.model import rate_limits
from pilothouse.server.live.service import LiveSettings
from pilothouse.server.settings import Settings

FOLLOW_EVERY = 2.0
"""Seconds after which a server knows what was changed on another one."""


def module(core: Core, settings: Settings) -> Module:
    """Provides :class:`LiveSettings`."""
    quotas, limits = core.service(Quotas), core.service(RateLimits)
    retention, artifacts = core.service(Retention), core.service(Artifacts)

    def apply(now: Settings) -> None:
        wanted = now.quotas()
        for field in fields(wanted):
            setattr(quotas, field.name, getattr(wanted, field.name))
        limits.change(rate_limits(now))
        retention.days = now.retention
        artifacts.settings = replace(artifacts.settings, retention=now.artifact_retention)

    live = LiveSettings(settings, core.service(Identity), core.storage, apply)
    core.provide(live)
    follow = (Periodic("server.settings", live.follow, every=FOLLOW_EVERY),) if core.storage.shared else ()
    return Module(
        "settings",
        routers=(router,),
        envelope_prefixes=("/api/v1/settings",),
        background=follow,
        started=live.follow,
    )
