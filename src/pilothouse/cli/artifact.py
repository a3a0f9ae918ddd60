"""``pilot artifact``: list, download and delete artifacts of runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.errors import CliError
from pilothouse.cli.reference import AllPipelines, run_id_of
from pilothouse.cli.session import Group, Session, command
from pilothouse.cli.text import local_time, moment

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Artifact

app = typer.Typer(cls=Group, help="Artifacts of runs.", no_args_is_help=True)

Run = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Id of the run, 6 or more characters of its start or end, or `last` (default).",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the artifact.")]


async def list_artifacts(session: Session, run: Run = "last", everywhere: AllPipelines = False) -> None:
    """List a run's artifacts by name."""
    async with session.client() as client:
        found = await client.artifacts.of_run(await run_id_of(session, client, run, everywhere=everywhere))
    if session.out.structured:
        session.out.document(found)
        return
    rows = [
        (
            each["name"],
            each["format"],
            str(each["files"]),
            str(each["size"]),
            f"{each['job']}/{each['step']}",
            local_time(moment(each["expire_at"])),
        )
        for each in found
    ]
    session.out.table(("NAME", "FORMAT", "FILES", "BYTES", "FROM", "EXPIRES"), rows, "No artifacts.")


async def download(
    session: Session,
    name: Name,
    run: Run = "last",
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where to put the files.", show_default=False)
    ] = Path("."),
    packed: Annotated[bool, typer.Option("--packed", help="Keep the zip, instead of its files.")] = False,
    everywhere: AllPipelines = False,
) -> None:
    """Download an artifact, verify it, and unpack its files."""
    from pilothouse.client.artifacts import ArtifactDamaged

    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere)
        artifact = await _named(client, run_id, name)
        if artifact["format"] == "link":
            session.out.line(artifact["download_url"])
            return
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".pilot-") as folder:
            file = Path(folder) / "content"
            try:
                await client.artifacts.download(artifact, file, lambda _: None)
            except ArtifactDamaged as damaged:
                raise CliError(str(damaged)) from None
            files = _placed(artifact, file, directory, packed=packed)
    session.out.say(f"Artifact {name}: {files} {'file' if files == 1 else 'files'} in {directory}.")


async def delete(session: Session, name: Name, run: Run = "last", everywhere: AllPipelines = False) -> None:
    """Delete an artifact."""
    async with session.client() as client:
        run_id = await run_id_of(session, client, run, everywhere=everywhere, destructive=True)
        await client.artifacts.delete((await _named(client, run_id, name))["id"])
    session.out.say(f"Artifact {name} is deleted.")


async def _named(client: PilotClient, run_id: str, name: str) -> Artifact:
    found = await client.artifacts.of_run(run_id)
    for artifact in found:
        if artifact["name"] == name:
            return artifact
    names = ", ".join(each["name"] for each in found) or "none"
    raise CliError(f"run {run_id} has no artifact {name} (it has: {names})")


def _placed(artifact: Artifact, file: Path, directory: Path, *, packed: bool) -> int:
    from pilothouse.wire.placing import Refused, place

    unpack = artifact["format"] == "zip" and not packed
    job = {
        "path": "",
        "file_name": "" if unpack else artifact["file_name"],
        "max_files": max(artifact["files"], 1),
        "max_bytes": artifact["unpacked_size"] if unpack else artifact["size"],
    }
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with file.open("rb") as source:
            return int(place(job, target, source)["files"])
    except Refused as refused:
        raise CliError(str(refused)) from None
    finally:
        os.close(target)


command(app, "list", examples=("pilot artifact list", "pilot artifact list --run 5f60718a -o json"))(
    list_artifacts
)
command(
    app,
    "download",
    examples=("pilot artifact download dist", "pilot artifact download dist --run 5f60718a --dir out"),
)(download)
command(app, "delete", examples=("pilot artifact delete dist --run 5f60718a",))(delete)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="artifact")
