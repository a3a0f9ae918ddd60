"""``pilot tenant``: groups of projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli import native
from pilothouse.cli.errors import UsageError
from pilothouse.cli.project import tenant_id
from pilothouse.cli.session import Group, Session, command

if TYPE_CHECKING:
    from pilothouse.client.types import Tenant

app = typer.Typer(cls=Group, help="Groups of projects.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Name or id of a tenant.")]


async def list_tenants(
    session: Session, limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100
) -> None:
    """List the tenants of your projects by name; operators and admins see all."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        found = [native.tenant(each) for each in await collect(client.tenants.page, limit)]
    if session.out.structured:
        session.out.document(found)
        return
    rows = [(t["name"], t["id"], t["projects"], t["description"]) for t in found]
    session.out.table(("NAME", "ID", "PROJECTS", "DESCRIPTION"), rows, "No tenants.")


async def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the tenant.")],
    description: Annotated[str, typer.Option(help="Description.")] = "",
) -> None:
    """Create a tenant (admins). Put projects into it with pilot project update --tenant."""
    async with session.client() as client:
        made = await client.tenants.create(name, description=description)
    _show(session, made, f"Tenant {made['name']} is created.")


async def update(
    session: Session,
    tenant: TenantArgument,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    description: Annotated[str | None, typer.Option(help="New description.")] = None,
) -> None:
    """Change a tenant's name or description (admins)."""
    if name is None and description is None:
        raise UsageError("nothing to change: use --name or --description")
    async with session.client() as client:
        id = await tenant_id(client, tenant)
        changed = await client.tenants.update(id, name=name, description=description)
    _show(session, changed, f"Tenant {changed['name']} is changed.")


async def delete(session: Session, tenant: TenantArgument) -> None:
    """Delete a tenant that has no projects (admins)."""
    async with session.client() as client:
        gone = await client.tenants.delete(await tenant_id(client, tenant))
    if session.out.structured:
        session.out.document({"id": gone["tenantId"], "name": gone["name"]})
    session.out.say(f"Tenant {gone['name']} is deleted.")


def _show(session: Session, tenant: Tenant, words: str) -> None:
    if session.out.structured:
        session.out.document(native.tenant(tenant))
    session.out.say(words)


command(app, "list")(list_tenants)
command(app, "create")(create)
command(app, "update")(update)
command(app, "delete")(delete)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="tenant")
