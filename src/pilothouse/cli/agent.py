"""``pilot agent``: runs an agent; the subcommands (``list``, ``view``, ``rm``, ``drain``, …) manage agents."""

from __future__ import annotations

import os
import socket
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from pilothouse.cli import agent_token
from pilothouse.cli.durations import seconds
from pilothouse.cli.errors import NotLoggedIn, UsageError
from pilothouse.cli.handover import checked_token, read_token, reexecute
from pilothouse.cli.imports import GRPC_SERVICES, process_imports
from pilothouse.cli.project import project_names
from pilothouse.cli.server import prepare_data_dir
from pilothouse.cli.session import Common, Group, Session, command
from pilothouse.cli.sizes import size_of
from pilothouse.cli.text import ago

if TYPE_CHECKING:
    from pilothouse.agent.settings import AgentSettings
    from pilothouse.client.types import Agent

app = typer.Typer(
    cls=Group, help="Run an agent on this machine, or manage agents.", invoke_without_command=True
)

AgentName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]


class Platform(StrEnum):
    """Executor of an agent."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


def _env(name: str, *more: str) -> list[str]:
    return [f"PILOT_{each}" for each in (*more, name)]


@app.callback()
def agent(
    ctx: typer.Context,
    server: Annotated[str, typer.Option(metavar="URL", envvar=_env("SERVER"), help="Server URL.")] = "",
    grpc: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar=_env("GRPC"),
            help="gRPC address of the server. [default: port 9090 of its host]",
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            envvar=_env("TOKEN", "AGENT_TOKEN"),
            show_envvar=True,
            help="Registration token; required on first start only.",
        ),
    ] = "",
    token_file: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar=_env("TOKEN_FILE"),
            help="Read the registration token from this file; - for stdin.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(metavar="ID", envvar=_env("NAME"), help="Name of the agent. [default: host name]")
    ] = "",
    platform: Annotated[
        Platform,
        typer.Option(envvar=_env("PLATFORM"), help="Executor for steps; only process in this release."),
    ] = Platform.PROCESS,
    region: Annotated[str, typer.Option(envvar=_env("REGION"), help="Region of the agent.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", envvar=_env("LABEL"), help="Label of the agent (KEY=VALUE); repeatable."),
    ] = None,
    slots: Annotated[
        int,
        typer.Option(min=0, envvar=_env("SLOTS"), help="Maximum number of concurrent steps; 0: one per CPU."),
    ] = 0,
    max_sessions: Annotated[
        int,
        typer.Option(min=0, envvar=_env("MAX_SESSIONS"), help="Desktop sessions; no effect in this release."),
    ] = 0,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("DATA_DIR"), help="Data directory of the agent. [default: .pilothouse/agent-NAME]"
        ),
    ] = None,
    run_as: Annotated[
        str,
        typer.Option(metavar="USER", envvar=_env("RUN_AS"), help="Run steps as this user; requires root."),
    ] = "",
    pass_env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            envvar=_env("PASS_ENV"),
            help="Pass this environment variable to steps even if its name looks secret; repeatable.",
        ),
    ] = None,
    grpc_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar=_env("GRPC_CA"), help="CA certificates for gRPC and HTTPS (PEM)."
        ),
    ] = None,
    linger: Annotated[
        float | None,
        typer.Option(
            min=1, envvar=_env("LINGER"), help="Exit after this many seconds idle and disconnected."
        ),
    ] = None,
    ephemeral: Annotated[
        bool,
        typer.Option(
            "--ephemeral",
            envvar=_env("EPHEMERAL"),
            help="Unregister the agent after it has been offline for 10 minutes.",
        ),
    ] = False,
    workspace_keep: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            envvar=_env("WORKSPACE_KEEP"),
            help="How long an unused workspace is kept, for gates and reruns.",
        ),
    ] = "24h",
    object_cache: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            envvar=_env("OBJECT_CACHE"),
            help="Maximum size of the git object cache.",
        ),
    ] = "10GiB",
    max_checkout: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            envvar=_env("MAX_CHECKOUT"),
            help="Maximum size of a checkout archive or pack.",
        ),
    ] = "256MiB",
    max_artifact: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            envvar=_env("MAX_ARTIFACT"),
            help="Maximum size of an artifact, packed and unpacked.",
        ),
    ] = "5GiB",
) -> None:
    """Run an agent on this machine, or manage agents."""
    if ctx.invoked_subcommand:
        ctx.obj = Common(server=server or None, token=token or None).over(ctx.obj or Common())
        return
    cache, largest = (
        size_of(object_cache, "--object-cache ", least=0),
        size_of(max_checkout, "--max-checkout "),
    )
    kept = seconds(workspace_keep) or 0
    if kept < 1:
        raise UsageError(f"--workspace-keep {workspace_keep!r}: at least 1s")
    session = Session.of(ctx.obj or Common())
    given = "" if token_file else token or session.common.token or ""
    token = checked_token(given, "--token") if given else ""
    reexecute(token)
    from pilothouse.agent.settings import AgentSettings

    address = _server(session, server)
    own = name or socket.gethostname().split(".", 1)[0]
    home = _home(data_dir, own)
    settings = AgentSettings(
        server=address,
        grpc=grpc or _grpc_at(address),
        token=_registration_token(token, token_file, home) or None,
        agent_id=own,
        name=own,
        platform=platform.value,
        region=region,
        labels=labels_of(label or []),
        slots=slots or os.cpu_count() or 1,
        max_sessions=max_sessions,
        data_dir=home,
        run_as=run_as or None,
        pass_env=tuple(pass_env or ()),
        grpc_ca=grpc_ca,
        linger=linger,
        ephemeral=ephemeral,
        workspace_keep=kept,
        object_cache=cache,
        max_checkout=largest,
        max_artifact=size_of(max_artifact, "--max-artifact "),
    )
    raise typer.Exit(_work(settings))


def _home(given: Path | None, name: str) -> Path:
    """The agent's directory, created if missing. The default one is excluded from git."""
    if given is None:
        prepare_data_dir(Path(".pilothouse"))
    return (given or Path(".pilothouse") / f"agent-{name}").absolute()


def _grpc_at(address: str) -> str:
    host = urlsplit(address).hostname or ""
    return f"[{host}]:9090" if ":" in host else f"{host}:9090"


def _registration_token(token: str, file: str, home: Path) -> str:
    """The registration token. A missing token file is an error only if the agent is not registered yet."""
    if not file:
        return token
    if file != "-" and (home / "credential").exists() and not Path(file).exists():
        return ""
    return read_token(file)


def _server(session: Session, given: str) -> str:
    from pilothouse.client import server_address

    server = given or session.common.server
    if server:
        return server_address(server)
    saved = session.contexts.load().get(session.common.context or "")
    if saved is None:
        raise NotLoggedIn("no server is given; use --server")
    return saved.server


def labels_of(pairs: list[str]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` pairs. Raises UsageError."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--label {pair!r}: expected KEY=VALUE")
        labels[key] = value
    return labels


def _work(settings: AgentSettings) -> int:
    with process_imports(*GRPC_SERVICES):
        import uvloop

        from pilothouse.agent.main import run

    return uvloop.run(run(settings))


async def list_agents(
    session: Session,
    platform: Annotated[str, typer.Option(help="Filter by platform.")] = "",
    status: Annotated[str, typer.Option(help="Filter by status: online, offline or draining.")] = "",
    region: Annotated[str, typer.Option(help="Filter by region.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of results.")] = 100,
) -> None:
    """List agents by name."""
    from pilothouse.client.paging import collect

    async with session.client() as client:
        agents = await collect(
            lambda number, size: client.agents.page(
                number, size, platform=platform, status=status, region=region
            ),
            limit,
        )
        names = await project_names(client) if any(agent.get("projects") for agent in agents) else {}
    if session.out.structured:
        session.out.document(list(agents))
        return
    bound = any(agent.get("projects") for agent in agents)
    rows = [
        (
            a["agent_id"],
            a["platform"],
            _status(a),
            _busy(a),
            *([_projects(a, names)] if bound else []),
            _labels(a),
        )
        for a in agents
    ]
    columns = ("NAME", "PLATFORM", "STATUS", "BUSY", *(("PROJECTS",) if bound else ()), "LABELS")
    session.out.table(columns, rows, "No agents.")


async def view(session: Session, name: AgentName) -> None:
    """Show an agent."""
    import time

    async with session.client() as client:
        found = await client.agents.get(name)
        names = await project_names(client) if found.get("projects") else {}
    if session.out.structured:
        session.out.document(found)
        return
    heartbeat = ago(found["last_heartbeat"], time.time())
    pairs = [("name", found["agent_id"]), ("platform", found["platform"]), ("region", found["region"])]
    pairs += [("status", _status(found)), ("busy", f"{_busy(found)} slots"), ("labels", _labels(found))]
    pairs += [("projects", _projects(found, names) or "all"), ("may have labels", _allowed(found))]
    pairs += [("ephemeral", "yes" if found.get("ephemeral") else ""), ("registered", _origin(found))]
    pairs += [("last heartbeat", heartbeat), *sorted(found["metadata"].items())]
    pairs += [("degraded", reason) for reason in found.get("degraded", [])]
    session.out.fields(pairs)


async def drain(session: Session, name: AgentName) -> None:
    """Stop assigning new work to an agent; its current work finishes."""
    async with session.client() as client:
        await client.agents.set_status(name, "draining")
    session.out.say(f"Agent {name} is draining.")


async def undrain(session: Session, name: AgentName) -> None:
    """Resume assigning work to an agent."""
    async with session.client() as client:
        await client.agents.set_status(name, "online")
    session.out.say(f"Agent {name} is no longer draining.")


async def remove(session: Session, name: AgentName) -> None:
    """Remove an agent: its token is revoked and its current work is lost."""
    async with session.client() as client:
        await client.agents.remove(name)
    session.out.say(f"Agent {name} is removed.")


def _projects(agent: Agent, names: dict[str, str]) -> str:
    return ", ".join(names.get(id, id) for id in agent.get("projects") or ())


def _allowed(agent: Agent) -> str:
    allowed = agent.get("allowed_labels")
    return "" if allowed is None else ", ".join(allowed) or "none of its own"


def _origin(agent: Agent) -> str:
    token = agent.get("registered_by")
    if not token:
        return ""
    what = f" ({token['description']})" if token["description"] else ""
    return f"with token {token['token_id']}{what} of {token['created_by']}"


def _status(agent: Agent) -> str:
    return f"{agent['status']}, degraded" if agent.get("degraded") else agent["status"]


def _busy(agent: Agent) -> str:
    capacity = agent["capacity"]
    return f"{capacity['busy']}/{capacity['slots']}"


def _labels(agent: Agent) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(agent["labels"].items()))


command(app, "list")(list_agents)
command(app, "view")(view)
command(app, "rm")(remove)
command(app, "drain")(drain)
command(app, "undrain")(undrain)
app.add_typer(agent_token.app, name="token")


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="agent")
