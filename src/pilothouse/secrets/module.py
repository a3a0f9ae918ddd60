"""The module of secrets."""

from __future__ import annotations

from pilothouse.edge.module import Core, Module, Periodic
from pilothouse.identity.service import Identity
from pilothouse.secrets.http import router
from pilothouse.secrets.rotation import ROUND_SECONDS, KeyRounds
from pilothouse.secrets.service import Secrets
from pilothouse.storage.keyring import KeyringBox


def module(core: Core, keep_seconds: int) -> Module:
    """Provides :class:`Secrets`. ``keep_seconds``: how long a former key stays for what was signed with it."""
    box = KeyringBox(core.keyring, "secrets")
    identity = core.service(Identity)
    secrets = Secrets(box, identity)
    core.provide(secrets)
    identity.projects.on_delete(secrets.clear)
    keys = KeyRounds(core.storage, box, core.clock, keep_seconds)
    return Module(
        "secrets",
        routers=(router,),
        envelope_prefixes=("/api/v1/secrets",),
        background=(Periodic("secrets.keys", keys.round, every=ROUND_SECONDS),),
    )
