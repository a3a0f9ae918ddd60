"""``pilot token``: API tokens, with ``--agent`` registration tokens of agents, with ``--login`` logins."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pilothouse.cli.durations import DurationText, seconds
from pilothouse.cli.errors import UsageError
from pilothouse.cli.session import Group, Session, command
from pilothouse.cli.text import ago
from pilothouse.cli.user import RoleName

app = typer.Typer(
    cls=Group, help="API tokens, logins, and registration tokens of agents.", no_args_is_help=True
)

Agent = Annotated[bool, typer.Option("--agent", help="Use registration tokens of agents.")]
Login = Annotated[bool, typer.Option("--login", help="Use logins.")]
User = Annotated[
    str,
    typer.Option("--user", metavar="NAME", help="With --login: another user (admins). [default: yourself]"),
]


async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Description.")],
    expires_in: DurationText = "",
    role: Annotated[RoleName | None, typer.Option(help="Role of the token, at most your own.")] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Limit the token to this project (repeatable)."),
    ] = None,
    agent: Agent = False,
    max_uses: Annotated[
        int | None, typer.Option(min=1, help="With --agent: maximum number of new agents.")
    ] = None,
) -> None:
    """Create a token. It is printed on stdout once."""
    if max_uses is not None and not agent:
        raise UsageError("--max-uses requires --agent")
    if role and agent:
        raise UsageError("--role cannot be used with --agent")
    if project and agent:
        raise UsageError("--project cannot be used with --agent")
    lifetime = seconds(expires_in)
    made: object
    async with session.client() as client:
        if agent:
            registration = await client.registration_tokens.create(
                name, max_uses=max_uses, expires_in=lifetime
            )
            made, secret, until = registration, registration["token"], registration["expires_at"]
        else:
            token = await client.tokens.create(
                name, expires_in=lifetime, role=role.value if role else None, projects=project or None
            )
            made, secret, until = token, token["token"], token["expires_at"]
    if session.out.structured:
        session.out.document(made)
        return
    session.out.line(secret)
    session.out.note(f"Valid until {until}. It is not shown again." if until else "It is not shown again.")


async def list_tokens(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100,
    agent: Agent = False,
    login: Login = False,
    user: User = "",
) -> None:
    """List tokens, without their secrets."""
    from pilothouse.client.paging import collect

    _check(agent, login, user)
    if login:
        await _list_logins(session, limit, user)
        return
    async with session.client() as client:
        if agent:
            registrations = await collect(client.registration_tokens.page, limit)
        else:
            tokens = await collect(client.tokens.page, limit)
    if session.out.structured:
        session.out.document(list(registrations if agent else tokens))
    elif agent:
        rows = [(r["id"], r["description"], r["expires_at"] or "never") for r in registrations]
        session.out.table(("ID", "FOR", "EXPIRES"), rows, "No registration tokens.")
    else:
        shown = [
            (t["id"], t["name"], t["role"] or "(yours)", t["created_at"], t["expires_at"] or "never")
            for t in tokens
        ]
        session.out.table(("ID", "NAME", "ROLE", "CREATED", "EXPIRES"), shown, "No API tokens.")


async def _list_logins(session: Session, limit: int, user: str) -> None:
    from pilothouse.client.paging import collect

    async with session.client() as client:
        logins = await collect(lambda number, size: client.logins.page(number, size, user=user), limit)
    if session.out.structured:
        session.out.document(list(logins))
        return
    now = time.time()
    rows = [
        (
            each["id"] + (" (this one)" if each["current"] else ""),
            each["user"],
            each["created_at"],
            ago(each["last_used_at"], now),
            each["address"],
            each["user_agent"],
        )
        for each in logins
    ]
    session.out.table(("ID", "USER", "CREATED", "USED", "ADDRESS", "CLIENT"), rows, "No logins.")


async def revoke(
    session: Session,
    token_id: Annotated[str, typer.Argument(metavar="ID")] = "",
    agent: Agent = False,
    login: Login = False,
    others: Annotated[
        bool, typer.Option("--others", help="With --login: all logins but the one in use.")
    ] = False,
    user: User = "",
) -> None:
    """Revoke a token and close the streams opened with it."""
    _check(agent, login, user)
    if others and not login:
        raise UsageError("--others requires --login")
    if others == bool(token_id) or (user and not others):
        raise UsageError("give the ID of a token, or --login --others" + (" --user NAME" if user else ""))
    async with session.client() as client:
        if others:
            count = await client.logins.end_others(user=user)
            session.out.say(f"Ended {count} login{'' if count == 1 else 's'}.")
            return
        if agent:
            await client.registration_tokens.revoke(token_id)
        elif login:
            await client.logins.end(token_id)
        else:
            await client.tokens.revoke(token_id)
    session.out.say(f"Revoked {token_id}.")


def _check(agent: bool, login: bool, user: str) -> None:
    """Raises UsageError for options that exclude each other."""
    if agent and login:
        raise UsageError("--agent and --login exclude each other")
    if user and not login:
        raise UsageError("--user requires --login")


command(app, "create")(create)
command(app, "list")(list_tokens)
command(app, "revoke")(revoke)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="token")
