"""The tree of commands. Servers, agents and HTTP are imported by the commands that need them: help is fast."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from pilothouse import __version__
from pilothouse.cli import agent, config, init, lint, login, pipeline, secret, server, token, up
from pilothouse.cli.errors import CliError, ExitCode
from pilothouse.cli.output import Output, unwritten
from pilothouse.cli.run import app as runs
from pilothouse.cli.session import (
    Common,
    ContextOption,
    NoColorOption,
    OutputOption,
    ServerOption,
    Session,
    TokenOption,
    command,
)
from pilothouse.cli.text import safe

app = typer.Typer(
    name="pilot",
    help="One control plane for everything that runs on a fleet of machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    ctx: typer.Context,
    output: OutputOption = None,
    no_color: NoColorOption = False,
    server: ServerOption = None,
    token: TokenOption = None,
    context: ContextOption = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """One control plane for everything that runs on a fleet of machines."""
    if version:
        print(__version__)
        raise typer.Exit
    ctx.obj = Common(output, no_color, server, token, context)


def show_version(session: Session) -> None:
    """Print the version."""
    if session.out.structured:
        session.out.document({"version": __version__, "python": sys.version.split()[0]})
    else:
        session.out.line(f"pilot {__version__}")


up.add_to(app)
server.add_to(app)
app.add_typer(agent.app, name="agent")
login.add_to(app)
init.add_to(app)
app.add_typer(token.app, name="token")
app.add_typer(secret.app, name="secret")
lint.add_to(pipeline.app)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(runs, name="run")
app.add_typer(config.app, name="config")
command(app, "version", options=False)(show_version)


def run() -> int:
    """Run the command line; returns the exit code (errors.py), or raises SystemExit with it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no terminal is too old for what we say
    try:
        try:
            app(prog_name="pilot")
        finally:
            sys.stdout.flush()  # here, where what goes wrong can be said
    except CliError as error:
        return fail(str(error), error.exit_code, error.hint)
    except Exception as error:
        code = _expected(error)
        if code is None:
            raise
        return code
    return ExitCode.OK


def _expected(error: Exception) -> int | None:
    """Say what the client's errors mean; ``None`` for what nobody foresaw."""
    from pilothouse.client import ApiProblem, BadAddress, ClientError, Unreachable

    match error:
        case OSError():
            meant = unwritten(error)
            return fail(str(meant), meant.exit_code) if isinstance(meant, CliError) else None
        case Unreachable():
            hint = "is the server running? start one with `pilot up`" if error.refused else ""
            return fail(str(error), ExitCode.UNREACHABLE, hint)
        case ApiProblem(status=401):
            return fail(
                f"{error.message} ({error.code})", ExitCode.NOT_AUTHORIZED, "log in with `pilot login SERVER`"
            )
        case ApiProblem():
            code = ExitCode.NOT_AUTHORIZED if error.status == 403 else ExitCode.ERROR
            request = f"; request {error.request_id}" if error.status >= 500 and error.request_id else ""
            return fail(f"{error.message} ({error.code}{request})", code)
        case BadAddress():
            return fail(str(error), ExitCode.USAGE)
        case ClientError():
            return fail(f"{error} ({error.code})", ExitCode.ERROR)
    return None


def fail(message: str, code: int, hint: str = "") -> int:
    """Say on stderr what went wrong, if that is to be said, and give back the exit code."""
    if not message:
        return code
    out = Output(colour="--no-color" not in sys.argv)
    out.say("error: " + "\n".join(safe(line) for line in message.splitlines()), "red")
    if hint:
        out.note(f"hint: {hint}")
    return code
