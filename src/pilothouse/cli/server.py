"""``pilot server``, and options shared with ``pilot up``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilothouse.cli.durations import seconds
from pilothouse.cli.errors import CliError, UsageError, plain
from pilothouse.cli.imports import deferred_models, process_imports
from pilothouse.cli.output import Output
from pilothouse.cli.session import Common, Group, Session, command
from pilothouse.wire.times import rfc3339

if TYPE_CHECKING:
    from pilothouse.server.settings import Settings

Host = Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")]
Port = Annotated[
    int | None, typer.Option(help="Port for HTTP, SSE and WebSocket; 0: any free port. [default: 8080]")
]
GrpcPort = Annotated[int | None, typer.Option(help="Port for gRPC; 0: any free port. [default: 9090]")]
DataDir = Annotated[Path | None, typer.Option(help="Data directory. [default: .pilothouse]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")]
TlsCert = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate for HTTP and gRPC (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="Private key of the certificate (PEM).")]
LogFormat = Annotated[str | None, typer.Option(metavar="auto|console|json", help="Level of the server log.")]
LogLevel = Annotated[
    str | None, typer.Option(metavar="debug|info|warning|error", help="Level of the server log.")
]


app = typer.Typer(
    cls=Group, help="Run a server, or maintain its data directory.", invoke_without_command=True
)


@app.callback()
def run_server(
    ctx: typer.Context,
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
    """Run a server. Settings can also be given as environment variables PILOT_<NAME> or in the --config file."""
    if ctx.invoked_subcommand:
        return
    settings = server_settings(
        Session.of(ctx.obj or Common()).out,
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
    with process_imports(), deferred_models():
        import uvloop

        from pilothouse.server.main import serve

    prepare_data_dir(settings.data_dir)
    raise typer.Exit(uvloop.run(serve(settings)))


def rotate_keys(
    session: Session,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    active_in: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="When the key is used. [default: at once; with PostgreSQL in 10m]"
        ),
    ] = "",
) -> None:
    """Rotate the key of a server, which may be running. Secrets and logins stay valid."""
    settings = server_settings(session.out, data_dir=data_dir, config=config)
    delay = seconds(active_in)
    from pilothouse.server.maintenance import MaintenanceFailed
    from pilothouse.server.maintenance import rotate_keys as rotate

    try:
        done = rotate(settings, delay)
    except MaintenanceFailed as error:
        raise CliError(str(error)) from None
    at = rfc3339(done.active_from)
    if session.out.structured:
        session.out.document({"key": done.key_id, "active_from": at, "renewed": done.renewed})
        return
    session.out.say(f"New key {done.key_id}, in use from {at}; {done.renewed} secrets are encrypted with it.")
    if settings.database_url:
        session.out.say(f"Copy {settings.data_dir / 'server.key'} to all other servers before then.")


def new_epoch(session: Session, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Begin a new epoch of the journal after a restore. The server must be stopped; all cursors expire."""
    settings = server_settings(session.out, data_dir=data_dir, config=config)
    from pilothouse.server.maintenance import MaintenanceFailed, begin_epoch

    try:
        epoch = begin_epoch(settings)
    except MaintenanceFailed as error:
        raise CliError(str(error)) from None
    if session.out.structured:
        session.out.document({"epoch": epoch})
        return
    session.out.say(f"The journal has the new epoch {epoch}.")


command(app, "rotate-keys", options=False)(rotate_keys)
command(app, "new-epoch", options=False)(new_epoch)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="server")


def server_settings(out: Output, **options: Any) -> Settings:
    """The server's settings; options that are ``None`` were not given. Raises UsageError."""
    with process_imports():
        from pydantic import ValidationError
        from pydantic_settings import SettingsError

        from pilothouse.server.settings import Settings

    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        # The value is not shown: it may be a password.
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {plain(each['msg'])}" for each in error.errors()
        )
        raise UsageError(f"settings: {wrong}") from None
    except (SettingsError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"settings: {error}") from None
    unknown = set(file_settings(settings.config)) - set(Settings.model_fields)
    if unknown:
        out.say(f"warning: {settings.config} has unknown settings: {', '.join(sorted(unknown))}", "yellow")
    return settings


def file_settings(config: Path | None) -> Mapping[str, Any]:
    """The settings in the ``--config`` file; empty without one. Raises UsageError if it cannot be read."""
    if config is None:
        return {}
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {config}: {error.strerror}") from None


def prepare_data_dir(data_dir: Path) -> None:
    """Create the data directory with mode 0700 and exclude it from git."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = data_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "utf-8")
    except OSError as error:
        raise UsageError(f"cannot use {data_dir}: {error.strerror}") from None
