"""Finds the pipeline of the current git repository (by its remote) or directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.cli.checkout.repository import Repository, directory_key, find_repository
from pilothouse.cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from pilothouse.client import Page, PilotClient
    from pilothouse.client.types import Pipeline

_MANY = 10_000
_FEW = 100


@dataclass(frozen=True, slots=True)
class Here:
    """A repository and its pipelines; ``pipelines`` may be empty."""

    repository: Repository
    pipelines: tuple[Pipeline, ...]

    @property
    def names(self) -> str:
        """The names, joined for a message."""
        return ", ".join(sorted({pipeline["name"] for pipeline in self.pipelines}))


def place(directory: Path | None = None) -> Repository:
    """The repository that contains a directory (the current one). Raises CliError with git's message if git fails."""
    return find_repository(directory or Path.cwd())


def _place_to_look() -> Repository:
    """Same as :func:`place` for read-only commands: if git fails, the directory has no pipeline."""
    try:
        return place()
    except CliError:
        here = Path.cwd()
        return Repository(here, False, "", "")


async def pipelines_here(
    client: PilotClient, repository: Repository | None = None, project: str = ""
) -> Here:
    """The pipelines of a repository (the current one): those with its key, else the one with its name.

    A pipeline without a repository, e.g. created with REST, is matched by name.
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
    """The pipeline with that name or id; without a name, of the current repository. Raises CliError, UsageError."""
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
    """The pipeline of a repository in a project, or with the given name; and whether it was created by this call.

    Concurrent calls create one pipeline. A pipeline without a repository, that of this directory from before it had
    a remote, and, if named, that of another directory (which may have been moved), are assigned to the repository.
    Raises UsageError if the choice is ambiguous.
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
    """The pipeline with that name or id. Raises CliError that suggests similar names, UsageError if ambiguous."""
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
    """The error for an unknown pipeline, with similar names."""
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
    """Whether the text is a complete id."""
    import uuid

    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
