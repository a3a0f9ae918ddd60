"""Artifacts of runs (docs/artifacts.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Id, Time
from pilothouse.wire.rest.bodies import Body

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]
"""In hexadecimal."""

MAX_FILES = 100_000


class Artifact(Answer):
    """A finished artifact; ``size`` in bytes.

    ``format``: a ``zip`` of ``files`` files (``unpacked_size`` bytes together), one ``file`` as it is, or a ``link``
    to something that an agent keeps elsewhere. ``download_url``: where its content is, on this server for everything
    but a link. ``earlier_run``: it belongs to a step that this run kept from the run that it repeats.
    """

    id: Id
    name: str
    file_name: str
    format: Literal["zip", "file", "link"]
    size: Count
    sha256: str
    files: Count
    unpacked_size: Count
    run_id: Id
    job: str
    step: str
    step_run_id: Id
    project: Id
    earlier_run: bool
    download_url: str
    created_at: Time
    expire_at: Time | None

    example: ClassVar[Any] = {
        "id": "019a7b1f-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "name": "dist",
        "file_name": "dist.zip",
        "format": "zip",
        "size": 18204,
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "files": 2,
        "unpacked_size": 40960,
        "run_id": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10",
        "job": "build",
        "step": "keep the packages",
        "step_run_id": "019a7b1e-7000-7a00-8a51-0c4b8f1f2a10",
        "project": "019a7b1e-0000-7000-8000-000000000001",
        "earlier_run": False,
        "download_url": "/api/v1/artifacts/019a7b1f-9c0a-7c3e-9a51-0c4b8f1f2a10/content",
        "created_at": "2026-01-10T14:23:59.000Z",
        "expire_at": "2026-04-10T14:23:59.000Z",
    }


class ArtifactList(Answer):
    """The artifacts of a run or step run, by name; at most 500."""

    artifacts: list[Artifact]

    example: ClassVar[Any] = {"artifacts": [Artifact.example]}


class Upload(Answer):
    """An artifact that is being sent: ``url`` takes the next part, which begins at byte ``offset`` and has
    ``part_size`` bytes, or what is left. ``state`` ``ready``: it is complete, and there is no ``url``.
    """

    id: Id
    state: Literal["uploading", "ready"]
    offset: Count
    size: Count
    part_size: Count
    url: str = ""

    example: ClassVar[Any] = {
        "id": "019a7b1f-9c0a-7c3e-9a51-0c4b8f1f2a10",
        "state": "uploading",
        "offset": 0,
        "size": 18204,
        "part_size": 16777216,
        "url": "/api/v1/artifacts/019a7b1f-9c0a-7c3e-9a51-0c4b8f1f2a10/parts?by=agent%2Flocal&expires=1768055940"
        "&signature=5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
    }


class AnnounceArtifact(Body):
    """What an agent is going to send.

    ``file_name``: the name of the file that users get; ``files`` and ``unpacked_size``: what a ``zip`` holds;
    ``retention``: days that it is kept, 0: as long as the server allows; ``overwrite``: replace the artifact of this
    name that another step of the run has made.
    """

    name: Annotated[str, Field(min_length=1, max_length=128)]
    file_name: Annotated[str, Field(min_length=1, max_length=255)]
    format: Literal["zip", "file"]
    size: Annotated[int, Field(ge=0, le=2**53)]
    sha256: Sha256
    files: Annotated[int, Field(ge=0, le=MAX_FILES)] = 1
    unpacked_size: Annotated[int, Field(ge=0, le=2**53)] = 0
    retention: Annotated[float, Field(ge=0, le=36_500)] = 0
    overwrite: bool = False

    example: ClassVar[Any] = {
        "name": "dist",
        "file_name": "dist.zip",
        "format": "zip",
        "size": 18204,
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "files": 2,
        "unpacked_size": 40960,
    }
