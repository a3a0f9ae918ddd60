"""``pilot pipeline``: run the local spec, trigger the saved one, list and view pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli import exec as local
from pilothouse.cli import lint, notifications, pipeline_changes, plan
from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.live import Progress, ProgressOption, require_terminal
from pilothouse.cli.project import ProjectName, project_id, project_names
from pilothouse.cli.session import Group, Session, command
from pilothouse.cli.spec_file import SpecFile, find_spec
from pilothouse.cli.starting import Order, spec_hash, start
from pilothouse.cli.variables import Variables, variables_of
from pilothouse.cli.watching import detachable, watch

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Pipeline

app = typer.Typer(cls=Group, help="Pipelines and their specs.", no_args_is_help=True)

PipelineName = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE", help="Name or id. [default: pipeline of this repository]", show_default=False
    ),
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and exit without waiting.")]


def run_here(
    session: Session,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Spec file. [default: .pilot.yaml]")
    ] = None,
    var: Variables = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the pipeline. [default: name of this repository]")
    ] = "",
    project: ProjectName = "",
    save: Annotated[bool, typer.Option("--save", help="Also save the spec for triggers.")] = False,
    no_checkout: Annotated[bool, typer.Option("--no-checkout", help="Do not upload files.")] = False,
    detach: Detach = False,
    progress: ProgressOption = Progress.AUTO,
) -> None:
    """Run the local spec and files, including uncommitted changes, and watch the run."""
    import asyncio

    from pilothouse.cli.here import place

    require_terminal(progress)
    directory = Path.cwd()
    repository = place(directory)
    spec = find_spec(file, directory, repository.root)
    order = Order(
        spec=spec,
        repository=repository,
        name=name,
        project=project,
        variables=variables_of(var or []),
        send_checkout=not no_checkout,
        save=save,
        chosen=file is not None,
        # With --detach stdout holds only the run's id.
        progress=Progress.PLAIN if detach and progress is Progress.JSON else progress,
    )
    show_run(session, asyncio.run(start(session, order)), progress, detach=detach)


def trigger(
    session: Session,
    name: PipelineName = "",
    var: Variables = None,
    project: ProjectName = "",
    detach: Detach = False,
    progress: ProgressOption = Progress.AUTO,
) -> None:
    """Run the saved spec of a pipeline, without local files."""
    import asyncio

    require_terminal(progress)
    run_id = asyncio.run(_trigger(session, name, variables_of(var or []), project))
    show_run(session, run_id, progress, detach=detach)


def show_run(session: Session, run_id: str, progress: Progress, *, detach: bool) -> None:
    """Watch a run, or print its id."""
    if not detach:
        detachable(session, run_id, watch(session, run_id, progress))
    elif session.out.structured:
        import asyncio

        session.out.document(asyncio.run(_run(session, run_id)))
    else:
        session.out.line(run_id)


async def _run(session: Session, run_id: str) -> object:
    async with session.client() as client:
        return await client.runs.get(run_id)


async def list_pipelines(
    session: Session,
    project: ProjectName = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of results.")] = 100,
) -> None:
    """List pipelines by name."""
    from pilothouse.cli import native
    from pilothouse.client.paging import collect

    async with session.client() as client:
        home = await project_id(client, project)
        found = await collect(lambda number, size: client.pipelines.page(number, size, project=home), limit)
    pipelines = [native.pipeline(each) for each in found]
    if session.out.structured:
        session.out.document(pipelines)
        return
    rows = [
        (p["id"], p["name"], p["total_runs"], p["succeeded_runs"], p["failed_runs"], p["description"])
        for p in pipelines
    ]
    session.out.table(("ID", "NAME", "RUNS", "SUCCEEDED", "FAILED", "DESCRIPTION"), rows, "No pipelines.")


async def view(session: Session, name: PipelineName = "", project: ProjectName = "") -> None:
    """Show a pipeline."""
    from pilothouse.cli import native
    from pilothouse.cli.here import the_pipeline

    async with session.client() as client:
        found = await the_pipeline(client, name, await _home(client, project))
        projects = await project_names(client)
    shown = native.pipeline(found)
    if session.out.structured:
        session.out.document(shown)
        return
    runs = f"{shown['total_runs']} ({shown['succeeded_runs']} succeeded, {shown['failed_runs']} failed)"
    # A key derived from a directory's path is not readable.
    repository = "" if shown["repository"].startswith("dir:") else shown["repository"]
    pairs = [("name", shown["name"]), ("repository", repository), ("description", shown["description"])]
    pairs += [("id", shown["id"]), ("project", projects.get(shown["project"], shown["project"]))]
    saved_from = shown["file"] if shown["spec"] else ""
    pairs += [("saved spec", shown["spec"] or "none"), ("saved from", saved_from)]
    pairs += [("last editor", shown["last_editor"])]
    pairs += [("runs", runs), ("newest run", shown["status"]), ("enabled", "" if shown["enabled"] else "no")]
    pairs += [
        ("created", f"{shown['created_at']} by {shown['created_by']}"),
        ("updated", shown["updated_at"]),
    ]
    session.out.fields(pairs)


async def spec(session: Session, name: PipelineName = "", project: ProjectName = "") -> None:
    """Print the saved spec of a pipeline."""
    from pilothouse.cli import native
    from pilothouse.cli.here import the_pipeline

    async with session.client() as client:
        found = await the_pipeline(client, name, await _home(client, project))
        saved = await client.pipelines.spec(found["pipelineId"])
    if session.out.structured:
        session.out.document(native.saved_spec(found["pipelineId"], saved))
    else:
        session.out.text(saved["text"])


async def _home(client: PilotClient, project: str) -> str:
    """The id of the named project; empty for all visible ones."""
    return await project_id(client, project) if project else ""


async def _trigger(session: Session, name: str, variables: dict[str, str], project: str) -> str:
    from pilothouse.cli.here import the_pipeline

    async with session.client() as client:
        found = await the_pipeline(client, name, await _home(client, project))
        saved = found["lastCommitSha"]
        if found["repoUrl"]:
            return await client.pipelines.trigger(found["pipelineId"], variables=variables)
        if not saved:
            raise UsageError(
                f"pipeline {found['name']} has no saved spec",
                "save the local one with `pilot pipeline run --save`",
            )
        local = _local_spec(found)
        if local is not None and spec_hash(local.text) != saved:
            session.out.note(
                f"this {local.shown} differs from the saved spec, which is used; "
                "`pilot pipeline run --save` replaces it"
            )
        session.out.note("a triggered run has no local files; `pilot pipeline run` uploads them")
        return await client.pipelines.trigger(found["pipelineId"], variables=variables)


def _local_spec(pipeline: Pipeline) -> SpecFile | None:
    """The local spec, if the current repository is the pipeline's."""
    from pilothouse.cli.here import place

    try:
        here = place()
        if here.key != pipeline["repository"]:
            return None
        file = pipeline.get("pipelineFilePath", "")
        return find_spec(here.root / file if file else None, Path.cwd(), here.root)
    except CliError:
        return None


command(
    app,
    "run",
    examples=("pilot pipeline run", "pilot pipeline run --var tag=1.5 --detach", "pilot pipeline run --save"),
)(run_here)
command(app, "trigger", examples=("pilot pipeline trigger shop --var tag=1.5",))(trigger)
command(app, "list", examples=("pilot pipeline list -o json",))(list_pipelines)
command(app, "view")(view)
command(app, "spec", examples=("pilot pipeline spec shop > .pilot.yaml",))(spec)
lint.add_to(app)
plan.add_to(app)
local.add_to(app)
pipeline_changes.add_to(app)
notifications.add_to(app)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="pipeline")
