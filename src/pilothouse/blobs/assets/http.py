"""``/api/v1/uploads`` (decisions.md, Arcentra; docs/api.md, "Uploads"), in the Arcentra envelope."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from pilothouse.access.errors import require
from pilothouse.access.model import Principal
from pilothouse.blobs.assets.model import Asset, State, base_name
from pilothouse.blobs.assets.multipart import MEDIA, Form
from pilothouse.blobs.assets.service import Assets, Wanted, check_name, checked_sha256
from pilothouse.blobs.assets.transfer import AssetTransfer
from pilothouse.blobs.errors import UploadInvalid
from pilothouse.blobs.sending import sent
from pilothouse.edge.openapi import content, enveloped, enveloped_list, errors
from pilothouse.edge.paging import ArcentraPaged, listed
from pilothouse.edge.services import Database, provided
from pilothouse.edge.web import Caller, Change, Idem, Idempotent, allow, envelope
from pilothouse.identity.http.services import IdentityService
from pilothouse.wire.rest import uploads as shown

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"])

AssetService = Annotated[Assets, provided(Assets)]
TransferService = Annotated[AssetTransfer, provided(AssetTransfer)]
Checksum = Annotated[
    str, Header(alias="X-Content-SHA256", max_length=64, description="SHA-256 of the body, in hexadecimal.")
]
Length = Annotated[
    int | None,
    Header(
        alias="Upload-Length",
        ge=0,
        le=2**53,
        description="Begin an upload of so many bytes, which are sent with `PATCH`. The body is empty.",
    ),
]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, le=2**53, description="Where the body begins.")]

_BYTES = {"schema": {"type": "string", "format": "binary"}, "example": "hello\n"}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "name": {"type": "string", "maxLength": 255},
            "sha256": {"type": "string", "maxLength": 64},
        },
    }
}
_RAW = {"application/octet-stream": _BYTES}
_UPLOAD = enveloped(shown.UploadInfo) | errors("UPLOAD_NOT_FOUND")


@router.post(
    "",
    dependencies=[allow("blob.write")],
    status_code=201,
    summary="Upload a file, or begin an upload in parts",
    openapi_extra={"requestBody": {"content": {MEDIA: _FORM, **_RAW}}},
    responses=enveloped(shown.UploadInfo, 201)
    | errors("PROJECT_NOT_FOUND", "QUOTA_EXCEEDED", "CALLER_QUEUE_FULL", "OBJECTS_UNAVAILABLE"),
)
async def create_upload(
    request: Request,
    caller: Caller,
    change: Change,
    idem: Idem,
    assets: AssetService,
    transfer: TransferService,
    identity: IdentityService,
    name: Annotated[str, Query(max_length=255, description="Of the file.")] = "",
    projectId: str = "",
    checksum: Checksum = "",
    length: Length = None,
) -> Response:
    """The field `file` of a `multipart/form-data` body, or a raw body with `?name=`.

    The checksum is verified where it is given, in the header (of a raw body) or in the field `sha256` of the form.
    With `Upload-Length` the answer describes an upload without content, which is sent with `PATCH`.
    """
    project = await identity.project_id(caller, projectId)
    require(caller, "blob.write", project)
    checksum = checked_sha256(checksum)

    def permit(_: Connection, by: Principal) -> None:
        require(by, "blob.write", project)

    if length is not None:
        if _size(request, 0):
            raise UploadInvalid("with Upload-Length the body is empty: send the content with PATCH")
        wanted = Wanted(project=project, name=name, size=length, sha256=checksum, resumable=True)
        return await idem(lambda tx, by: _view(assets.begin(tx, by, wanted)), envelope=True, permit=permit)
    form = _form(request)
    if form is None:
        check_name(name)
    size = _size(request, assets.limit)
    wanted = Wanted(
        project=project, name=name, size=min(size, assets.limit) if form else size, sha256=checksum
    )
    with transfer.admitted(caller):
        asset = await change(lambda tx, by: assets.begin(tx, by, wanted))
        try:
            answer = await _whole(request, idem, assets, transfer, asset, form, permit)
        except Exception:
            await transfer.abandon(asset)
            raise
        if answer.headers.get("idempotency-replayed"):
            await transfer.abandon(asset)  # the first answer is about another upload
    return answer


async def _whole(
    request: Request,
    idem: Idempotent,
    assets: Assets,
    transfer: AssetTransfer,
    asset: Asset,
    form: Form | None,
    permit: Callable[[Connection, Principal], None],
) -> Response:
    """Receive all of an upload, which is complete with the answer."""
    body: AsyncIterator[bytes] = request.stream()
    if form is not None:
        body = form.content(body, partial(transfer.parsing.turn, asset.creator_id))
    received = await transfer.whole(asset, body)
    name, checksum = _told(asset, form)
    if checksum and checksum != received.digest:
        raise UploadInvalid(f"the upload's sha256 is {received.digest}, not {checksum}")
    return await idem(
        lambda tx, by: _view(
            assets.complete(tx, by, asset.id, received.digest, name=name, size=received.size)
        ),
        envelope=True,
        permit=permit,
        content=f"{received.digest} {name}".encode(),
    )


@router.get(
    "",
    dependencies=[allow("blob.read")],
    summary="List uploads",
    responses=enveloped_list(shown.UploadInfo) | errors("PROJECT_NOT_FOUND"),
)
async def list_uploads(
    caller: Caller,
    paging: ArcentraPaged,
    assets: AssetService,
    identity: IdentityService,
    database: Database,
    projectId: str = "",
) -> Response:
    """Your uploads in a project, newest first; for operators and admins those of all users."""
    project = await identity.project_id(caller, projectId)
    require(caller, "blob.read", project)
    found, total = await database.read(
        lambda conn: assets.list(conn, caller, project, paging.page, paging.limit)
    )
    return envelope(listed([_view(asset) for asset in found], paging, total))


@router.get("/{upload_id}", dependencies=[allow("blob.read")], summary="Show an upload", responses=_UPLOAD)
async def get_upload(upload_id: str, caller: Caller, assets: AssetService, database: Database) -> Response:
    """`offset` says where an upload that was cut goes on. Also for operators and admins."""
    return envelope(_view(await database.read(lambda conn: assets.readable(conn, caller, upload_id))))


@router.patch(
    "/{upload_id}",
    dependencies=[allow("blob.write")],
    summary="Continue an upload",
    openapi_extra={"requestBody": {"content": _RAW}},
    responses=_UPLOAD | errors("UPLOAD_OFFSET_CONFLICT", "CALLER_QUEUE_FULL", "OBJECTS_UNAVAILABLE"),
)
async def continue_upload(
    upload_id: str,
    request: Request,
    caller: Caller,
    change: Change,
    assets: AssetService,
    transfer: TransferService,
    database: Database,
    offset: Offset,
    checksum: Checksum = "",
) -> Response:
    """The raw body is the content from `Upload-Offset` on, or the next part of it. The last byte completes the
    upload, whose checksum is then verified if it was given at the beginning: if it is wrong, the upload is deleted.

    If the connection is cut, what has arrived is kept, unless this part has a checksum of its own.
    """
    found = await database.read(lambda conn: assets.writable(conn, caller, upload_id))
    checksum, rest = checked_sha256(checksum), found.size - found.received
    if offset == found.received and _size(request, 0) > rest:
        raise UploadInvalid(f"the body has more than the {rest} bytes that are missing")
    asset = await transfer.part(caller, change, upload_id, offset, request.stream(), checksum)
    return envelope(_view(asset))


@router.delete(
    "/{upload_id}",
    dependencies=[allow("blob.write")],
    summary="Delete an upload",
    responses=enveloped(shown.UploadDeleted) | errors("UPLOAD_NOT_FOUND"),
)
async def delete_upload(upload_id: str, change: Change, assets: AssetService) -> Response:
    """Also one that is not complete. Nobody sees it any more; its bytes are deleted within minutes."""
    gone = await change(lambda tx, by: assets.delete(tx, by, upload_id))
    return envelope({"uploadId": gone.id, "name": gone.name})


@router.get(
    "/{upload_id}/content",
    dependencies=[allow("blob.read")],
    summary="Download an upload",
    response_class=Response,
    responses=content("hello\n", media="application/octet-stream", description="The content")
    | {
        206: {"description": "The range that was asked for", "content": _RAW},
        416: {"description": "The range is outside of the content"},
    }
    | errors("UPLOAD_NOT_FOUND", "UPLOAD_INCOMPLETE", "OBJECTS_UNAVAILABLE"),
)
async def download_upload(
    upload_id: str,
    request: Request,
    caller: Caller,
    assets: AssetService,
    transfer: TransferService,
    database: Database,
) -> Response:
    """The content; with `Range` a part of it (206, or 416 for one outside of it). `ETag` is its SHA-256."""
    asset = await database.read(lambda conn: assets.content_of(conn, caller, upload_id))
    return await sent(
        request, await transfer.reader(asset), size=asset.size, sha256=asset.sha256, file_name=asset.name
    )


def _form(request: Request) -> Form | None:
    media = request.headers.get("content-type", "")
    return Form(media) if media.partition(";")[0].strip().lower() == MEDIA else None


def _size(request: Request, unknown: int) -> int:
    """Bytes of the body, ``unknown`` if the client does not say."""
    if "transfer-encoding" in request.headers:
        return unknown or 1
    length = request.headers.get("content-length", "0")
    return int(length) if length.isdecimal() else unknown


def _told(asset: Asset, form: Form | None) -> tuple[str, str]:
    """Name and checksum that the request gives, in its address and head or in the form."""
    if form is None:
        return asset.name, asset.sha256
    name = asset.name or form.fields.get("name", "") or base_name(form.filename)
    check_name(name)
    # A header with a form is about the file, too: nobody computes the checksum of its boundaries.
    return name, checked_sha256(form.fields.get("sha256", "")) or asset.sha256


def _view(asset: Asset) -> dict[str, Any]:
    return {
        "uploadId": asset.id,
        "projectId": asset.project,
        "name": asset.name,
        "size": asset.size,
        "offset": asset.received,
        "complete": asset.state is State.READY,
        "sha256": asset.sha256,
        "createdBy": asset.created_by,
        "createdAt": asset.created_at // 1000,
        "completedAt": asset.ready_at // 1000,
        "expiresAt": asset.expire_at // 1000,
        "contentUrl": f"/api/v1/uploads/{asset.id}/content",
    }
