"""``pilot agent token``: what new agents register with, and what that allows them."""

from __future__ import annotations

from typing import Annotated

import typer

from pilothouse.cli.durations import DurationText, seconds
from pilothouse.cli.project import project_names
from pilothouse.cli.session import Session, command

app = typer.Typer(help="Registration tokens of agents.", no_args_is_help=True)


async def create(
    session: Session,
    description: Annotated[str, typer.Argument(help="What it is for.")] = "",
    project: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Agents get work of this project only; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K[=V]", help="Agents may have this label and no others; repeatable."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Existing agent it may register anew; a glob; repeatable."),
    ] = None,
    max_uses: Annotated[int | None, typer.Option(min=1, help="How many new agents may register.")] = None,
    expires_in: DurationText = "",
) -> None:
    """Make a registration token. It is printed on stdout, this once."""
    lifetime = seconds(expires_in)
    async with session.client() as client:
        made = await client.registration_tokens.create(
            description,
            max_uses=max_uses,
            expires_in=lifetime,
            agents=agent or None,
            projects=project or None,
            labels=label or None,
        )
    if session.out.structured:
        session.out.document(made)
        return
    session.out.line(made["token"])
    until = made["expires_at"]
    session.out.note(f"Good until {until}; it is not shown again." if until else "It is not shown again.")


async def list_tokens(
    session: Session, limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100
) -> None:
    """List registration tokens, newest first, without their secrets."""
    async with session.client() as client:
        tokens = (await client.registration_tokens.all())[:limit]
        names = await project_names(client) if any(token.get("projects") for token in tokens) else {}
    if session.out.structured:
        session.out.document(list(tokens))
        return
    rows = []
    for token in tokens:
        bound = [names.get(id, id) for id in token.get("projects") or ()]
        most = token["max_uses"]
        used = f"{token['uses']}/{most}" if most is not None else str(token["uses"])
        until = "revoked" if token["revoked"] else token["expires_at"] or "never"
        labels = token.get("labels")
        shown = "any" if labels is None else ", ".join(labels) or "none"
        rows.append(
            (
                token["id"],
                token["description"],
                used,
                until,
                ", ".join(bound) or "all",
                shown,
                ", ".join(token.get("agents") or ()),
            )
        )
    columns = ("ID", "FOR", "USED", "EXPIRES", "PROJECTS", "LABELS", "AGENTS")
    session.out.table(columns, rows, "No registration tokens.")


async def revoke(session: Session, token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """No agent may register with it any more; those that have done so stay."""
    async with session.client() as client:
        await client.registration_tokens.revoke(token_id)
    session.out.say(f"Revoked {token_id}.")


command(app, "create")(create)
command(app, "list")(list_tokens)
command(app, "revoke")(revoke)
