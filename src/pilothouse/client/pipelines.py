"""Pipelines, and the files of runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from pilothouse.client.api import Api
from pilothouse.client.paging import Page, collect
from pilothouse.client.types import (
    Blob,
    CheckoutRepository,
    KnownCheckout,
    NotificationDelivery,
    Pipeline,
    SavedSpec,
    SpecSaved,
    Validation,
)

_UPLOAD_CHUNK = 256 << 10
_MANY = 10_000


class Pipelines:
    """``/pipelines``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(
        self, name: str, *, project: str = "", description: str = "", repository: str = "", **fields: Any
    ) -> str:
        """Create a pipeline; returns its id. ``repository``: the key of its repository; ``fields``: others of
        ``CreatePipeline``, such as ``repoUrl``."""
        body = {"name": name, "projectId": project, "description": description, "repository": repository}
        body |= fields
        detail = await self._api.detail("POST", "/pipelines", json=body, keyed=True)
        return str(detail["pipelineId"])

    async def page(
        self, number: int = 1, limit: int = 20, *, name: str = "", project: str = "", repository: str = ""
    ) -> Page[Pipeline]:
        """Pipelines by name; ``name`` matches exactly, ``repository`` is the key of a repository."""
        params = {"page": number, "pageSize": limit, "name": name, "projectId": project}
        params["repository"] = repository
        return Page.arcentra(await self._api.detail("GET", "/pipelines", params=params))

    async def find(self, name: str, project: str) -> Pipeline | None:
        """The project's pipeline with exactly this name."""
        found = await collect(
            lambda number, limit: self.page(number, limit, name=name, project=project), _MANY
        )
        return next((p for p in found if p["name"] == name and p["projectId"] == project), None)

    async def get(self, pipeline_id: str) -> Pipeline:
        """One pipeline."""
        return cast(Pipeline, await self._api.detail("GET", _path(pipeline_id)))

    async def change(self, pipeline_id: str, **fields: Any) -> Pipeline:
        """Change the given fields (camelCase)."""
        return cast(Pipeline, await self._api.detail("PUT", _path(pipeline_id), json=fields))

    async def spec(self, pipeline_id: str) -> SavedSpec:
        """The saved spec. Raises ApiProblem ``SPEC_NOT_FOUND``."""
        return cast(SavedSpec, await self._api.detail("GET", f"{_path(pipeline_id)}/spec"))

    async def validate(
        self, spec: str, file: str = "", *, variables: Mapping[str, str] | None = None, project: str = ""
    ) -> Validation:
        """Check a spec's text. Raises ApiProblem ``SPEC_INVALID`` with ``details["problems"]``.

        ``variables``, if given: also check that a run with them, in ``project``, would have every secret and
        variable that it needs, and would use them all.
        """
        body: dict[str, Any] = {"spec": spec, "fileName": file}
        if variables is not None:
            body |= {"variables": dict(variables), "projectId": project}
        return cast(
            Validation, await self._api.detail("POST", "/pipelines/spec/validate", json=body, keyed=True)
        )

    async def save_spec(self, pipeline_id: str, spec: str, *, file: str = "", message: str = "") -> str:
        """Save a spec; returns its hash, or commit in a git repository."""
        return (await self.save(pipeline_id, spec, file=file, message=message))["commitSha"]

    async def save(
        self, pipeline_id: str, spec: str, *, file: str = "", message: str = "", expected_head: str = ""
    ) -> SpecSaved:
        """Save a spec. Raises ApiProblem ``SPEC_CONFLICT`` if ``expected_head`` is given and not the head."""
        body = {"spec": spec, "fileName": file, "commitMessage": message}
        body |= {"expectedHeadCommitSha": expected_head} if expected_head else {}
        path = f"{_path(pipeline_id)}/spec/save"
        return cast(SpecSaved, await self._api.detail("POST", path, json=body, keyed=True))

    async def notifications(
        self, pipeline_id: str, number: int = 1, limit: int = 20, *, run: str = ""
    ) -> Page[NotificationDelivery]:
        """Deliveries of the pipeline's notifications, newest first; ``run``: only of this one."""
        params = {"page": number, "pageSize": limit, "runId": run}
        detail = await self._api.detail("GET", f"{_path(pipeline_id)}/notifications", params=params)
        return Page.arcentra(detail)

    async def redeliver(self, pipeline_id: str, delivery_id: str) -> NotificationDelivery:
        """Deliver a notification again that has ended. Raises ApiProblem ``NOTIFICATION_NOT_FOUND``."""
        path = f"{_path(pipeline_id)}/notifications/{quote(delivery_id, safe='')}/redeliver"
        return cast(NotificationDelivery, await self._api.detail("POST", path, keyed=True))

    async def delete(self, pipeline_id: str) -> None:
        """Delete a pipeline; its runs remain."""
        await self._api.detail("DELETE", _path(pipeline_id))

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
        """Start a run and return its id. ``spec`` replaces the saved one; ``checkout`` is a blob's id.

        ``repositories``: the repositories of the checkout with a commit, the top first, with the ids of their
        packs (docs/checkout.md); ``dirty``: the work tree differs from ``commit_sha``.
        """
        body: dict[str, Any] = {
            "variables": dict(variables or {}),
            "fileName": file,
            "checkout": checkout,
            "branch": branch,
            "commitSha": commit_sha,
        }
        # Keys that do not apply to a plain directory are left out.
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
        self,
        file: Path,
        sha256: str,
        *,
        project: str = "",
        type: str = "application/gzip",
        on_sent: Callable[[int], None] | None = None,
    ) -> Blob:
        """Upload a file with its hex digest; it is streamed from disk. ``type``: its media type.

        ``on_sent`` is called repeatedly with the number of bytes sent. The number decreases when the
        upload is restarted.
        """
        size = await asyncio.to_thread(lambda: file.stat().st_size)
        headers = {
            "Content-Type": type,
            "Content-Length": str(size),
            "X-Content-SHA256": sha256,
        }
        report = on_sent or (lambda _sent: None)
        found = await self._api.upload("/blobs", lambda: _chunks(file, report), headers, project=project)
        return cast(Blob, found)


class Checkouts:
    """``/checkouts``: commits and packs that the server has."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def known(self, repository: str, *, project: str = "") -> list[KnownCheckout]:
        """The commits of the repository with this key that need not be sent again; most recently used first,
        at most 20."""
        params = {"project": project, "repository": repository}
        found = await self._api.call("GET", "/checkouts/known", params=params)
        return cast(list[KnownCheckout], found["commits"])


async def _chunks(file: Path, on_sent: Callable[[int], None]) -> AsyncIterator[bytes]:
    sent = 0
    with await asyncio.to_thread(file.open, "rb") as opened:
        while chunk := await asyncio.to_thread(opened.read, _UPLOAD_CHUNK):
            yield chunk
            sent += len(chunk)
            on_sent(sent)


def _path(pipeline_id: str) -> str:
    return f"/pipelines/{quote(pipeline_id, safe='')}"
