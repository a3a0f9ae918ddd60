"""Roles, actions and principals; pure.

One table, :data:`ACTIONS`, defines what each role may do. Operators and admins have access to every project,
users and viewers only to the projects of which they are members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal


class Role(StrEnum):
    """The role of a user; each role includes those below it."""

    ADMIN = "admin"
    OPERATOR = "operator"
    USER = "user"
    VIEWER = "viewer"


_RANK = {Role.VIEWER: 0, Role.USER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}

#: Action → (the lowest role that may do it, description). Unless stated otherwise, within one's projects.
_TABLE: dict[str, tuple[Role, str]] = {
    "profile.read": (Role.VIEWER, "see their own profile, log out"),
    "token.own": (Role.VIEWER, "create, list and revoke their own API tokens"),
    "login.own": (
        Role.VIEWER,
        "list and end their own logins, change their password; not with a token limited to a role",
    ),
    "role.read": (Role.VIEWER, "see the roles and their actions"),
    "events.read": (Role.VIEWER, "follow the entries of the journal that they may see"),
    "dashboard.read": (Role.VIEWER, "see and follow the dashboard"),
    "project.read": (Role.VIEWER, "see projects and their members"),
    "tenant.read": (Role.VIEWER, "see the tenants of projects"),
    "pipeline.read": (Role.VIEWER, "see pipelines and their specs"),
    "run.read": (Role.VIEWER, "see and follow runs of every kind, their logs and artifacts"),
    "release.read": (Role.VIEWER, "see environments, targets, releases, promotions, approvals, deployments"),
    "cluster.read": (Role.VIEWER, "see clusters and follow their events"),
    "agent.read": (Role.VIEWER, "see agents, their labels and load"),
    "alert.read": (Role.VIEWER, "see alerts"),
    "template.read": (Role.VIEWER, "see desktop templates"),
    "session.read": (Role.VIEWER, "see their own desktop sessions"),
    "session.write": (Role.USER, "create, change, open and end their own desktop sessions"),
    "pipeline.write": (Role.USER, "create, change and delete pipelines and workflow templates"),
    "run.trigger": (Role.USER, "start runs"),
    "run.control": (Role.USER, "stop, pause, resume, cancel and rerun runs"),
    "gate.decide": (Role.USER, "approve and reject gates of runs that name them or their role"),
    "blob.write": (Role.USER, "upload blobs and assets"),
    "blob.read": (Role.USER, "download blobs and assets"),
    "artifact.delete": (Role.USER, "delete artifacts of runs"),
    "secret.read": (Role.USER, "see the names of secrets, never their values"),
    "secret.write": (Role.USER, "set and delete secrets"),
    "release.write": (Role.USER, "create releases and request promotions"),
    "session.any": (Role.OPERATOR, "see and act on the desktop sessions of all users"),
    "agent.control": (Role.OPERATOR, "drain, resume, relabel and remove agents"),
    "cluster.write": (Role.OPERATOR, "create, change and delete clusters"),
    "cluster.control": (Role.OPERATOR, "deploy and destroy clusters"),
    "environment.write": (Role.OPERATOR, "create, change and delete environments and targets"),
    "deployment.control": (Role.OPERATOR, "start, cancel, retry and roll back deployments"),
    "approval.decide": (Role.OPERATOR, "approve and reject"),
    "alert.write": (Role.OPERATOR, "acknowledge alerts"),
    "user.admin": (Role.ADMIN, "see, create, change and deactivate users"),
    "token.admin": (Role.ADMIN, "see and revoke the tokens of all users"),
    "audit.read": (Role.ADMIN, "read the audit trail"),
    "project.write": (Role.ADMIN, "create, change and delete projects and their members"),
    "tenant.write": (Role.ADMIN, "create, change and delete tenants"),
    "template.write": (Role.ADMIN, "create, change and delete desktop templates"),
    "registration_token.create": (Role.ADMIN, "create, list and revoke registration tokens of agents"),
    "settings.read": (Role.ADMIN, "see the effective settings, with secrets masked"),
    "settings.write": (Role.ADMIN, "change settings"),
    "force": (Role.ADMIN, "override a safeguard, such as forcing a delete"),
}

FULL_TOKEN = frozenset({"login.own"})
"""Actions that a limited token never has, since they could end or replace what is stronger than it."""

PROJECT_ACTIONS = frozenset(
    {
        "profile.read",
        "token.own",
        "role.read",
        "events.read",
        "project.read",
        "tenant.read",
        "agent.read",
        "pipeline.read",
        "pipeline.write",
        "run.read",
        "run.trigger",
        "run.control",
        "gate.decide",
        "blob.read",
        "blob.write",
        "secret.read",
        "secret.write",
        "release.read",
        "release.write",
    }
)
"""The only actions of a token that is limited to projects: those within a project, and those that everybody has."""

ACTIONS: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        action: frozenset(role for role in Role if _RANK[role] >= _RANK[least])
        for action, (least, _) in _TABLE.items()
    }
)
"""The lowest role that may do each action."""

AGENT_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "agent.self": "register, send heartbeats, receive work and report on it, under its own id",
        "blob.read": "download blobs that its work refers to",
    }
)
"""All actions of agents; services check that the work belongs to the agent."""

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        **{action: meaning for action, (_, meaning) in _TABLE.items()},
        "agent.self": AGENT_ACTIONS["agent.self"],
    }
)
"""Every action with its description, for documentation."""


def narrower(role: Role, limit: Role | None) -> Role:
    """The lower of a user's role and the role that a token is limited to."""
    return role if limit is None or _RANK[role] <= _RANK[limit] else limit


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a user by one of their tokens, an agent, or the system itself.

    ``role`` is the effective role of the token, ``token_role`` the one that the token is limited to, if any.
    ``projects`` are memberships (irrelevant for operators and admins); ``token_projects`` are the ids of the projects
    that the token is limited to, ``None`` if it is not. ``expires_at`` is in ms, ``None`` for never.
    ``address`` and ``request_id`` are for the audit trail.
    """

    kind: Literal["user", "agent", "system"]
    id: str
    name: str
    role: Role | None
    projects: frozenset[str]
    token_id: str
    expires_at: int | None
    address: str = ""
    request_id: str = ""
    token_role: Role | None = None
    credential: Literal["session", "api", ""] = ""
    token_projects: frozenset[str] | None = None

    @property
    def granted_until(self) -> int | None:
        """When what this caller's API token grants must end (ms); ``None``: it has no limit, or is a login."""
        return self.expires_at if self.credential == "api" else None

    @property
    def key(self) -> str:
        """``user/<id>`` or ``agent/<id>``: who a queue belongs to, whatever the token."""
        return f"{self.kind}/{self.id}"

    def may(self, action: str, project: str | None = None) -> bool:
        """Whether this principal may do ``action`` (in ``project``, if the object belongs to one).

        Raises :class:`KeyError` for an unknown action.
        """
        if self.kind == "system":
            return True
        if self.kind == "agent":
            return action in AGENT_ACTIONS
        allowed = frozenset[Role]() if action == "agent.self" else ACTIONS[action]
        if action in FULL_TOKEN and self.token_role is not None:
            return False
        if self.token_projects is not None and action not in PROJECT_ACTIONS:
            return False
        return self.role in allowed and (project is None or self.in_project(project))

    @property
    def among(self) -> frozenset[str] | None:
        """The ids of the projects that this principal has access to; ``None``: all."""
        if self.kind == "system":
            return None
        if self.role in (Role.ADMIN, Role.OPERATOR):
            return self.token_projects
        return self.projects if self.token_projects is None else self.projects & self.token_projects

    def in_project(self, project: str) -> bool:
        """Whether this principal has access to the project with this id."""
        among = self.among
        return among is None or project in among

    def sees(self, scope: str) -> bool:
        """Whether this principal may see entries of this scope.

        Scopes: ``project/<id>``, ``fleet`` (any authenticated user), ``user/<id>`` (that user, operators,
        admins), ``admin``. No one sees other scopes.
        """
        if self.kind != "user":
            return self.kind == "system"
        kind, _, id = scope.partition("/")
        if kind == "project":
            return self.in_project(id)
        if kind == "user":
            return id == self.id or self.among is None
        return scope == "fleet" or (
            scope == "admin" and self.role is Role.ADMIN and self.token_projects is None
        )


SYSTEM = Principal("system", "system", "system", None, frozenset(), "", None)
"""The server itself: scheduling, timeouts, the first start."""
