"""``pilot project``, and ``--project`` of other commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli import native
from pilothouse.cli.errors import CliError, UsageError
from pilothouse.cli.login import confirm_deletion
from pilothouse.cli.session import Group, Session, command

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.client.types import Project

app = typer.Typer(cls=Group, help="Projects and their members.", no_args_is_help=True)

ProjectName = Annotated[
    str,
    typer.Option("--project", metavar="NAME", help="Name or id of the project. [default: default project]"),
]
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id of a project.")]
UserArgument = Annotated[str, typer.Argument(metavar="USER", help="Name or id of a user.")]

_MANY = 10_000


async def project_id(client: PilotClient, given: str) -> str:
    """The id of a project by name or id; without a name, of the default or only one. Raises CliError."""
    return (await _find(client, given))["projectId"]


async def project_names(client: PilotClient) -> dict[str, str]:
    """The names of visible projects by id."""
    from pilothouse.client.paging import collect

    return {p["projectId"]: p["name"] for p in await collect(client.projects.page, _MANY)}


async def _find(client: PilotClient, given: str) -> Project:
    from pilothouse.client.paging import collect

    projects = await collect(client.projects.page, _MANY)
    if given:
        found = [p for p in projects if given in (p["projectId"], p["name"])]
    else:
        found = [p for p in projects if p["isDefault"]] or (list(projects) if len(projects) == 1 else [])
    if found:
        return found[0]
    known = ", ".join(sorted(p["name"] for p in projects)) or "none visible to you"
    if given:
        raise CliError(f"there is no project {given!r} (known: {known})")
    raise CliError(f"no project is given (known: {known})", hint="--project NAME")


async def tenant_id(client: PilotClient, given: str) -> str:
    """The id of a tenant by name or id; without a name empty. Raises CliError."""
    from pilothouse.client.paging import collect

    if not given:
        return ""
    tenants = await collect(client.tenants.page, _MANY)
    found = next((t for t in tenants if given in (t["tenantId"], t["name"])), None)
    if found is None:
        known = ", ".join(sorted(t["name"] for t in tenants)) or "none visible to you"
        raise CliError(f"there is no tenant {given!r} (known: {known})")
    return found["tenantId"]


async def list_projects(
    session: Session, limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100
) -> None:
    """List your projects by name; operators and admins see all."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        projects = [native.project(each) for each in await collect(client.projects.page, limit)]
    if session.out.structured:
        session.out.document(projects)
        return
    rows = [
        (p["name"], p["id"], len(p["members"]), "yes" if p["default"] else "", p["description"])
        for p in projects
    ]
    session.out.table(("NAME", "ID", "MEMBERS", "DEFAULT", "DESCRIPTION"), rows, "No projects.")


async def view(session: Session, project: ProjectArgument) -> None:
    """Show a project and its members."""
    async with session.client() as client:
        found = native.project(await _find(client, project))
    if session.out.structured:
        session.out.document(found)
        return
    pairs = [("name", found["name"]), ("id", found["id"]), ("description", found["description"])]
    pairs += [("default", "yes" if found["default"] else ""), ("created", found["created_at"])]
    pairs += [("members", ", ".join(m["username"] for m in found["members"]) or "none")]
    session.out.fields(pairs)


async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the project.")],
    description: Annotated[str, typer.Option(help="Description.")] = "",
    member: Annotated[
        list[str] | None, typer.Option(metavar="USER", help="Member to add; repeatable.")
    ] = None,
) -> None:
    """Create a project (admins)."""
    async with session.client() as client:
        made = await client.projects.create(name, description=description, members=member or ())
    _show_project(session, made, f"Project {made['name']} is created.")


async def update(
    session: Session,
    project: ProjectArgument,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    description: Annotated[str | None, typer.Option(help="New description.")] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name or id of its tenant; empty: none.")
    ] = None,
) -> None:
    """Change a project's name, description or tenant (admins)."""
    if name is None and description is None and tenant is None:
        raise UsageError("nothing to change: use --name, --description or --tenant")
    async with session.client() as client:
        id = await project_id(client, project)
        home = None if tenant is None else await tenant_id(client, tenant)
        changed = await client.projects.update(id, name=name, description=description, tenant=home)
    _show_project(session, changed, f"Project {changed['name']} is changed.")


async def delete(
    session: Session,
    project: ProjectArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a project with its pipelines, triggers, secrets and uploads (admins)."""
    async with session.client() as client:
        found = await _find(client, project)
        confirm_deletion(f"project {found['name']} with its pipelines, triggers, secrets and uploads", yes)
        gone = await client.projects.delete(found["projectId"])
    if session.out.structured:
        session.out.document({"id": gone["projectId"], "name": gone["name"]})
    session.out.say(f"Project {gone['name']} is deleted.")


async def list_members(
    session: Session,
    project: ProjectArgument,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100,
) -> None:
    """List the members of a project by name, with their roles."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        id = await project_id(client, project)
        found = await collect(lambda number, size: client.projects.members(id, number, size), limit)
    if session.out.structured:
        session.out.document([native.member(each) for each in found])
        return
    rows = [(m["username"], m["role"], "yes" if m["active"] else "no", m["userId"]) for m in found]
    session.out.table(("NAME", "ROLE", "ACTIVE", "ID"), rows, "No members.")


async def add_member(session: Session, project: ProjectArgument, user: UserArgument) -> None:
    """Add a member to a project (admins). Takes effect immediately."""
    async with session.client() as client:
        changed = await client.projects.add_member(await project_id(client, project), user)
    _show_project(session, changed, f"{user} is in project {changed['name']}.")


async def remove_member(session: Session, project: ProjectArgument, user: UserArgument) -> None:
    """Remove a member from a project (admins). Takes effect immediately and closes open streams."""
    async with session.client() as client:
        changed = await client.projects.remove_member(await project_id(client, project), user)
    _show_project(session, changed, f"{user} is no longer in project {changed['name']}.")


def _show_project(session: Session, project: Project, words: str) -> None:
    if session.out.structured:
        session.out.document(native.project(project))
    session.out.say(words)


command(app, "list")(list_projects)
command(app, "view")(view)
command(app, "create")(create)
command(app, "update")(update)
command(app, "delete")(delete)
command(app, "members")(list_members)
command(app, "add-member")(add_member)
command(app, "remove-member")(remove_member)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="project")
