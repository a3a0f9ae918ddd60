"""``pilot whoami``: the current server, user and role."""

from __future__ import annotations

import typer

from pilothouse.cli.project import project_names
from pilothouse.cli.session import Session, command


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "whoami")(whoami)


async def whoami(session: Session) -> None:
    """Show the current server and user."""
    target = session.target()
    async with session.client() as client:
        me = await client.auth.me()
        names = await project_names(client)
    token = me["token"]
    if session.out.structured:
        projects = [{"id": id, "name": names.get(id, "")} for id in me["projects"]]
        session.out.document(
            {"server": target.server, "context": target.name or None, **me, "projects": projects}
        )
        return
    everywhere = me["role"] in ("admin", "operator")
    inside = ", ".join(sorted(names.get(id, id) for id in me["projects"])) or "none"
    limited = f"{me['role']} (this token: {token['role']})" if token["role"] != me["role"] else me["role"]
    session.out.fields(
        [
            ("user", me["username"]),
            ("role", limited),
            ("email", me["email"]),
            ("projects", "all" if everywhere and token["role"] == me["role"] else inside),
            ("server", target.server),
            ("context", target.name or "none"),
            ("token ends", token["expires_at"] or "never"),
        ]
    )
