"""The command tree. Commands import server, agent and HTTP modules when they run, so that ``--help`` is fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from pilothouse import __version__
from pilothouse.cli.errors import ExitCode
from pilothouse.cli.session import (
    Common,
    ContextOption,
    Group,
    NoColorOption,
    OutputOption,
    ServerOption,
    Session,
    TokenOption,
    command,
)

_MODULES = {
    "up": "up",
    "server": "server",
    "agent": "agent",
    "login": "login",
    "logout": "login",
    "whoami": "whoami",
    "user": "user",
    "project": "project",
    "tenant": "tenant",
    "init": "init",
    "token": "token",
    "secret": "secret",
    "pipeline": "pipeline",
    "run": "run",
    "artifact": "artifact",
    "trigger": "trigger",
    "setting": "setting",
    "config": "config",
    "version": "app",
}
"""Top-level command names and the module whose ``add_to`` registers them."""

_WITH_VALUE = frozenset({"-o", "--output", "--server", "--token", "--context"})


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


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
    """Self-hosted control plane for work on a fleet of machines."""
    ctx.obj = Common(output, no_color, server, token, context)


def show_version(session: Session) -> None:
    """Print the version."""
    if session.out.structured:
        session.out.document({"version": __version__, "python": sys.version.split()[0]})
    else:
        session.out.line(f"pilot {__version__}")


def add_to(root: typer.Typer) -> None:
    """Add the command of this module."""
    command(root, "version", options=False)(show_version)


def build(first: str = "") -> typer.Typer:
    """Build the command tree; only the top-level command ``first``, if it exists, since building all is slow."""
    root = typer.Typer(
        name="pilot",
        cls=Group,
        help="Self-hosted control plane for work on a fleet of machines.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(options)
    wanted = [_MODULES[first]] if first in _MODULES else list(dict.fromkeys(_MODULES.values()))
    for name in wanted:
        import_module(f"pilothouse.cli.{name}").add_to(root)
    return root


def first_word(words: Sequence[str]) -> str:
    """The top-level command name on a command line; empty if there is none."""
    following = iter(words)
    for word in following:
        if not word.startswith("-"):
            return word
        if word in _WITH_VALUE:
            next(following, None)
    return ""


def run() -> int:
    """Run the command line; returns the exit code (errors.py), or raises SystemExit with it."""
    try:
        try:
            code = build(first_word(sys.argv[1:]))(prog_name="pilot", standalone_mode=False)
        finally:
            sys.stdout.flush()  # imported here, where errors are reported
    except Exception as error:
        from pilothouse.cli.failures import explain

        return explain(error)
    return code or ExitCode.OK
