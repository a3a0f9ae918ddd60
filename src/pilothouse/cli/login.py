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
"""Bytes read from stdin at most; a server takes far less."""


def add_to(app: typer.Typer) -> None:
    """The commands of this file."""
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
    context: Annotated[str, typer.Option("--context", metavar="NAME", help="Save it under this name.")] = "",
    grpc: Annotated[
        str,
        typer.Option("--grpc", metavar="HOST:PORT", help="The server's gRPC address; saved with the login."),
    ] = "",
) -> None:
    """Log in to a server and remember it."""
    from pilothouse.client import ApiProblem, PilotClient

    async with PilotClient(server, product=PRODUCT) as client:
        username = username or ask("Username")
        password = read_secret(f"Password of {username}", from_stdin=password_stdin)
        try:
            granted = await client.auth.login(username, password)
        except ApiProblem as refusal:
            if refusal.status == 401:
                raise CliError("the username or the password is wrong", ExitCode.NOT_AUTHORIZED) from None
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
    """End the login and forget its token."""
    from pilothouse.client import ApiProblem, Unreachable

    target = session.target()
    if target.token:
        async with session.client() as client:
            try:
                await client.auth.logout()
            except ApiProblem as refusal:
                if refusal.status != 401:  # it has ended already
                    raise
            except Unreachable as error:
                session.out.say(
                    f"warning: {error}; the token is forgotten here, but the server was not told", "yellow"
                )
    if target.name:
        session.contexts.forget_token(target.name)
    session.out.say(f"Logged out of {target.server}.")


def ask(question: str) -> str:
    """Ask on the terminal. Raises UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question.lower()} is missing, and there is no terminal to ask on")
    return str(typer.prompt(question, err=True))


def read_secret(question: str, *, from_stdin: bool, confirm: bool = False) -> str:
    """A secret from a hidden prompt, or from stdin, whose one last newline is not part of it.

    Without a terminal stdin is read even if not asked for: a secret never comes as an argument.
    ``confirm``: a prompt asks twice.
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
