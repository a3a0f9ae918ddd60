"""``pilot setting``: settings of the server, and those that change while it runs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from pilothouse.cli import native
from pilothouse.cli.errors import UsageError
from pilothouse.cli.session import Group, Session, command

app = typer.Typer(cls=Group, help="Settings of the server (admins).", no_args_is_help=True)


async def list_settings(
    session: Session,
    all: Annotated[bool, typer.Option("--all", help="Also settings that need a restart.")] = False,
) -> None:
    """List settings that can change while the server runs, and where each value comes from."""
    async with session.client() as client:
        found = await client.settings.all()
    settings = [native.setting(each) for each in found["settings"] if all or each["changeable"]]
    if session.out.structured:
        session.out.document(settings)
        return
    rows = [(s["name"], _words(s["value"]), s["from"], s["changed_by"]) for s in settings]
    session.out.table(("SETTING", "VALUE", "FROM", "BY"), rows, "")


async def set_settings(
    session: Session,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTING", help="Name and value (NAME=VALUE); repeatable."),
    ] = None,
) -> None:
    """Change settings at once, for all servers of the database, until they are reset."""
    if not values:
        raise UsageError("name a setting and its value: ratelimit_default=200/minute")
    changes = dict(_pair(each) for each in values)
    await _change(session, changes, "changed")


async def reset(
    session: Session,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names of settings.")] = None,
) -> None:
    """Undo changes: the values of the server's start are in force again."""
    if not names:
        raise UsageError("name a setting; those that were changed: pilot setting list")
    await _change(session, dict.fromkeys(names), "reset")


async def _change(session: Session, changes: dict[str, Any], done: str) -> None:
    async with session.client() as client:
        found = await client.settings.change(changes)
    changed = [native.setting(each) for each in found["settings"] if each["name"] in changes]
    if session.out.structured:
        session.out.document(changed)
        return
    for each in changed:
        session.out.say(f"Setting {each['name']} is {done}: {_words(each['value'])}")


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"not NAME=VALUE: {text}")
    try:
        number = json.loads(value)
    except ValueError:
        return name, value
    return name, number if isinstance(number, int | float) and not isinstance(number, bool) else value


def _words(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


command(app, "list")(list_settings)
command(app, "set")(set_settings)
command(app, "reset")(reset)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="setting")
