"""The pipeline of the place where a command is given: of the repository's remote, or of the directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.cli.checkout.repository import Repository, directory_key, find_repository
from pilothouse.cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from pilothouse.client import Page, PilotClient
    from pilothouse.client.shapes import Pipeline

_MANY = 10_000
_FEW = 100


@dataclass(frozen=True, slots=True)
class Here:
    """A place and the pipelines that belong to it; none is known where ``pipelines`` is empty."""

    repository: Repository
    pipelines: tuple[Pipeline, ...]

    @property
    def names(self) -> str:
        """For a sentence."""
        return ", ".join(sorted({pipeline["name"] for pipeline in self.pipelines}))


def place(directory: Path | None = None) -> Repository:
    """The repository around a directory (the current one). Raises CliError with git's reason where it refuses."""
    return find_repository(directory or Path.cwd())


def _place_to_look() -> Repository:
    """The same for commands that only look: where git refuses, no pipeline belongs to the directory."""
    try:
        return place()
    except CliError:
        here = Path.cwd()
        return Repository(here, False, "", "")


async def pipelines_here(
    client: PilotClient, repository: Repository | None = None, project: str = ""
) -> Here:
    """The pipelines of a repository (the one around us): those with its key, else the one with its name.

    One that belongs to no repository, as those made with REST, counts by its name.
    """
    import asyncio

    found = repository if repository is not None else await asyncio.to_thread(_place_to_look)
    if not found.key:
        return Here(found, ())
    keyed = (await client.pipelines.page(limit=_FEW, repository=found.key, project=project)).items
    if not keyed:
        named = (await client.pipelines.page(limit=_FEW, name=found.name, project=project)).items
        keyed = tuple(pipeline for pipeline in named if not pipeline["repository"])
    return Here(found, keyed)


async def the_pipeline(client: PilotClient, name: str, project: str = "") -> Pipeline:
    """The pipeline of that name or id; without a name, that of this place. Raises CliError, UsageError."""
    if name:
        return await pipeline_named(client, name, project)
    here = await pipelines_here(client, project=project)
    if not here.pipelines:
        raise UsageError(f"no pipeline belongs to {here.repository.root}; name one", "pilot pipeline list")
    default = [pipeline for pipeline in here.pipelines if pipeline["name"] == here.repository.name]
    if len(here.pipelines) > 1 and len(default) != 1:
        raise UsageError(
            f"several pipelines belong to {here.repository.root}: {here.names}; name one of them"
        )
    return (default or list(here.pipelines))[0]


async def own_pipeline(
    client: PilotClient, repository: Repository, name: str, project: str
) -> tuple[Pipeline, bool]:
    """The pipeline of a repository in a project, or of that name where one is given; and whether it was made now.

    Two who find none at the same time make one. One that was made with REST, that of this directory before there was
    a remote, and, where it is named, that of another directory (it may have been moved) belongs to the repository
    from then on. Raises UsageError where it is not clear which is meant.
    """
    from pilothouse.client import ApiProblem

    found = await _existing(client, repository, name, project)
    if found is not None:
        weak = found["repository"].startswith("dir:") if name else True
        if found["repository"] != repository.key and (weak or not found["repository"]):
            found = await client.pipelines.change(found["pipelineId"], repository=repository.key)
        return found, False
    wanted = name or repository.name
    try:
        made = await client.pipelines.create(wanted, project=project, repository=repository.key)
    except ApiProblem as refusal:
        again = await _existing(client, repository, name, project)
        if refusal.code != "PIPELINE_ALREADY_EXISTS" or again is None:
            raise
        return again, False
    return await client.pipelines.get(made), True


async def _existing(client: PilotClient, repository: Repository, name: str, project: str) -> Pipeline | None:
    if name:
        return await client.pipelines.find(name, project)
    keyed = (await client.pipelines.page(limit=_FEW, repository=repository.key, project=project)).items
    default = [pipeline for pipeline in keyed if pipeline["name"] == repository.name]
    if default or len(keyed) == 1:
        return (default or list(keyed))[0]
    if keyed:
        names = Here(repository, keyed).names
        raise UsageError(f"several pipelines belong to {repository.root}: {names}", "say which with --name")
    named = await client.pipelines.find(repository.name, project)
    if named is None:
        return None
    if named["repository"] in ("", directory_key(repository.root)):
        return named
    raise UsageError(
        f"pipeline {repository.name} belongs to another repository ({named['repository']})",
        f"--name NEW makes one for {repository.root}, --name {repository.name} runs that one",
    )


async def pipeline_named(client: PilotClient, name: str, project: str = "") -> Pipeline:
    """The pipeline of that name or id. Raises CliError that lists names like it, UsageError for several."""
    found = (await client.pipelines.page(limit=_FEW, name=name, project=project)).items
    if not found and is_id(name):
        return await client.pipelines.get(name)
    if not found:
        raise await unknown_pipeline(client, name, project)
    if len(found) > 1:
        ids = ", ".join(f"{pipeline['pipelineId']} (project {pipeline['projectId']})" for pipeline in found)
        raise UsageError(f"{len(found)} projects have a pipeline {name!r}; give its id: {ids}")
    return found[0]


async def unknown_pipeline(client: PilotClient, name: str, project: str = "") -> CliError:
    """The error for a name that no pipeline has, with names that are like it."""
    import difflib

    from pilothouse.client.paging import collect

    async def page(number: int, size: int) -> Page[Pipeline]:
        return await client.pipelines.page(number, size, project=project)

    fetch: Callable[[int, int], Awaitable[Page[Pipeline]]] = page
    names = sorted({pipeline["name"] for pipeline in await collect(fetch, _MANY)})
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or names[:5]
    known = f"did you mean {', '.join(near)}?" if near else "there is none yet"
    return CliError(f"there is no pipeline {name!r}; {known}", hint="pilot pipeline list")


def is_id(text: str) -> bool:
    """Whether it is a whole id."""
    import uuid

    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
