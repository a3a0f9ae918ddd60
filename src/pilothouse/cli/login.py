"""``pilot login`` and ``pilot logout``."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from pilothouse.cli.context import Context
from pilothouse.cli.errors import CliError, ExitCode, UsageError
from pilothouse.cli.session import PRODUCT, Session, command

_MAX_SECRET = 1 << 20
"""Maximum bytes read from stdin; far above the limit of the server."""


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "login", options=False)(login)
    command(app, "logout")(logout)


async def login(
    session: Session,
    server: Annotated[
        str, typer.Argument(metavar="SERVER", help="Address of the server, such as http://127.0.0.1:8080.")
    ],
    username: Annotated[str, typer.Option("--username", "-u", help="User name.")] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin.")
    ] = False,
    context: Annotated[str, typer.Option("--context", metavar="NAME", help="Name of the context.")] = "",
    grpc: Annotated[
        str,
        typer.Option("--grpc", metavar="HOST:PORT", help="gRPC address of the server; saved in the context."),
    ] = "",
) -> None:
    """Log in to a server and save the login as a context."""
    from pilothouse.client import ApiProblem, PilotClient

    async with PilotClient(server, product=PRODUCT) as client:
        username = username or ask("Username")
        password = read_secret(f"Password of {username}", from_stdin=password_stdin)
        try:
            granted = await client.auth.login(username, password)
        except ApiProblem as refusal:
            if refusal.status == 401:
                raise CliError("invalid username or password", ExitCode.NOT_AUTHORIZED) from None
            raise
        saved = Context(context or urlsplit(client.server).netloc, client.server, granted["token"], grpc)
    session.contexts.save(saved)
    user = granted["user"]
    if session.out.structured:
        session.out.document({"context": saved.name, "server": saved.server, "user": user})
    session.out.say(
        f"Logged in to {saved.server} as {user['username']} ({user['role']}); context {saved.name!r}."
    )


async def logout(session: Session) -> None:
    """Log out: revoke the token and remove it from the context."""
    from pilothouse.client import ApiProblem, Unreachable

    target = session.target()
    if target.token:
        async with session.client() as client:
            try:
                await client.auth.logout()
            except ApiProblem as refusal:
                if refusal.status != 401:  # already revoked
                    raise
            except Unreachable as error:
                session.out.say(
                    f"warning: {error}; the token is removed here but not revoked on the server", "yellow"
                )
    if target.name:
        session.contexts.forget_token(target.name)
    session.out.say(f"Logged out of {target.server}.")


def ask(question: str) -> str:
    """Prompt on the terminal. Raises UsageError without a terminal."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question.lower()} is missing and there is no terminal for a prompt")
    return str(typer.prompt(question, err=True))


def read_secret(question: str, *, from_stdin: bool, confirm: bool = False) -> str:
    """Read a secret from a hidden prompt, or from stdin without one trailing newline.

    Without a terminal stdin is always read: a secret is never an argument.
    ``confirm``: prompt twice.
    """
    if from_stdin or not sys.stdin.isatty():
        data = sys.stdin.buffer.read(_MAX_SECRET + 1)
        if len(data) > _MAX_SECRET:
            raise UsageError(f"{question.lower()}: stdin holds over {_MAX_SECRET >> 10} KiB")
        try:
            return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UsageError(f"{question.lower()}: stdin is not UTF-8 text") from None
    return str(typer.prompt(question, hide_input=True, err=True, confirmation_prompt=confirm))


def confirm_deletion(what: str, yes: bool) -> None:
    """Ask whether to delete something, unless ``yes``. Raises :class:`UsageError` without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"--yes is needed to delete {what} without a terminal")
    typer.confirm(f"Delete {what}?", abort=True, err=True)
