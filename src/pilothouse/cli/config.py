"""``pilot config``: effective server settings and saved contexts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli.server import ConfigFile, DataDir, file_settings, server_settings
from pilothouse.cli.session import Group, Session, command

if TYPE_CHECKING:
    from pilothouse.server.settings import Settings

app = typer.Typer(cls=Group, help="Settings and contexts.", no_args_is_help=True)


def show(session: Session, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Show the effective server settings and the source of each. Secrets are masked."""
    settings = server_settings(session.out, config=config, data_dir=data_dir)
    given = {"config": config, "data_dir": data_dir}
    options = {name for name, value in given.items() if value is not None}
    shown = {
        name: {"value": _plain(getattr(settings, name)), "from": source}
        for name, source in sources(settings, options).items()
    }
    if session.out.structured:
        session.out.document(shown)
        return
    rows = [(name, _words(each["value"]), each["from"]) for name, each in shown.items()]
    session.out.table(("SETTING", "VALUE", "FROM"), rows, "")


def sources(settings: Settings, options: set[str]) -> dict[str, str]:
    """Where each setting comes from: ``option``, ``environment``, ``file`` or ``default``."""
    environment = {name.upper() for name in os.environ}
    file = file_settings(settings.config)

    def source(name: str) -> str:
        if name in options:
            return "option"
        if f"PILOT_{name.upper()}" in environment:
            return "environment"
        return "file" if name in file else "default"

    return {name: source(name) for name in type(settings).model_fields}


def _plain(value: Any) -> Any:
    """JSON form of a value; secrets are masked."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return [_plain(item) for item in value] if isinstance(value, list) else str(value)


def _words(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def contexts(session: Session) -> None:
    """List contexts (saved logins)."""
    saved = session.contexts.load()
    if session.out.structured:
        session.out.document(
            [
                {
                    "name": c.name,
                    "server": c.server,
                    "logged_in": bool(c.token),
                    "current": c.name == saved.current,
                    "data_dir": c.data_dir or None,
                }
                for c in saved.all.values()
            ]
        )
        return
    rows = [
        ("*" if c.name == saved.current else "", c.name, c.server, "yes" if c.token else "no")
        for c in saved.all.values()
    ]
    session.out.table(("", "NAME", "SERVER", "LOGGED IN"), rows, "No contexts.")


def use(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a context.")]
) -> None:
    """Set the current context."""
    session.contexts.use(name)
    session.out.say(f"Switched to context {name!r}.")


command(app, "show", options=False)(show)
command(app, "contexts", options=False)(contexts)
command(app, "use", options=False)(use)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="config")
