"""``/api/v1/tokens``: API tokens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal, Role
from pilothouse.edge.openapi import answer, errors
from pilothouse.edge.paging import Paged, paginated
from pilothouse.edge.services import Database
from pilothouse.edge.web import Caller, Change, Idem, allow
from pilothouse.identity.http.services import IdentityService
from pilothouse.identity.http.shapes import token_json
from pilothouse.storage import Tx
from pilothouse.wire.rest import tokens as shown
from pilothouse.wire.rest.tokens import CreateToken

router = APIRouter(prefix="/api/v1/tokens", tags=["tokens"], dependencies=[allow("token.own")])


@router.post(
    "",
    status_code=201,
    summary="Create an API token",
    responses=answer(shown.CreatedToken, 201) | errors("QUOTA_EXCEEDED", "PROJECT_NOT_FOUND"),
)
async def create_token(identity: IdentityService, idem: Idem, body: CreateToken) -> Response:
    """Create a token for the caller. ``token`` is the secret, which is only returned here."""

    def create(tx: Tx, by: Principal) -> dict[str, Any]:
        expires_at = None if body.expires_in is None else tx.now + body.expires_in * 1000
        token, secret = identity.tokens.create(
            tx,
            by,
            name=body.name,
            role=None if body.role is None else Role(body.role),
            projects=body.projects,
            expires_at=expires_at,
        )
        return {**token_json(token), "token": secret}

    return await idem(create, permit=lambda _, by: require(by, "token.own"), shown_once="token")


@router.get(
    "",
    summary="List API tokens",
    responses=answer(shown.TokenList) | errors("USER_NOT_FOUND"),
)
async def list_tokens(
    caller: Caller,
    identity: IdentityService,
    database: Database,
    paging: Paged,
    user: Annotated[str | None, Query(description="Admins: another user's, by name or id, or `*`.")] = None,
) -> dict[str, Any]:
    """The caller's tokens, newest first, without their secrets."""
    tokens, total = await database.read(
        lambda conn: identity.tokens.list(conn, caller, user=user, page=paging.page, limit=paging.limit)
    )
    return paginated("tokens", [token_json(token) for token in tokens], paging, total)


@router.delete(
    "/{token}", status_code=204, summary="Revoke an API token", responses=errors("TOKEN_NOT_FOUND")
)
async def revoke_token(identity: IdentityService, change: Change, token: str) -> Response:
    """Revoke a token (by its id) and end its streams. Admins can revoke the tokens of all users."""
    await change(lambda tx, by: identity.tokens.revoke(tx, by, token))
    return Response(status_code=204)
