"""``pilot user``: users and their roles (admins)."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated

import typer

from pilothouse.cli.errors import UsageError
from pilothouse.cli.login import read_secret
from pilothouse.cli.project import project_id
from pilothouse.cli.session import Group, Session, command
from pilothouse.cli.text import ago

app = typer.Typer(cls=Group, help="Users and their roles.", no_args_is_help=True)


class RoleName(StrEnum):
    """Role of a user; each includes the permissions of those before it."""

    VIEWER = "viewer"
    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"


UserName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of a user.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")]


async def list_users(
    session: Session,
    role: Annotated[RoleName | None, typer.Option(help="Filter by role.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Only disabled users.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100,
) -> None:
    """List users by name."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        users = await collect(
            lambda number, size: client.users.page(
                number, size, role=role.value if role else "", active=False if disabled else None
            ),
            limit,
        )
    if session.out.structured:
        session.out.document(list(users))
        return
    now = time.time()
    rows = [
        (
            u["username"],
            u["role"],
            "yes" if u.get("active", True) else "no",
            u["email"],
            ago(u.get("last_login"), now),
        )
        for u in users
    ]
    session.out.table(("NAME", "ROLE", "ACTIVE", "EMAIL", "LAST LOGIN"), rows, "No users.")


async def view(session: Session, name: UserName) -> None:
    """Show a user."""
    async with session.client() as client:
        user = await client.users.get(name)
    if session.out.structured:
        session.out.document(user)
        return
    active = "yes" if user.get("active", True) else "no"
    pairs = [("name", user["username"]), ("id", user["id"]), ("role", user["role"]), ("email", user["email"])]
    pairs += [
        ("active", active),
        ("created", user["created_at"]),
        ("last login", user.get("last_login") or "never"),
    ]
    session.out.fields(pairs)


async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Login name.")],
    role: Annotated[RoleName, typer.Option(help="Role of the user.")] = RoleName.USER,
    email: Annotated[str, typer.Option(help="Email address.")] = "",
    project: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Project to add the user to; repeatable. [default: default project]"
        ),
    ] = None,
    password_stdin: PasswordStdin = False,
) -> None:
    """Create a user. The password is read from a prompt or stdin."""
    async with session.client() as client:
        homes = [await project_id(client, each) for each in project or ()]
        password = _new_password(name, password_stdin)
        user = await client.users.create(
            name, password, role=role.value, email=email, projects=homes if project else None
        )
    if session.out.structured:
        session.out.document(user)
    session.out.say(f"User {user['username']} is created ({user['role']}).")


async def set_role(
    session: Session,
    name: UserName,
    role: Annotated[RoleName, typer.Argument(metavar="ROLE", help="viewer, user, operator or admin.")],
) -> None:
    """Change the role of a user. Takes effect immediately."""
    async with session.client() as client:
        user = await client.users.update(name, role=role.value)
    if session.out.structured:
        session.out.document(user)
    session.out.say(f"User {user['username']} is now {user['role']}.")


async def set_password(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name or id of a user. [default: yourself]")
    ] = "",
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin", help="Read from stdin; for your own: current and new password, one per line."
        ),
    ] = False,
) -> None:
    """Change your password, or any user's (admins). Other logins of the user are revoked."""
    async with session.client() as client:
        if name:
            await client.users.set_password(name, _new_password(name, password_stdin))
        else:
            current, new = _own_passwords(password_stdin)
            await client.auth.change_password(current, new)
    session.out.say(f"The password of {name} is changed." if name else "Your password is changed.")


async def disable(session: Session, name: UserName) -> None:
    """Disable a user. Logins and API tokens are revoked and streams closed; the account is kept."""
    async with session.client() as client:
        user = await client.users.update(name, active=False)
    session.out.say(f"User {user['username']} is disabled.")


async def enable(session: Session, name: UserName) -> None:
    """Enable a disabled user. Earlier tokens stay revoked."""
    async with session.client() as client:
        user = await client.users.update(name, active=True)
    session.out.say(f"User {user['username']} is enabled.")


def _new_password(name: str, from_stdin: bool) -> str:
    password = read_secret(f"New password of {name}", from_stdin=from_stdin, confirm=True)
    if not password:
        raise UsageError("a password must not be empty")
    return password


def _own_passwords(from_stdin: bool) -> tuple[str, str]:
    """Read the current and the new password. Raises UsageError."""
    if from_stdin or not sys.stdin.isatty():
        lines = read_secret("", from_stdin=True).splitlines()
        if len(lines) != 2:
            raise UsageError("expected two lines on stdin: your current password and the new one")
        return lines[0], lines[1]
    return read_secret("Current password", from_stdin=False), read_secret(
        "New password", from_stdin=False, confirm=True
    )


command(app, "list")(list_users)
command(app, "view")(view)
command(app, "create")(create)
command(app, "role")(set_role)
command(app, "password")(set_password)
command(app, "disable")(disable)
command(app, "enable")(enable)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="user")
