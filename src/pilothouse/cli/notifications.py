"""``pilot pipeline notifications``: what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.project import ProjectName, project_id
from pilothouse.cli.session import Session, command

if TYPE_CHECKING:
    from pilothouse.client.types import NotificationDelivery

OwnPipeline = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE", help="Name or id. [default: pipeline of this repository]", show_default=False
    ),
]


async def notifications(
    session: Session,
    name: OwnPipeline = "",
    project: ProjectName = "",
    run: Annotated[str, typer.Option("--run", metavar="ID", help="Only of this run.")] = "",
    redeliver: Annotated[str, typer.Option("--redeliver", metavar="ID", help="Deliver this one again.")] = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of results.")] = 20,
) -> None:
    """List the deliveries of a pipeline's notifications: where to, when, and why one failed."""
    from pilothouse.cli import native
    from pilothouse.cli.here import the_pipeline
    from pilothouse.client.paging import collect

    async with session.client() as client:
        home = await project_id(client, project) if project else ""
        id = (await the_pipeline(client, name, home))["pipelineId"]
        if redeliver:
            again = await client.pipelines.redeliver(id, redeliver)
            if session.out.structured:
                session.out.document(native.notification(again))
            else:
                session.out.say(f"Notification {again['deliveryId']} is delivered again.")
            return
        found = await collect(
            lambda number, size: client.pipelines.notifications(id, number, size, run=run), limit
        )
    if session.out.structured:
        session.out.document([native.notification(one) for one in found])
        return
    session.out.table(
        ("ID", "EVENT", "TO", "STATUS", "ATTEMPTS", "LAST", "WHY"),
        list(map(_row, found)),
        "No notifications.",
    )


def _row(one: NotificationDelivery) -> tuple[str, ...]:
    from pilothouse.cli import native

    event = f"{one['event']} {one['job']}".strip()
    last = native.time(one["lastAttemptAt"]) or "never"
    to = f"{one['plugin']} {one['target']}"
    return (one["deliveryId"], event, to, one["status"], str(one["attempts"]), last, one["reason"])


def add_to(app: typer.Typer) -> None:
    """Add the command to those of pipelines."""
    examples = ("pilot pipeline notifications shop", "pilot pipeline notifications shop --redeliver ID")
    command(app, "notifications", examples=examples)(notifications)
