"""``pilot agent token``: registration tokens of agents and their restrictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.durations import DurationText, seconds
from pilothouse.cli.project import project_names
from pilothouse.cli.session import Group, Session, command

if TYPE_CHECKING:
    from pilothouse.client.types import RegistrationToken

app = typer.Typer(cls=Group, help="Registration tokens of agents.", no_args_is_help=True)


async def create(
    session: Session,
    description: Annotated[str, typer.Argument(metavar="DESCRIPTION", help="Description.")] = "",
    project: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Restrict agents to this project; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K[=V]", help="Restrict agents to this label; repeatable."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Existing agent (name or glob) that may re-register; repeatable."),
    ] = None,
    max_uses: Annotated[int | None, typer.Option(min=1, help="Maximum number of new agents.")] = None,
    expires_in: DurationText = "",
) -> None:
    """Create a registration token. It is printed on stdout once."""
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
    session.out.note(f"Valid until {until}. It is not shown again." if until else "It is not shown again.")


async def list_tokens(
    session: Session, limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100
) -> None:
    """List registration tokens, newest first, without their secrets."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        tokens = await collect(client.registration_tokens.page, limit)
        names = await project_names(client) if any(token.get("projects") for token in tokens) else {}
    if session.out.structured:
        session.out.document(list(tokens))
        return
    rows = [(t["id"], t["description"], _used(t), _until(t), _allowed(t, names)) for t in tokens]
    session.out.table(("ID", "FOR", "USED", "EXPIRES", "ALLOWS"), rows, "No registration tokens.")


def _used(token: RegistrationToken) -> str:
    most = token["max_uses"]
    return str(token["uses"]) if most is None else f"{token['uses']}/{most}"


def _until(token: RegistrationToken) -> str:
    return "revoked" if token["revoked"] else token["expires_at"] or "never"


def _allowed(token: RegistrationToken, names: dict[str, str]) -> str:
    """Restrictions as text: ``projects shop; labels zone=a, pool; agents build-*``."""
    projects, labels = token.get("projects"), token.get("labels")
    parts = []
    if projects is not None:
        parts.append("projects " + ", ".join(names.get(id, id) for id in projects))
    if labels is not None:
        parts.append("labels " + (", ".join(labels) or "none"))
    if agents := token.get("agents"):
        parts.append("agents " + ", ".join(agents))
    return "; ".join(parts)


async def revoke(session: Session, token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Revoke a registration token. Agents registered with it keep working."""
    async with session.client() as client:
        await client.registration_tokens.revoke(token_id)
    session.out.say(f"Revoked {token_id}.")


command(app, "create")(create)
command(app, "list")(list_tokens)
command(app, "revoke")(revoke)
