"""Runs jobs on the files of a workspace in a child process (``agent/workfiles/``), as the user of the steps."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.agent.builtin.base import ActionFailed
from pilothouse.agent.executors.base import StepTask
from pilothouse.agent.executors.users import StepUser
from pilothouse.workers.children import Children, ChildTimeout, Ended, Limits, script

MEMORY = 1 << 30
SECONDS = 3600.0
READING = 600.0

_PROGRAM = script("pilothouse.agent.workfiles.job")


class Workfiles:
    """``staging``: a private directory for artifacts on their way."""

    def __init__(self, children: Children, staging: Path, user: StepUser) -> None:
        self._children, self._staging, self._user = children, staging, user
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in staging.iterdir():  # of an agent that was killed
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """The path of a new file, which is removed afterwards."""
        path = self._staging / secrets.token_hex(8)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def pack(self, task: StepTask, target: Path, most: int, **job: Any) -> dict[str, Any]:
        """``workfiles.pack``: the artifact is written to ``target``; the answer also has its ``size`` and ``sha256``.

        Raises ActionFailed.
        """
        limits = Limits(seconds=SECONDS, output=most + (64 << 20), memory=MEMORY)
        ended = await self._run(task, {"do": "pack", "max_bytes": most, **job}, limits, target)
        answer = self._answer(ended, of_pack=True)
        size = (await asyncio.to_thread(target.stat)).st_size
        return {**answer, "size": size, "sha256": await asyncio.to_thread(checksum, target, 0, size)}

    async def place(self, task: StepTask, source: Path, most: int, **job: Any) -> dict[str, Any]:
        """``workfiles.place``: the artifact is in ``source``. Raises ActionFailed."""
        limits = Limits(seconds=SECONDS, output=most + (1 << 20), memory=MEMORY)
        wanted = {"do": "place", "source": str(source), "max_bytes": most, **job}
        return self._answer(await self._run(task, wanted, limits))

    async def read(self, task: StepTask, what: str, patterns: list[str], hidden: bool) -> dict[str, Any]:
        """``junit`` or ``dotenv`` reports. Raises ActionFailed."""
        wanted = {"do": what, "patterns": patterns, "hidden": hidden}
        return self._answer(await self._run(task, wanted, Limits(seconds=READING, memory=MEMORY)))

    async def _run(
        self, task: StepTask, job: dict[str, Any], limits: Limits, stdout: Path | None = None
    ) -> Ended:
        user = self._user
        become = [user.uid, user.gid, list(user.groups)] if user.switched else None
        given = json.dumps({**job, "workspace": str(task.workspace), "become": become}).encode()
        try:
            return await self._children.run(_PROGRAM, stdin=given, stdout=stdout, limits=limits)
        except ChildTimeout as error:
            raise ActionFailed(f"the files could not be read: {error}") from None

    def _answer(self, ended: Ended, of_pack: bool = False) -> dict[str, Any]:
        text = ended.stderr if of_pack else ended.stdout
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if ended.code or not isinstance(answer, dict):
            raise ActionFailed(
                "the files could not be read: it took too much memory, time or disk"
                if ended.code < 0 or b"MemoryError" in ended.stderr or b"Errno 27" in ended.stderr
                else "the files could not be read"
            )
        if "refused" in answer:
            raise ActionFailed(answer["refused"])
        return answer


def checksum(file: Path, start: int, length: int) -> str:
    """The SHA-256 (hex) of a part of a file. Blocks."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        opened.seek(start)
        while length > 0 and (data := opened.read(min(1 << 20, length))):
            digest.update(data)
            length -= len(data)
    return digest.hexdigest()
