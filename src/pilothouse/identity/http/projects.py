"""``/api/v1/projects``, ``/api/v1/roles`` and ``/api/v1/identity``, in the Arcentra envelope."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from pilothouse.access.errors import Refusal, require
from pilothouse.access.model import ACTIONS, Role
from pilothouse.edge.openapi import enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Change, Idem, allow, envelope
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import MEMBERS_LISTED, member_json, project_json
from pilothouse.wire.rest import projects as shown
from pilothouse.wire.rest.projects import CreateProject, UpdateProject

router = APIRouter(prefix="/api/v1", tags=["projects"])

_PROJECT = enveloped(shown.Project) | errors("PROJECT_NOT_FOUND")
_MEMBERS = enveloped(shown.Project) | errors("PROJECT_NOT_FOUND", "USER_NOT_FOUND")
_WRITE = [allow("project.write")]


@router.get(
    "/projects",
    dependencies=[allow("project.read")],
    summary="List projects",
    responses=enveloped_list(shown.Project),
)
async def list_projects(
    caller: Caller, identity: IdentityService, database: Database, paging: ArcentraPaged
) -> Response:
    """The projects of the caller by name, with up to 100 members each; for operators and admins all projects."""
    projects, total = await database.read(
        lambda conn: identity.projects.list(conn, caller, page=paging.page, limit=paging.limit)
    )
    return envelope(listed([project_json(project, MEMBERS_LISTED) for project in projects], paging, total))


@router.post(
    "/projects",
    dependencies=_WRITE,
    status_code=201,
    summary="Create a project",
    responses=enveloped(shown.Project, 201)
    | errors("PROJECT_ALREADY_EXISTS", "USER_NOT_FOUND", "QUOTA_EXCEEDED", "TENANT_NOT_FOUND"),
)
async def create_project(identity: IdentityService, idem: Idem, body: CreateProject) -> Response:
    """Create a project; its name must be free."""
    return await idem(
        lambda tx, by: project_json(
            identity.projects.create(
                tx,
                by,
                name=body.name,
                description=body.description,
                members=body.members,
                tenant=body.tenantId,
            )
        ),
        envelope=True,
        permit=lambda _, by: require(by, "project.write"),
    )


@router.get(
    "/projects/{project}",
    dependencies=[allow("project.read")],  # the use case checks the project
    summary="Show a project",
    responses=_PROJECT,
)
async def get_project(
    caller: Caller, identity: IdentityService, database: Database, project: str
) -> Response:
    """A project and its members. Errors: ``PROJECT_NOT_FOUND``, also for non-members."""
    return envelope(
        project_json(await database.read(lambda conn: identity.projects.get(conn, caller, project)))
    )


@router.put(
    "/projects/{project}",
    dependencies=_WRITE,
    summary="Change a project",
    responses=_PROJECT | errors("PROJECT_ALREADY_EXISTS", "TENANT_NOT_FOUND"),
)
async def update_project(
    identity: IdentityService, change: Change, project: str, body: UpdateProject
) -> Response:
    """Change name, description or tenant."""
    changed = await change(
        lambda tx, by: identity.projects.update(
            tx, by, project, name=body.name, description=body.description, tenant=body.tenantId
        )
    )
    return envelope(project_json(changed))


@router.delete(
    "/projects/{project}",
    dependencies=_WRITE,
    summary="Delete a project",
    responses=enveloped(shown.ProjectDeleted) | errors("PROJECT_NOT_FOUND", "PROJECT_IN_USE"),
)
async def delete_project(identity: IdentityService, change: Change, project: str) -> Response:
    """Its pipelines, triggers, secrets and uploads are deleted with it, within minutes. Its ended runs stay, for
    operators and admins.

    Errors: ``PROJECT_IN_USE``: it is the default project, has runs that have not ended, or agents are bound to it.
    """
    gone = await change(lambda tx, by: identity.projects.delete(tx, by, project))
    return envelope({"projectId": gone.id, "name": gone.name})


@router.get(
    "/projects/{project}/members",
    dependencies=[allow("project.read")],  # the use case checks the project
    summary="List the members of a project",
    responses=enveloped_list(shown.MemberInfo) | errors("PROJECT_NOT_FOUND"),
)
async def list_project_members(
    caller: Caller, identity: IdentityService, database: Database, paging: ArcentraPaged, project: str
) -> Response:
    """By name, with their roles. Errors: ``PROJECT_NOT_FOUND``, also for non-members."""
    found, total = await database.read(
        lambda conn: identity.projects.members(conn, caller, project, page=paging.page, limit=paging.limit)
    )
    return envelope(listed([member_json(user) for user in found], paging, total))


@router.put(
    "/projects/{project}/members/{user}",
    dependencies=_WRITE,
    summary="Add a member",
    responses=_MEMBERS,
)
async def add_project_member(identity: IdentityService, change: Change, project: str, user: str) -> Response:
    """Add a member (id or name), effective immediately. Errors: ``PROJECT_NOT_FOUND``, ``USER_NOT_FOUND``."""
    changed = await change(lambda tx, by: identity.projects.add_member(tx, by, project, user))
    return envelope(project_json(changed))


@router.delete(
    "/projects/{project}/members/{user}",
    dependencies=_WRITE,
    summary="Remove a member",
    responses=_MEMBERS,
)
async def remove_project_member(
    identity: IdentityService, change: Change, project: str, user: str
) -> Response:
    """Remove a member, effective immediately, also on open streams."""
    changed = await change(lambda tx, by: identity.projects.remove_member(tx, by, project, user))
    return envelope(project_json(changed))


@router.get(
    "/roles",
    dependencies=[allow("role.read")],
    summary="List roles",
    responses=enveloped_list(shown.RoleInfo),
)
async def list_roles(paging: ArcentraPaged) -> Response:
    """The four roles and their actions."""
    return envelope(listed([_role(role) for role in paging.cut(list(Role))], paging, len(Role)))


@router.get(
    "/roles/{role}",
    dependencies=[allow("role.read")],
    summary="Show a role",
    responses=enveloped(shown.RoleInfo) | errors("NOT_FOUND"),
)
async def get_role(role: str) -> Response:
    """One role and its actions. Errors: ``NOT_FOUND``."""
    if role not in list(Role):
        raise Refusal.of("NOT_FOUND", "There is no such role")
    return envelope(_role(Role(role)))


@router.get(
    "/identity/me",
    dependencies=[allow("profile.read")],
    summary="Who am I, in the envelope",
    responses=enveloped(shown.Caller),
)
async def get_identity(caller: Caller, identity: IdentityService, database: Database) -> Response:
    """The current user, their projects and token; ``expiresAt`` 0: the token does not expire."""
    user = await database.read(lambda conn: identity.users.get(conn, caller.id))
    view = {
        "userId": user.id,
        "username": user.username,
        "email": user.email,
        "role": caller.role,
        "projectIds": sorted(caller.projects),
        "tokenId": caller.token_id,
        "expiresAt": (caller.expires_at or 0) // 1000,
    }
    return envelope(view)


def _role(role: Role) -> dict[str, Any]:
    return {"name": role.value, "actions": sorted(action for action, who in ACTIONS.items() if role in who)}
