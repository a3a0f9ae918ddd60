"""``pilot pipeline run`` up to the start of the run: everything is checked before anything is created or uploaded."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilothouse.cli.errors import CliError
from pilothouse.cli.live import Progress
from pilothouse.cli.output import Output
from pilothouse.cli.project import project_id
from pilothouse.cli.session import Session
from pilothouse.cli.spec_file import NAME, STDIN, SpecFile, check, refused

if TYPE_CHECKING:
    from pilothouse.cli.checkout.repository import Repository
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Pipeline

_MAX_PATH = 500
"""Maximum length of a spec's path on the server."""


@dataclass(frozen=True, slots=True)
class Order:
    """A run to start. ``name`` empty: the pipeline of the repository. ``chosen``: the spec file was given.

    ``transient``: the server ends with the run, so nothing is saved, and no trigger is made.
    """

    spec: SpecFile
    repository: Repository
    name: str
    project: str
    variables: dict[str, str]
    send_checkout: bool
    save: bool
    chosen: bool
    progress: Progress
    transient: bool = False

    @property
    def file(self) -> str:
        """The spec's path relative to the root of the repository; empty if it is outside."""
        path = self.spec.path
        if path == STDIN:
            return ""
        try:
            found = str((path.parent.resolve() / path.name).relative_to(self.repository.root.resolve()))
            found.encode()
        except (OSError, ValueError):
            return ""
        return found if len(found) <= _MAX_PATH else ""


async def start(session: Session, order: Order) -> str:
    """Create the run; returns its id."""
    from pilothouse.cli.checkout.upload import Uploaded, packed_checkout
    from pilothouse.client import ApiProblem

    async with session.client() as client, AsyncExitStack() as stack:
        project = await project_id(client, order.project)
        await check(client, order.spec, session.out, order.variables, project)
        sent, repository = Uploaded(), order.repository
        # Packed before the pipeline is created: if packing fails, nothing is left on the server.
        packed = (
            await stack.enter_async_context(
                packed_checkout(client, repository, order.spec.text, project, session.out)
            )
            if order.send_checkout
            else None
        )
        pipeline_id = await _pipeline(client, order, project, session.out)
        if packed is not None:
            sent = await packed.upload(order.progress)
        try:
            return await client.pipelines.trigger(
                pipeline_id,
                variables=order.variables,
                spec=order.spec.text,
                file=order.spec.shown,
                checkout=sent.checkout,
                repositories=sent.repositories,
                branch=repository.branch,
                commit_sha=repository.commit,
                tag=repository.tag,
                dirty=sent.dirty,
            )
        except ApiProblem as refusal:
            raise refused(refusal, order.spec, session.out) from None


async def _pipeline(client: PilotClient, order: Order, project: str, out: Output) -> str:
    """The id of the pipeline, created if missing. The spec is saved if it has none, or with ``--save``."""
    from pilothouse.cli.here import own_pipeline

    found, made = await own_pipeline(client, order.repository, order.name, project)
    if not found.get("isEnabled", 1):
        raise CliError(f"pipeline {found['name']} is disabled")
    if order.transient:
        return found["pipelineId"]
    if not found["lastCommitSha"] or order.save:
        await _save(client, order, found)
        what = f"pipeline {found['name']} created" if made else f"pipeline {found['name']}"
        out.note(f"{what}; {order.spec.shown} is its saved spec, which triggers use")
    else:
        _compare(order, found, out)
    return found["pipelineId"]


async def _save(client: PilotClient, order: Order, pipeline: Pipeline) -> None:
    await client.pipelines.save_spec(pipeline["pipelineId"], order.spec.text, file=order.spec.shown)
    if (order.file or NAME) != _file_of(pipeline):
        await client.pipelines.change(pipeline["pipelineId"], pipelineFilePath=order.file)


def _compare(order: Order, pipeline: Pipeline, out: Output) -> None:
    """Print a note if the pipeline's file differs from the saved spec; not for another file given for this run."""
    own = _file_of(pipeline)
    if pipeline["lastCommitSha"] == spec_hash(order.spec.text) or (order.chosen and order.file != own):
        return
    saved = f" (saved from {own})" if order.file != own else ""
    out.note(
        f"this {order.spec.shown} differs from the saved spec of pipeline {pipeline['name']}{saved}, which triggers "
        "use; --save replaces it"
    )


def _file_of(pipeline: Pipeline) -> str:
    """The path the spec was saved from."""
    return pipeline.get("pipelineFilePath", "") or NAME


def spec_hash(text: str) -> str:
    """The hash of a spec's text, as computed by the server."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:40]
