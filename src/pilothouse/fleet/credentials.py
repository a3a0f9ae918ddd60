"""Authentication of RPCs that only agents may call."""

from __future__ import annotations

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.edge.grpc import Context, abort, caller, metadata
from pilothouse.identity.service import Identity


async def agent_caller(context: Context, identity: Identity) -> Principal:
    """The calling agent. Aborts with UNAUTHENTICATED, or PERMISSION_DENIED for users."""
    principal = await caller(context, identity)
    if not principal.may("agent.self"):
        await abort(context, Refusal.of("AUTH_INSUFFICIENT_PERMISSIONS", "only agents may call this"))
    return principal


def bearer(context: Context) -> str:
    """The bearer token of a call, or ``""``."""
    scheme, _, token = metadata(context, "authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
