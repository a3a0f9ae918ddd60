"""REST routes of identity (StreamSpace page: "Authentication", "User Management"; Arcentra: projects)."""

from __future__ import annotations

from fastapi import APIRouter

from pilothouse.identity.http import audit, auth, logins, projects, tokens, users

router = APIRouter()
for part in (auth, logins, users, tokens, audit, projects):
    router.include_router(part.router)

__all__ = ["router"]
