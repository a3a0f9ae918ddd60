"""``/api/v1/auth``: logging in and out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from pilothouse.edge.limits import Count
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.services import Database
from pilothouse.edge.web import COOKIE, Caller, Change, Exchange, allow, json_response, public
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import user_json
from pilothouse.identity.model import LoginOrigin
from pilothouse.wire.rest import users as shown
from pilothouse.wire.rest.base import Done
from pilothouse.wire.rest.users import ChangePassword, Login
from pilothouse.wire.times import rfc3339

router = APIRouter(prefix="/api/v1/auth", tags=["auth"])


@router.post(
    "/login",
    dependencies=[public()],
    summary="Log in",
    responses=answer(shown.LoginResult) | errors("AUTH_INVALID_CREDENTIALS"),
)
async def login(request: Request, identity: IdentityService, body: Login) -> Response:
    """Exchange user name and password for a token, which is also set as an HttpOnly cookie."""
    exchange = Exchange.of(request.scope)
    address, limits = exchange.address, exchange.edge.limits
    known = exchange.local or await identity.knows(body.username, address)
    attempt = limits.login(body.username, address if known else "")
    _show(exchange, attempt.count)
    origin = LoginOrigin(address, exchange.request_id, exchange.headers.get("user-agent", ""), known)
    with attempt:
        result = await identity.login(body.username, body.password, origin)
    user = user_json(result.user)
    response = json_response(
        {
            "token": result.token,
            "user": {key: user[key] for key in shown.LoggedInUser.model_fields},
            "expires_at": rfc3339(result.expires_at),
        }
    )
    response.set_cookie(
        COOKIE,
        result.token,
        max_age=identity.token_ttl,
        httponly=True,
        samesite="strict",
        secure=exchange.https,
    )
    return response


@router.post(
    "/logout",
    dependencies=[allow("profile.read")],
    summary="Log out",
    responses=answer(Done, example={"message": "Logout successful"}),
)
async def logout(request: Request, change: Change, identity: IdentityService) -> Response:
    """Revoke the token of this request; streams opened with it end."""
    await change(identity.log_out)
    response = json_response({"message": "Logout successful"})
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=Exchange.of(request.scope).https)
    return response


@router.get("/me", dependencies=[allow("profile.read")], summary="Who am I", responses=answer(shown.Me))
async def get_me(caller: Caller, identity: IdentityService, database: Database) -> dict[str, Any]:
    """The current user, their projects, and the role of the token."""
    user = await database.read(lambda conn: identity.users.get(conn, caller.id))
    expires_at = None if caller.expires_at is None else rfc3339(caller.expires_at)
    among = None if caller.token_projects is None else sorted(caller.token_projects)
    token = {"id": caller.token_id, "role": caller.role, "projects": among, "expires_at": expires_at}
    projects = sorted(project for project in caller.projects if caller.in_project(project))
    return {**user_json(user), "projects": projects, "token": token}


@router.post(
    "/password",
    dependencies=[allow("login.own")],
    summary="Change your own password",
    responses=answer(Done) | errors("AUTH_INVALID_CREDENTIALS"),
)
async def change_password(
    request: Request, caller: Caller, identity: IdentityService, change: Change, body: ChangePassword
) -> dict[str, str]:
    """Set a new password. The user's other logins end; API tokens stay valid. Not with a token limited to a role."""
    # Of this user's own tokens together: strangers who guess at the same time must not prevent it.
    attempt = Exchange.of(request.scope).edge.limits.login(caller.name, f"user {caller.id}")
    _show(Exchange.of(request.scope), attempt.count)
    with attempt:
        password_hash = await identity.exchange_password(caller, body.current_password, body.new_password)
    await change(lambda tx, by: identity.users.set_password(tx, by, by.id, password_hash, proven=True))
    return {"message": "Password changed"}


def _show(exchange: Exchange, count: Count | None) -> None:
    # Guessing is limited per address and per name; the lower count is shown.
    if count is not None and count.remaining < int(exchange.rate.get("X-RateLimit-Remaining", "0")):
        exchange.rate = count.headers()
