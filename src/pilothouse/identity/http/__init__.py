"""REST routes of identity (StreamSpace page: "Authentication", "User Management"; Arcentra: projects)."""

from __future__ import annotations

from pilothouse.identity.http import audit, auth, logins, projects, tenants, tokens, users

ROUTERS = (
    auth.router,
    logins.router,
    users.router,
    tokens.router,
    audit.router,
    projects.router,
    tenants.router,
)

__all__ = ["ROUTERS"]
