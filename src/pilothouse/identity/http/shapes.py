"""JSON forms of users, tokens, projects and audit records."""

from __future__ import annotations

from typing import Any

from pilothouse.identity.model import AuditRecord, LoginInfo, Project, Tenant, TokenInfo, User
from pilothouse.wire.times import rfc3339


def user_json(user: User) -> dict[str, Any]:
    """A user in the form of the StreamSpace page."""
    return {
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "role": user.role.value,
        "active": user.active,
        "created_at": rfc3339(user.created_at),
        "updated_at": rfc3339(user.updated_at),
        "last_login": None if user.last_login is None else rfc3339(user.last_login),
    }


def token_json(token: TokenInfo) -> dict[str, Any]:
    """An API token without its secret; ``role`` null: that of its user; ``projects`` null: all of its user."""
    return {
        "id": token.id,
        "name": token.name,
        "user": token.username,
        "role": None if token.role is None else token.role.value,
        "projects": None if token.projects is None else sorted(token.projects),
        "created_at": rfc3339(token.created_at),
        "expires_at": None if token.expires_at is None else rfc3339(token.expires_at),
        "last_used_at": None if token.last_used_at is None else rfc3339(token.last_used_at),
    }


def login_json(login: LoginInfo, current: str) -> dict[str, Any]:
    """A login without its token; ``current``: the id of the token of this request."""
    return {
        "id": login.id,
        "user": login.username,
        "current": login.id == current,
        "created_at": rfc3339(login.created_at),
        "last_used_at": None if login.last_used_at is None else rfc3339(login.last_used_at),
        "expires_at": rfc3339(login.expires_at),
        "address": login.address,
        "user_agent": login.user_agent,
    }


def audit_json(record: AuditRecord) -> dict[str, Any]:
    """A line of the audit trail."""
    return {
        "id": record.id,
        "at": rfc3339(record.at),
        "actor": {"kind": record.actor_kind, "id": record.actor_id, "name": record.actor},
        "token_id": record.token_id or None,
        "action": record.action,
        "target": record.target,
        "address": record.address,
        "request_id": record.request_id,
        "detail": record.detail,
    }


MEMBERS_LISTED = 100
"""Members of each project that a list of projects shows."""


def project_json(project: Project, members: int | None = None) -> dict[str, Any]:
    """A project in the Arcentra families' camelCase; times in Unix seconds. ``members``: only so many of them."""
    shown = list(project.members.items())[:members]
    return {
        "projectId": project.id,
        "name": project.name,
        "description": project.description,
        "isDefault": project.is_default,
        "tenantId": project.tenant,
        "members": [{"userId": id, "username": name} for id, name in shown],
        "membersCount": len(project.members),
        "createdAt": project.created_at // 1000,
        "updatedAt": project.updated_at // 1000,
    }


def tenant_json(tenant: Tenant, projects: int) -> dict[str, Any]:
    """A tenant, and how many of its projects the caller sees."""
    return {
        "tenantId": tenant.id,
        "name": tenant.name,
        "description": tenant.description,
        "projectsCount": projects,
        "createdAt": tenant.created_at // 1000,
        "updatedAt": tenant.updated_at // 1000,
    }


def member_json(user: User) -> dict[str, Any]:
    """A member of a project."""
    return {
        "userId": user.id,
        "username": user.username,
        "role": user.role.value,
        "active": user.active,
    }
