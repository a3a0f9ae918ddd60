"""`artifacts/upload` and `artifacts/download` (docs/artifacts.md)."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from pilothouse.agent.builtin.base import ActionFailed, Arguments, Voice
from pilothouse.agent.builtin.transfer import Transfer
from pilothouse.agent.builtin.workfiles import Workfiles
from pilothouse.agent.executors.base import StepTask

MAX_FILES = 100_000
NO_FILES = ("warn", "error", "ignore")


class ArtifactActions:
    """``limit``: bytes of one artifact, packed and unpacked."""

    def __init__(self, workfiles: Workfiles, transfer: Transfer, limit: int) -> None:
        self._workfiles, self._transfer, self._limit = workfiles, transfer, limit

    async def upload(self, task: StepTask, voice: Voice) -> None:
        """`artifacts/upload`."""
        args = Arguments(task)
        name, patterns = args.text("name"), args.lines("path")
        archive = args.flag("archive", True)
        with self._workfiles.file() as file:
            packed = await self._workfiles.pack(
                task,
                file,
                self._limit,
                patterns=patterns,
                hidden=args.flag("includeHidden"),
                archive=archive,
                level=int(args.number("compressionLevel", 6, 0, 9)),
                max_files=MAX_FILES,
            )
            for note in packed["notes"]:
                voice.warn(note)
            if no_files(packed["files"], args, patterns, voice):
                return
            announced = {
                "name": name,
                "file_name": f"{name}.zip" if archive else packed["file_name"],
                "format": "zip" if archive else "file",
                "size": packed["size"],
                "sha256": packed["sha256"],
                "files": packed["files"],
                "unpacked_size": packed["unpacked"],
                "retention": args.number("retentionDays", 0, 0, 36_500),
                "overwrite": args.flag("overwrite"),
            }
            told = _progress(voice, f"uploading {name}", packed["size"])
            done = await self._transfer.upload(task.step_run_id, announced, file, told)
        voice.say(
            f"artifact {name}: {packed['files']} files, {packed['size']} bytes, sha256:{packed['sha256']}"
        )
        voice.output("artifact_id", done["id"])
        voice.output("artifact_sha256", packed["sha256"])

    async def download(self, task: StepTask, voice: Voice) -> None:
        """`artifacts/download`."""
        args = Arguments(task)
        name, path = args.text("name", "*"), args.text("path", ".")
        available = await self._transfer.available(task.step_run_id)
        wanted = [each for each in available if fnmatch.fnmatchcase(each["name"], name)]
        if not wanted:
            known = ", ".join(each["name"] for each in available[:20]) or "none"
            raise ActionFailed(f"this run has no artifact {name} (it has: {known})")
        apart = any(char in name for char in "*?[") and not args.flag("merge")
        for artifact in wanted:
            if artifact["format"] == "link":
                voice.warn(f"artifact {artifact['name']} is kept elsewhere and is not downloaded")
                continue
            target = f"{path}/{artifact['name']}" if apart else path
            await self._fetch(task, voice, artifact, target)

    async def _fetch(self, task: StepTask, voice: Voice, artifact: dict[str, Any], path: str) -> None:
        name = artifact["name"]
        if max(artifact["size"], artifact["unpacked_size"]) > self._limit:
            raise ActionFailed(
                f"artifact {name} has {artifact['size']} bytes, {artifact['unpacked_size']} unpacked; this agent "
                f"takes {self._limit} (PILOT_MAX_ARTIFACT)"
            )
        with self._workfiles.file() as file:
            told = _progress(voice, f"downloading {name}", artifact["size"])
            await self._transfer.download(task.step_run_id, artifact, file, told)
            placed = await self._workfiles.place(
                task,
                file,
                self._limit,
                path=path,
                file_name="" if artifact["format"] == "zip" else artifact["file_name"],
                max_files=MAX_FILES,
            )
        voice.say(f"artifact {name}: {placed['files']} files, {placed['bytes']} bytes, in {path}")


def no_files(count: int, args: Arguments, patterns: list[str], voice: Voice) -> bool:
    """Whether nothing was found, which ``args.ifNoFilesFound`` says what to do about. Raises ActionFailed."""
    if count:
        return False
    message = f"no files match {', '.join(patterns)[:500]}"
    match args.choice("ifNoFilesFound", NO_FILES):
        case "error":
            raise ActionFailed(message)
        case "warn":
            voice.warn(message)
        case _:
            voice.say(message)
    return True


def _progress(voice: Voice, what: str, size: int) -> Callable[[int], None]:
    return lambda done: voice.progress(done * 100 // size if size else 100, what)
