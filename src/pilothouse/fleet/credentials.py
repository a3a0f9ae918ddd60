"""Authentication of RPCs that only agents may call."""

from __future__ import annotations

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.grpc import Context, abort, caller
from pilothouse.identity.service import Identity


async def agent_caller(context: Context, identity: Identity) -> Principal:
    """The calling agent. Aborts with UNAUTHENTICATED, or PERMISSION_DENIED for users."""
    principal = await caller(context, identity)
    if not principal.may("agent.self"):
        await abort(context, Refusal.of("AUTH_INSUFFICIENT_PERMISSIONS", "only agents may call this"))
    return principal
