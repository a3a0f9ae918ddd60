"""Who may do what: users, tokens, roles, projects, the audit trail, and the edge of HTTP and gRPC."""

from pilothouse.identity.errors import ApiError, AuthError, RateLimited, require
from pilothouse.identity.guard import Guard
from pilothouse.identity.limits import RateLimits, RateLimitSettings
from pilothouse.identity.model import ACTIONS, SYSTEM, Principal, Project, Role, User
from pilothouse.identity.secretbox import SecretBox, derive_key, load_or_create_key
from pilothouse.identity.service import Identity, IdentitySettings

__all__ = [
    "ACTIONS",
    "SYSTEM",
    "ApiError",
    "AuthError",
    "Guard",
    "Identity",
    "IdentitySettings",
    "Principal",
    "Project",
    "RateLimitSettings",
    "RateLimited",
    "RateLimits",
    "Role",
    "SecretBox",
    "User",
    "derive_key",
    "load_or_create_key",
    "require",
]
