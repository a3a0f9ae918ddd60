"""The module of secrets."""

from __future__ import annotations

from pilothouse.edge.module import Core, Module
from pilothouse.identity.service import Identity
from pilothouse.secrets.http import router
from pilothouse.secrets.service import Secrets
from pilothouse.storage.secretbox import SecretBox, derive_key


def module(core: Core) -> Module:
    """Provides :class:`Secrets`."""
    core.provide(Secrets(SecretBox(derive_key(core.root_key, "secrets")), core.service(Identity)))
    return Module("secrets", routers=(router,), envelope_prefixes=("/api/v1/secrets",))
