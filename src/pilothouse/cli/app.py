"""The tree of commands. Servers, agents and HTTP are imported by the commands that need them: help is fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pilothouse import __version__
from pilothouse.cli import (
    agent,
    config,
    init,
    lint,
    login,
    pipeline,
    project,
    secret,
    server,
    token,
    up,
    user,
    whoami,
)
from pilothouse.cli.errors import ExitCode
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

app = typer.Typer(
    name="pilot",
    help="One control plane for everything that runs on a fleet of machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    output: OutputOption = None,
    no_color: NoColorOption = False,
    server: ServerOption = None,
    token: TokenOption = None,
    context: ContextOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """One control plane for everything that runs on a fleet of machines."""
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
whoami.add_to(app)
app.add_typer(user.app, name="user")
app.add_typer(project.app, name="project")
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
    try:
        try:
            code = app(prog_name="pilot", standalone_mode=False)
        finally:
            sys.stdout.flush()  # here, where what goes wrong can be said
    except Exception as error:
        from pilothouse.cli.failures import explain

        return explain(error)
    return code or ExitCode.OK
