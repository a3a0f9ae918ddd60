"""Uploads (decisions.md, Arcentra; docs/api.md, "Uploads"): camelCase, times in Unix seconds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Id, Seconds


class UploadInfo(Answer):
    """An upload. ``size`` in bytes, of which ``offset`` have arrived: the next part begins there. ``sha256`` in
    hexadecimal: of the content if it is ``complete``, else as announced, or empty. ``expiresAt``: when it is deleted
    if it does not go on, 0 if it is complete."""

    uploadId: Id
    projectId: Id
    name: str
    size: Count
    offset: Count
    complete: bool
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
    createdBy: str
    createdAt: Seconds
    completedAt: Seconds
    expiresAt: Seconds
    contentUrl: str

    example: ClassVar[Any] = {
        "uploadId": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "projectId": "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718c",
        "name": "logo.png",
        "size": 6,
        "offset": 6,
        "complete": True,
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "createdBy": "john.doe",
        "createdAt": 1768055025,
        "completedAt": 1768055025,
        "expiresAt": 0,
        "contentUrl": "/api/v1/uploads/019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10/content",
    }


class UploadDeleted(Answer):
    """The upload that was deleted."""

    uploadId: Id
    name: str

    example: ClassVar[Any] = {"uploadId": "019a7b1e-9c0a-7c3e-9a51-0c4b8f1f2a10", "name": "logo.png"}
