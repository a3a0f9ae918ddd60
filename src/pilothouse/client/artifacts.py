"""Artifacts of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import quote

import httpx

from pilothouse.client.api import Api
from pilothouse.client.types import Artifact, RunTests

ATTEMPTS = 5
"""How often a download that was cut off is continued without any progress."""


class ArtifactDamaged(Exception):
    """What was downloaded is not what the server announced."""


class Artifacts:
    """``/artifacts``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def of_run(self, run_id: str) -> list[Artifact]:
        """The finished artifacts of a run, by name."""
        found = await self._api.call("GET", f"/workflow-runs/{quote(run_id, safe='')}/artifacts")
        return cast(list[Artifact], found["artifacts"])

    async def delete(self, artifact_id: str) -> None:
        """Delete an artifact."""
        await self._api.call("DELETE", _path(artifact_id))

    async def download(self, artifact: Artifact, file: Path, told: Callable[[int], None]) -> None:
        """Write the content to a file, verified; ``told`` is called with the bytes that are there.

        Continues after a cut. Raises ArtifactDamaged, ApiProblem, Unreachable.
        """
        digest, have, idle = hashlib.sha256(), 0, 0
        with file.open("wb") as target:
            while have < artifact["size"]:
                before = have
                headers = {"Range": f"bytes={have}-"} if have else {}
                path = f"{_path(artifact['id'])}/content"
                try:
                    async with self._api.stream(path, params={}, headers=headers) as answer:
                        async for data in answer.aiter_raw():
                            have += len(data)
                            digest.update(data)
                            target.write(data)
                            told(have)
                except httpx.TransportError as error:
                    idle = idle + 1 if have == before else 0
                    if idle >= ATTEMPTS:
                        raise self._api.unreachable(error) from error
        if have != artifact["size"] or digest.hexdigest() != artifact["sha256"]:
            raise ArtifactDamaged(f"artifact {artifact['name']} does not have the SHA-256 that was announced")

    async def tests_of_run(self, run_id: str) -> RunTests:
        """The tests of a run."""
        return cast(RunTests, await self._api.call("GET", f"/workflow-runs/{quote(run_id, safe='')}/tests"))


def _path(artifact_id: str) -> str:
    return f"/artifacts/{quote(artifact_id, safe='')}"
