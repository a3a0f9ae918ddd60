"""``pilot pipeline``: run what is here, check a spec, list what there is."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.cli.output import Output
from pilothouse.cli.packing import Checkout, find_checkout, pack
from pilothouse.cli.project import ProjectName, project_id
from pilothouse.cli.session import Session, command
from pilothouse.cli.spec_file import SpecFile, check, find_spec, refused
from pilothouse.cli.text import size
from pilothouse.cli.watching import detachable, watch

if TYPE_CHECKING:
    from pilothouse.client import PilotClient

app = typer.Typer(help="Pipelines and their specs.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run."""

    spec: SpecFile
    checkout: Checkout
    name: str
    project: str
    variables: dict[str, str]
    send_checkout: bool


def run_here(
    session: Session,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The spec; else .pilot.yaml.")] = None,
    var: Annotated[
        list[str] | None, typer.Option("--var", metavar="K=V", help="A variable; repeatable.")
    ] = None,
    name: Annotated[str, typer.Option(help="The pipeline's name; else the directory's.")] = "",
    project: ProjectName = "",
    no_checkout: Annotated[bool, typer.Option("--no-checkout", help="Send no files along.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the outcome.")] = False,
) -> None:
    """Run the spec and the files here, as they are, committed or not; show the run until it is over."""
    directory = file.absolute().parent if file else Path.cwd()
    checkout = find_checkout(directory)
    spec = find_spec(file, directory, checkout.root)
    order = Order(
        spec, checkout, name or checkout.root.name, project, variables_of(var or []), not no_checkout
    )
    run_id = asyncio.run(_start(session, order))
    if not detach:
        detachable(session, run_id, watch(session, run_id))
    elif session.out.structured:
        session.out.document({"runId": run_id})
    else:
        session.out.line(run_id)


async def list_pipelines(
    session: Session,
    project: ProjectName = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
) -> None:
    """List pipelines by name."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        home = await project_id(client, project)
        pipelines = await collect(
            lambda number, size: client.pipelines.page(number, size, project=home), limit
        )
    if session.out.structured:
        session.out.document(list(pipelines))
        return
    rows = [
        (p["pipelineId"], p["name"], p["totalRuns"], p["successRuns"], p["failedRuns"], p["description"])
        for p in pipelines
    ]
    session.out.table(("ID", "NAME", "RUNS", "SUCCEEDED", "FAILED", "DESCRIPTION"), rows, "No pipelines.")


def variables_of(pairs: list[str]) -> dict[str, str]:
    """``k=v`` each; the last of a name wins. Raises UsageError."""
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"--var {pair!r}: write it as NAME=VALUE")
        variables[name] = value
    return variables


async def _start(session: Session, order: Order) -> str:
    """Everything up to the trigger; returns the run's id."""
    from pilothouse.client import ApiProblem

    async with session.client() as client:
        await check(client, order.spec, session.out)
        project = await project_id(client, order.project)
        pipeline_id = await _pipeline(client, order, project, session.out)
        blob = (
            await _send_checkout(client, order.checkout, project, session.out) if order.send_checkout else ""
        )
        try:
            return await client.pipelines.trigger(
                pipeline_id,
                variables=order.variables,
                spec=order.spec.text,
                file=order.spec.shown,
                checkout=blob,
                branch=order.checkout.branch,
                commit_sha=order.checkout.commit,
            )
        except ApiProblem as refusal:
            raise refused(refusal, order.spec, session.out) from None


async def _pipeline(client: PilotClient, order: Order, project: str, out: Output) -> str:
    """The id of the pipeline of that name; made if it is missing, given a spec if it has none."""
    found = await client.pipelines.find(order.name, project)
    if found is not None:
        pipeline_id, has_spec = found["pipelineId"], bool(found["lastCommitSha"])
    else:
        pipeline_id, has_spec = await client.pipelines.create(order.name, project=project), False
        out.note(f"pipeline {order.name} created")
    if not has_spec:
        await client.pipelines.save_spec(pipeline_id, order.spec.text, file=order.spec.shown)
    return pipeline_id


async def _send_checkout(client: PilotClient, checkout: Checkout, project: str, out: Output) -> str:
    with tempfile.NamedTemporaryFile(prefix="pilot-checkout-", suffix=".tar.gz") as file:
        packed = await asyncio.to_thread(pack, checkout, file)
        file.flush()
        files = "1 file" if packed.files == 1 else f"{packed.files} files"
        out.note(f"sending {files} of {checkout.root} ({size(packed.size)})")
        blob = await client.blobs.upload(Path(file.name), packed.sha256, project=project)
    return blob["id"]


command(app, "run")(run_here)
command(app, "list")(list_pipelines)
