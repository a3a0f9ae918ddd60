"""Pipelines, and the files a run begins with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page, collect
from pilothouse.client.shapes import (
    Blob,
    CheckoutRepository,
    KnownCheckout,
    Pipeline,
    SavedSpec,
    Validation,
)

_UPLOAD_CHUNK = 256 << 10
_MANY = 10_000


class Pipelines:
    """``/pipelines``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(
        self, name: str, *, project: str = "", description: str = "", repository: str = ""
    ) -> str:
        """The id of a new pipeline; it has no spec yet. ``repository``: the key of the one it belongs to."""
        body = {"name": name, "projectId": project, "description": description, "repository": repository}
        detail = await self._api.detail("POST", "/pipelines", json=body, keyed=True)
        return str(detail["pipelineId"])

    async def page(
        self, number: int = 1, limit: int = 20, *, name: str = "", project: str = "", repository: str = ""
    ) -> Page[Pipeline]:
        """Pipelines by name; ``name`` is an exact one, ``repository`` the key of a repository."""
        params = {"page": number, "pageSize": limit, "name": name, "projectId": project}
        params["repository"] = repository
        return Page.arcentra(await self._api.detail("GET", "/pipelines", params=params))

    async def find(self, name: str, project: str) -> Pipeline | None:
        """The project's pipeline of exactly that name."""
        found = await collect(
            lambda number, limit: self.page(number, limit, name=name, project=project), _MANY
        )
        return next((p for p in found if p["name"] == name and p["projectId"] == project), None)

    async def get(self, pipeline_id: str) -> Pipeline:
        """One pipeline."""
        return cast(Pipeline, await self._api.detail("GET", _path(pipeline_id)))

    async def change(self, pipeline_id: str, **fields: Any) -> Pipeline:
        """Change some of its fields (camelCase)."""
        return cast(Pipeline, await self._api.detail("PUT", _path(pipeline_id), json=fields))

    async def spec(self, pipeline_id: str) -> SavedSpec:
        """The spec in force. Raises ApiProblem ``SPEC_NOT_FOUND``."""
        return cast(SavedSpec, await self._api.detail("GET", f"{_path(pipeline_id)}/spec"))

    async def validate(self, spec: str, file: str = "") -> Validation:
        """Check a spec's text. Raises ApiProblem ``SPEC_INVALID`` with ``details["problems"]``."""
        body = {"spec": spec, "fileName": file}
        return cast(
            Validation, await self._api.detail("POST", "/pipelines/spec/validate", json=body, keyed=True)
        )

    async def save_spec(self, pipeline_id: str, spec: str, *, file: str = "", message: str = "") -> str:
        """Put a spec in force; returns its hash."""
        body = {"spec": spec, "fileName": file, "commitMessage": message}
        detail = await self._api.detail("POST", f"{_path(pipeline_id)}/spec/save", json=body, keyed=True)
        return str(detail["commitSha"])

    async def trigger(
        self,
        pipeline_id: str,
        *,
        variables: Mapping[str, str] | None = None,
        spec: str | None = None,
        file: str = "",
        checkout: str = "",
        repositories: Sequence[CheckoutRepository] = (),
        branch: str = "",
        commit_sha: str = "",
        tag: str = "",
        dirty: bool = False,
    ) -> str:
        """Start a run and return its id. ``spec`` stands in for the saved one; ``checkout`` is a blob's id.

        ``repositories``: those of the checkout that have a commit, the top first, with the ids of their packs
        (docs/checkout.md); ``dirty``: the work tree is not just ``commit_sha``.
        """
        body: dict[str, Any] = {
            "variables": dict(variables or {}),
            "fileName": file,
            "checkout": checkout,
            "branch": branch,
            "commitSha": commit_sha,
        }
        # What a plain directory does not have is left out.
        body |= {"tag": tag} if tag else {}
        body |= {"dirty": True} if dirty else {}
        body |= {"repositories": list(repositories)} if repositories else {}
        if spec is not None:
            body["spec"] = spec
        detail = await self._api.detail("POST", f"{_path(pipeline_id)}/trigger", json=body, keyed=True)
        return str(detail["runId"])


class Blobs:
    """``/blobs``: bounded uploads."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def upload(
        self, file: Path, sha256: str, *, project: str = "", type: str = "application/gzip"
    ) -> Blob:
        """Upload a file with its hex digest; it is read from disk as it goes out. ``type``: its media type."""
        size = await asyncio.to_thread(lambda: file.stat().st_size)
        headers = {
            "Content-Type": type,
            "Content-Length": str(size),
            "X-Content-SHA256": sha256,
        }
        return cast(Blob, await self._api.upload("/blobs", lambda: _chunks(file), headers, project=project))


class Checkouts:
    """``/checkouts``: what the server keeps of repositories."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def known(self, repository: str, *, project: str = "") -> list[KnownCheckout]:
        """The commits of a repository, by its key, that need not be sent again; newest use first, at most 20."""
        params = {"project": project, "repository": repository}
        found = await self._api.call("GET", "/checkouts/known", params=params)
        return cast(list[KnownCheckout], found["commits"])


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as opened:
        while chunk := await asyncio.to_thread(opened.read, _UPLOAD_CHUNK):
            yield chunk


def _path(pipeline_id: str) -> str:
    return f"/pipelines/{quote(pipeline_id, safe='')}"
