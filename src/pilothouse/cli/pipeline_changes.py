"""``pilot pipeline create``, ``edit``, ``save``, ``pause``, ``resume`` and ``delete``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.cli.project import ProjectName, project_id
from pilothouse.cli.session import Session, command
from pilothouse.cli.spec_file import find_spec

NamedPipeline = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name or id.", show_default=False)]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.", show_default=False)]
RepoUrl = Annotated[
    str | None,
    typer.Option(
        "--repo",
        metavar="URL",
        help="Git repository with the spec (https or ssh); empty: the server's database.",
        show_default=False,
    ),
]
RepoSecret = Annotated[
    str | None,
    typer.Option(
        "--repo-secret",
        metavar="NAME",
        help="Secret of the project for the repository: a token, or an ssh key.",
        show_default=False,
    ),
]
Branch = Annotated[
    str | None, typer.Option(metavar="NAME", help="Branch of the repository.", show_default=False)
]
FilePath = Annotated[
    str | None,
    typer.Option("--path", metavar="PATH", help="Path of the spec in the repository.", show_default=False),
]
PullRequests = Annotated[
    bool | None,
    typer.Option(
        "--pull-requests/--direct",
        help="Save to new branches for pull requests, or directly to the branch.",
        show_default=False,
    ),
]


async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline.", show_default=False)],
    project: ProjectName = "",
    description: Description = None,
    repo: RepoUrl = None,
    repo_secret: RepoSecret = None,
    branch: Branch = None,
    path: FilePath = None,
    pull_requests: PullRequests = None,
) -> None:
    """Create a pipeline, with a spec in a git repository or none yet."""
    fields = _fields(description, repo, repo_secret, branch, path, pull_requests)
    async with session.client() as client:
        home = await project_id(client, project)
        pipeline_id = await client.pipelines.create(name, project=home, **fields)
    if session.out.structured:
        session.out.document({"id": pipeline_id, "name": name})
    else:
        session.out.say(f"Pipeline {name} is created.")


async def edit(
    session: Session,
    pipeline: NamedPipeline,
    project: ProjectName = "",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="New name.", show_default=False)
    ] = None,
    description: Description = None,
    repo: RepoUrl = None,
    repo_secret: RepoSecret = None,
    branch: Branch = None,
    path: FilePath = None,
    pull_requests: PullRequests = None,
    enable: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Whether runs may start.", show_default=False),
    ] = None,
) -> None:
    """Change a pipeline. Options that are not given keep their values."""
    from pilothouse.cli.here import the_pipeline

    fields = _fields(description, repo, repo_secret, branch, path, pull_requests)
    fields |= {"name": name} if name is not None else {}
    fields |= {"isEnabled": int(enable)} if enable is not None else {}
    if not fields:
        raise UsageError("nothing to change: give an option, such as --description")
    async with session.client() as client:
        home = await project_id(client, project) if project else ""
        found = await the_pipeline(client, pipeline, home)
        changed = await client.pipelines.change(found["pipelineId"], **fields)
    session.out.say(f"Pipeline {changed['name']} is changed.")


async def save(
    session: Session,
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE", help="Name or id. [default: pipeline of this repository]", show_default=False
        ),
    ] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Spec file. [default: .pilot.yaml]")
    ] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Message of the commit.")
    ] = "",
    expect: Annotated[
        str,
        typer.Option("--expect", metavar="COMMIT", help="Save only if this is the current head of the spec."),
    ] = "",
    project: ProjectName = "",
) -> None:
    """Save the local spec: in the server's database, or as a commit in the pipeline's repository."""
    from pilothouse.cli.here import place, the_pipeline

    directory = Path.cwd()
    spec = find_spec(file, directory, place(directory).root)
    async with session.client() as client:
        home = await project_id(client, project) if project else ""
        found = await the_pipeline(client, pipeline, home)
        saved = await client.pipelines.save(
            found["pipelineId"], spec.text, file=spec.shown, message=message, expected_head=expect
        )
    if session.out.structured:
        session.out.document(saved)
        return
    where = saved["prBranch"] or saved["branch"]
    session.out.say(
        f"The spec of {found['name']} is saved as {saved['commitSha'][:12]}"
        + (f" on {where}." if where else ".")
    )
    if saved["prUrl"]:
        session.out.say(f"Create a pull request: {saved['prUrl']}")


async def pause(session: Session, pipeline: NamedPipeline, project: ProjectName = "") -> None:
    """Pause a pipeline: no run of it starts until it is resumed. Its current runs continue."""
    name = await _switch(session, pipeline, project, enabled=False)
    session.out.say(f"Pipeline {name} is paused. Resume it with `pilot pipeline resume`.")


async def resume(session: Session, pipeline: NamedPipeline, project: ProjectName = "") -> None:
    """Resume a paused pipeline: its runs may start again."""
    name = await _switch(session, pipeline, project, enabled=True)
    session.out.say(f"Pipeline {name} is resumed.")


async def _switch(session: Session, pipeline: str, project: str, *, enabled: bool) -> str:
    """Allow or forbid runs of a pipeline; returns its name."""
    from pilothouse.cli import native
    from pilothouse.cli.here import the_pipeline

    async with session.client() as client:
        home = await project_id(client, project) if project else ""
        found = await the_pipeline(client, pipeline, home)
        changed = await client.pipelines.change(found["pipelineId"], isEnabled=int(enabled))
    if session.out.structured:
        session.out.document(native.pipeline(changed))
    return changed["name"]


async def delete(session: Session, pipeline: NamedPipeline, project: ProjectName = "") -> None:
    """Delete a pipeline and its spec. Its runs remain, and cannot be rerun."""
    from pilothouse.cli.here import the_pipeline

    async with session.client() as client:
        home = await project_id(client, project) if project else ""
        found = await the_pipeline(client, pipeline, home)
        await client.pipelines.delete(found["pipelineId"])
    session.out.say(f"Pipeline {found['name']} is deleted.")


def _fields(
    description: str | None,
    repo: str | None,
    repo_secret: str | None,
    branch: str | None,
    path: str | None,
    pull_requests: bool | None,
) -> dict[str, Any]:
    given = {
        "description": description,
        "repoUrl": repo,
        "repoSecret": repo_secret,
        "defaultBranch": branch,
        "pipelineFilePath": path,
        "saveMode": None if pull_requests is None else 1 + pull_requests,
    }
    return {name: value for name, value in given.items() if value is not None}


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to ``pilot pipeline``."""
    command(
        app,
        "create",
        examples=("pilot pipeline create shop --repo https://git.example/shop.git --repo-secret FORGE",),
    )(create)
    command(app, "edit", examples=("pilot pipeline edit shop --disable",))(edit)
    command(app, "save", examples=('pilot pipeline save -m "Build on two agents"',))(save)
    command(app, "pause", examples=("pilot pipeline pause shop",))(pause)
    command(app, "resume", examples=("pilot pipeline resume shop",))(resume)
    command(app, "delete")(delete)
