"""``pilot up``: a server and a local agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pilothouse.cli.server import (
    ConfigFile,
    DataDir,
    GrpcPort,
    Host,
    LogFormat,
    LogLevel,
    Port,
    TlsCert,
    TlsKey,
    prepare_data_dir,
    server_settings,
)
from pilothouse.cli.session import Session, command

if TYPE_CHECKING:
    from pilothouse.server.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "up", options=False)(up)


def up(
    session: Session,
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Run a server and one agent on this machine."""
    settings = server_settings(
        session.out,
        host=host,
        port=port,
        grpc_port=grpc_port,
        data_dir=data_dir,
        config=config,
        tls_cert=tls_cert,
        tls_key=tls_key,
        log_format=log_format,
        log_level=log_level,
    )
    import uvloop

    from pilothouse.cli.local_server import LocalServer

    # Otherwise gRPC prints a warning about fork support at every start of the agent.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    settings = settings.model_copy(update={"data_dir": _data_dir(session, settings)})
    prepare_data_dir(settings.data_dir)
    raise typer.Exit(uvloop.run(LocalServer(session, settings).run()))


def _data_dir(session: Session, settings: Settings) -> Path:
    """The absolute path of the data directory, which is printed; by default the nearest one."""
    from pilothouse.cli.local_context import nearest_data_dir

    given = "data_dir" in settings.model_fields_set
    found = settings.data_dir.absolute() if given else nearest_data_dir(Path.cwd())
    above = "" if given or found.parent == Path.cwd() else " (the one of this git work tree)"
    session.out.say(f"Data directory: {found}{above}")
    return found
