"""The server's settings, from options, environment and TOML file (decisions.md, "Running it")."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, Field, PrivateAttr, SecretStr
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pilothouse.access.quotas import Quotas


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


MAX_DAYS = 100_000

Listed = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""A list: in the environment separated by commas, in the file a TOML array."""


class SettingsInvalid(Exception):
    """A setting has an invalid value."""


class Settings(BaseSettings):
    """All settings. Sources in order of precedence: options, ``PILOT_*`` environment, ``--config`` file."""

    model_config = SettingsConfigDict(env_prefix="PILOT_", extra="ignore", frozen=True)

    config: Path | None = Field(None, description="TOML file with any of these settings")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="HTTP, SSE and WebSocket port; 0: any free one")
    grpc_port: int = Field(9090, ge=0, le=65535, description="gRPC port; 0: any free one")
    data_dir: Path = Field(Path(".pilothouse"), description="where everything is kept")
    database_url: SecretStr | None = Field(None, description="PostgreSQL instead of the embedded SQLite")
    admin_password: SecretStr | None = Field(None, description="password of the first user, admin")
    tls_cert: Path | None = Field(None, description="certificate for HTTP and gRPC (PEM)")
    tls_key: Path | None = Field(None, description="its private key (PEM)")

    sse_keepalive: float = Field(30, gt=0, description="seconds of silence before an SSE comment")
    ws_heartbeat: float = Field(15, gt=0, description="seconds between heartbeats on run streams")
    ws_pong_wait: float = Field(30, gt=0, description="seconds a client has to answer a heartbeat")
    agent_heartbeat: float = Field(10, gt=0, description="seconds between an agent's heartbeats")
    agent_offline_after: float = Field(
        30, gt=0, description="seconds of silence after which an agent is offline"
    )
    lease: float = Field(60, gt=0, description="seconds a task's lease lasts unrenewed")
    cleanup_grace: float = Field(
        300, ge=0, description="seconds for steps that clean up after a cancel or a job's timeout"
    )
    token_ttl: int = Field(86_400, gt=0, description="seconds a login lasts")

    max_connections: int | None = Field(
        None, ge=16, description="open HTTP connections; default: by the number of files that may be open"
    )
    max_connections_per_address: int | None = Field(
        None, ge=1, description="of these from one address; default: a quarter, at most 1024"
    )
    ratelimit_login: str = Field("5/minute", description="logins per address and per username; off: no limit")
    ratelimit_sessions: str = Field("10/minute", description="sessions created per token")
    ratelimit_default: str = Field("100/minute", description="all other requests per token, else per address")
    ratelimit_console: str = Field(
        "1200/minute", description="requests of a login by cookie, as browsers make them"
    )
    trusted_proxies: Listed = Field([], description="networks whose X-Forwarded-For is believed")
    allowed_origins: Listed = Field([], description="browser origins allowed beside our own")

    retention: float = Field(
        0, ge=0, le=MAX_DAYS, description="days that finished runs keep their log; 0: for ever"
    )
    max_blob: ByteSize = Field(ByteSize(256 << 20), gt=0, description="bytes of one upload to /api/v1/blobs")
    max_upload: ByteSize = Field(
        ByteSize(1 << 30), gt=0, description="bytes of one upload to /api/v1/uploads"
    )
    quota_blobs: ByteSize = Field(ByteSize(20 << 30), gt=0, description="bytes of a project's uploads")
    quota_blob_count: int = Field(100_000, gt=0, description="uploads of a project")
    quota_uploads: ByteSize = Field(
        ByteSize(4 << 30), gt=0, description="bytes of a user's uploads that no run has used"
    )
    max_artifact: ByteSize = Field(ByteSize(5 << 30), gt=0, description="bytes of one artifact")
    artifact_retention: float = Field(
        90,
        ge=0,
        le=MAX_DAYS,
        description="days that artifacts are kept at most; 0: as long as the log of their run",
    )
    quota_artifacts: ByteSize = Field(ByteSize(50 << 30), gt=0, description="bytes of a project's artifacts")
    quota_artifact_count: int = Field(20_000, gt=0, description="artifacts of a project")
    objects: str | None = Field(
        None,
        description="s3://BUCKET/PREFIX: where artifacts are kept; default: on disk, in the data directory",
    )
    s3_endpoint: str | None = Field(None, description="address of an S3-compatible store; default: AWS")
    s3_region: str | None = Field(None, description="region of the bucket")
    s3_access_key: str | None = Field(
        None, description="access key; default: from the environment, as AWS tools do"
    )
    s3_secret_key: SecretStr | None = Field(None, description="its secret key")
    quota_pipelines: int = Field(1000, gt=0, description="pipelines of a project")
    quota_runs: int = Field(10_000, gt=0, description="runs of a project that have not ended")
    quota_tokens: int = Field(100, gt=0, description="API tokens of a user")
    quota_projects: int = Field(1000, gt=0, description="projects")
    quota_tenants: int = Field(1000, gt=0, description="tenants")
    quota_registration_tokens: int = Field(1000, gt=0, description="registration tokens that are not revoked")
    quota_run_log: ByteSize = Field(ByteSize(2 << 30), gt=0, description="bytes of a run's log")
    quota_run_events: ByteSize = Field(
        ByteSize(256 << 20), gt=0, description="bytes of the events that agents push about a run"
    )
    quota_agent_events: ByteSize = Field(
        ByteSize(64 << 20), gt=0, description="bytes of an agent's own stream, of which the newest are kept"
    )
    git_allow: Listed = Field(
        [], description="schemes of git repositories beside https and ssh: http, git, file"
    )
    git_known_hosts: Path | None = Field(
        None, description="host keys of ssh repositories; default: known_hosts in the data directory"
    )
    git_ca: Path | None = Field(None, description="certificates (PEM) of https repositories")
    git_cache: ByteSize = Field(ByteSize(10 << 30), gt=0, description="bytes of all copies of repositories")
    notify: bool = Field(True, description="send the notifications of pipelines")
    notify_allow: Listed = Field(
        [],
        description="networks, addresses and host names to which notifications may go besides public addresses",
    )
    notify_schemes: Listed = Field(
        [], description="addresses of chat beside those of chat services: json, jsons (any server)"
    )
    notify_attempts: int = Field(10, ge=1, le=100, description="attempts to deliver a notification")
    notify_retry: float = Field(
        10, gt=0, le=3600, description="seconds before the second of them; doubled for each further one"
    )
    smtp_host: str | None = Field(None, description="mail server; default: no e-mail is sent")
    smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    smtp_tls: str = Field(
        "starttls", pattern="^(starttls|tls|none)$", description="tls: from the start, mostly on port 465"
    )
    smtp_user: str | None = Field(None, description="user name at the mail server; default: no login")
    smtp_password: SecretStr | None = Field(None, description="password there")
    smtp_from: str | None = Field(None, description="address that sends e-mails: pilot@example.org")
    smtp_ca: Path | None = Field(None, description="certificates (PEM) of the mail server")
    workers: int = Field(
        2, ge=1, le=64, description="processes for work that a caller's input makes expensive"
    )
    log_format: str = Field("auto", pattern="^(auto|console|json)$", description="of the server's own log")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="of the server's own log"
    )

    _options: frozenset[str] = PrivateAttr(frozenset())

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._options = frozenset(options)

    @property
    def options(self) -> frozenset[str]:
        """The names of the settings that were given as options."""
        return self._options

    def quotas(self) -> Quotas:
        """The settings ``quota_…``."""
        return Quotas(**{field.name: getattr(self, f"quota_{field.name}") for field in fields(Quotas)})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options override the environment, which overrides the file that either of them names."""
        named: Any = init_settings().get("config") or env_settings().get("config")
        file = TomlConfigSettingsSource(settings_cls, Path(named)) if named else None
        return (init_settings, env_settings, file) if file else (init_settings, env_settings)
