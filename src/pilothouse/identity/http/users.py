"""``/api/v1/users`` (StreamSpace page, "User Management"); admins only."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from pilothouse.access.errors import require
from pilothouse.access.model import Role
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database
from pilothouse.edge.web import Change, Idem, allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import user_json
from pilothouse.wire.rest import users as shown
from pilothouse.wire.rest.base import Done
from pilothouse.wire.rest.users import CreateUser, ResetPassword, UpdateUser

router = APIRouter(prefix="/api/v1/users", tags=["users"], dependencies=[allow("user.admin")])

_FOUND = answer(shown.User) | errors("USER_NOT_FOUND")
_CHANGED = answer(shown.User) | errors("USER_NOT_FOUND", "CONFLICT")


@router.get(
    "",
    summary="List users",
    responses=answer(shown.UserList),
)
async def list_users(
    identity: IdentityService,
    database: Database,
    paging: Paged,
    role: Annotated[Role | None, Query(description="Only this role.")] = None,
    active: Annotated[bool | None, Query(description="Only active users, or only deactivated ones.")] = None,
) -> dict[str, Any]:
    """Users by name."""
    users, total = await database.read(
        lambda conn: identity.users.list(conn, role=role, active=active, page=paging.page, limit=paging.limit)
    )
    return paginated("users", [user_json(user) for user in users], paging, total)


@router.post(
    "",
    status_code=201,
    summary="Create a user",
    responses=answer(shown.User, 201) | errors("USER_ALREADY_EXISTS", "PROJECT_NOT_FOUND"),
)
async def create_user(identity: IdentityService, idem: Idem, body: CreateUser) -> Response:
    """Create a user; names are unique regardless of case."""
    password_hash = await identity.passwords.hash(body.password)
    return await idem(
        lambda tx, by: user_json(
            identity.users.create(
                tx,
                by,
                username=body.username,
                password_hash=password_hash,
                email=body.email,
                role=Role(body.role),
                projects=body.projects,
            )
        ),
        permit=lambda _, by: require(by, "user.admin"),
    )


@router.get("/{user}", summary="Show a user", responses=_FOUND)
async def get_user(identity: IdentityService, database: Database, user: str) -> dict[str, Any]:
    """A user by id or name."""
    return user_json(await database.read(lambda conn: identity.users.get(conn, user)))


@router.put("/{user}", summary="Change a user", responses=_CHANGED, operation_id="replaceUser")
@router.patch("/{user}", summary="Change a user", responses=_CHANGED)
async def update_user(
    identity: IdentityService, change: Change, user: str, body: UpdateUser
) -> dict[str, Any]:
    """Change email, role or active state. Takes effect immediately, also on open streams."""
    role = None if body.role is None else Role(body.role)
    changed = await change(
        lambda tx, by: identity.users.update(tx, by, user, email=body.email, role=role, active=body.active)
    )
    return user_json(changed)


@router.delete(
    "/{user}", status_code=204, summary="Deactivate a user", responses=errors("USER_NOT_FOUND", "CONFLICT")
)
async def deactivate_user(identity: IdentityService, change: Change, user: str) -> Response:
    """End a user's access immediately: logins, API tokens and streams. The account remains as a record."""
    await change(lambda tx, by: identity.users.deactivate(tx, by, user))
    return Response(status_code=204)


@router.post(
    "/{user}/password",
    summary="Reset a password",
    responses=answer(Done) | errors("USER_NOT_FOUND"),
)
async def reset_password(
    identity: IdentityService, change: Change, user: str, body: ResetPassword
) -> dict[str, str]:
    """Set a new password for a user; their logins end."""
    password_hash = await identity.passwords.hash(body.password)
    await change(lambda tx, by: identity.users.set_password(tx, by, user, password_hash))
    return {"message": "Password changed"}
