"""The link to the server: registration, the `Connect` call with heartbeats, and status reports.

It exists as long as the agent, over any number of connections (arcentra-wire.txt, package agent.v1).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

import grpc
import structlog
from grpc.aio import AioRpcError

from pilothouse import __version__
from pilothouse.agent.credential import load_credential, registration_key, save_credential
from pilothouse.agent.errors import AgentTooOld, CredentialRefused, Replaced, SettingsRefused
from pilothouse.agent.executors.base import Condition
from pilothouse.agent.numbering import Numbering
from pilothouse.agent.settings import AgentSettings, architecture, os_name
from pilothouse.agent.wires import Metadata
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.agent.v1.agent_pb2_grpc import AgentServiceStub
from pilothouse.wire.backoff import Backoff
from pilothouse.wire.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from pilothouse.wire.proxies import grpc_proxy_for, is_loopback

MAX_MESSAGE = 16 << 20  # bytes
UNARY_TIMEOUT = 30.0  # seconds
STEADY = 5.0  # seconds after which a connection counts as stable, and the backoff starts again
DEFAULT_HEARTBEAT = 10.0  # seconds

_OPTIONS = [
    ("grpc.primary_user_agent", f"pilothouse-agent/{__version__}"),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # else a dead connection is noticed after its default, 60 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in fact the timeout of one connection attempt
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

log = structlog.get_logger("agent.link")


class Worker(Protocol):
    """Receives the server's messages and knows which step runs the agent holds."""

    def held(self) -> Collection[str]:
        """Ids of step runs that are running, or have ended without the server's acknowledgement."""

    def dispatch(self, message: pb.StepRun) -> None: ...
    def cancel(self, step_run_id: str, reason: str) -> None: ...


HEALTHY = Condition()


class Link:
    """`connected` is set while a `Connect` call is up; `token` is the agent's own, once it has one."""

    def __init__(
        self,
        settings: AgentSettings,
        worker: Worker,
        facts: Mapping[str, str],
        condition: Callable[[], Condition] = lambda: HEALTHY,
    ) -> None:
        """`facts`: additional properties shown to users. Raises DataDirForeign, SettingsRefused."""
        self.agent_id = settings.agent_id
        self.registrations = 0
        self.connected = asyncio.Event()
        self.token = load_credential(settings.data_dir, settings.agent_id)
        self._settings = settings
        self._worker = worker
        self._facts = facts
        self._condition = condition
        self._due = asyncio.Event()  # a heartbeat is wanted now
        self._may_enrol = settings.token is not None
        self._heartbeat_every = DEFAULT_HEARTBEAT
        self._numbering = Numbering(settings.data_dir)
        self._channel = _channel(settings)
        self._proxy = grpc_proxy_for(settings.grpc)
        self._agent = AgentServiceStub(self._channel)
        self._gateway = GatewayServiceStub(self._channel)

    @property
    def gateway(self) -> GatewayServiceStub:
        return self._gateway

    @property
    def metadata(self) -> Metadata:
        return (("authorization", f"Bearer {self.token}"),)

    async def run(self) -> NoReturn:
        """Stay connected until cancelled. Raises AgentTooOld, CredentialRefused, Replaced, SettingsRefused."""
        await self._register()
        backoff = Backoff()
        while True:
            began = time.monotonic()
            reason = "the server ended it"
            try:
                await self._connect()
            except AioRpcError as error:
                reason = self._error_text(error)
                if error.code() is grpc.StatusCode.ABORTED and "replaced" in reason:
                    raise Replaced(f"another agent has connected as {self.agent_id}") from None
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    await self._register()
                if _too_old(
                    error
                ):  # the server was upgraded: running steps continue, their results wait in the spool
                    log.warning("agent.too_old", reason=reason)
            log.info("agent.disconnected", reason=reason)
            if time.monotonic() - began > STEADY:
                backoff.reset()
            await backoff.sleep()

    async def report(self, request: pb.ReportStepRunStatusRequest) -> bool:
        """Report a step run's status, with retries until the server answers. False: this agent does not hold it."""
        request.agent_id = self.agent_id
        backoff = Backoff()
        while True:
            await self.connected.wait()
            try:
                reply = await self._agent.ReportStepRunStatus(
                    request, timeout=UNARY_TIMEOUT, metadata=self.metadata
                )
                return reply.success
            except AioRpcError as error:
                log.info("agent.report_failed", step_run_id=request.step_run_id, reason=_said(error))
            await backoff.sleep()

    def heartbeat_now(self) -> None:
        """Send the next heartbeat immediately, since something has changed."""
        self._due.set()

    async def close(self) -> None:
        await self._channel.close(None)

    # -- registration -----------------------------------------------------------------------------------

    async def _register(self) -> None:
        """Register with the agent's own token if the server accepts it, otherwise with the registration token."""
        request = await self._registration_request()
        backoff = Backoff()
        while True:
            enrolling = self.token is None
            if enrolling and not self._may_enrol:
                raise CredentialRefused(self._refusal_text())
            request.token = self.token or ""
            request.registration_token = (self._settings.token or "") if enrolling else ""
            key = (("pilot-registration-key", self._key()),) if enrolling else ()
            try:
                reply = await self._agent.Register(request, timeout=UNARY_TIMEOUT, metadata=key)
            except AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise SettingsRefused(f"the server refuses this agent: {error.details()}") from None
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    raise CredentialRefused(f"the server refuses this agent: {error.details()}") from None
                if _too_old(error):
                    raise AgentTooOld(str(error.details())) from None
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._may_enrol = self._may_enrol and not enrolling
                    self.token = None
                    continue
                log.info("agent.register_failed", reason=self._error_text(error))
                await backoff.sleep()
                continue
            self._registered(reply, enrolling)
            return

    def _error_text(self, error: AioRpcError) -> str:
        """The message of an error, with the proxy in use if there was no answer."""
        proxy = self._proxy if error.code() is grpc.StatusCode.UNAVAILABLE else None
        return f"{_said(error)} (through {proxy})" if proxy else _said(error)

    def _key(self) -> str:
        try:
            return registration_key(self._settings.data_dir)
        except OSError as error:
            raise SettingsRefused(f"cannot write to {self._settings.data_dir}: {error.strerror}") from None

    async def _registration_request(self) -> pb.RegisterRequest:
        settings = self._settings
        return pb.RegisterRequest(
            agent_id=settings.agent_id,
            agent_name=settings.name or settings.agent_id,
            ip=await asyncio.to_thread(_own_address, settings.grpc),
            os=os_name(),
            arch=architecture(),
            version=__version__,
            max_concurrent_step_runs=settings.slots,
            max_sessions=settings.max_sessions,
            labels=settings.all_labels,
            platform=settings.platform,
            region=settings.region,
            metadata={**self._facts, **({"ephemeral": "true"} if settings.ephemeral else {})},
        )

    def _registered(self, reply: pb.RegisterResponse, enrolled: bool) -> None:
        if enrolled:
            self._may_enrol = False
        if reply.auth_token:
            self.token = reply.auth_token
            save_credential(self._settings.data_dir, self.agent_id, reply.auth_token)
        self._heartbeat_every = reply.heartbeat_interval / 1000 or DEFAULT_HEARTBEAT
        self.registrations += 1
        log.info(
            "agent.registered", agent_id=self.agent_id, heartbeat=self._heartbeat_every, enrolled=enrolled
        )

    def _refusal_text(self) -> str:
        if self._settings.token is None:
            return "the server does not know this agent; start it with --token and a registration token"
        return "the server refuses this agent's own token and the registration token given with --token"

    # -- the connection ---------------------------------------------------------------------------------

    async def _connect(self) -> None:
        number = ("pilot-connection", str(self._numbering.next()))
        call = self._agent.Connect(None, metadata=(*self.metadata, number))
        heartbeats: asyncio.Task[None] | None = None
        try:
            await call.write(self._heartbeat())
            self.connected.set()
            log.info("agent.connected", server=self._settings.grpc)
            heartbeats = asyncio.create_task(self._send_heartbeats(call))
            async for response in call:
                self._handle(response)
        finally:
            self.connected.clear()
            if heartbeats is not None:
                heartbeats.cancel()
            call.cancel()

    async def _send_heartbeats(
        self, call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]
    ) -> None:
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), self._heartbeat_every)
                self._due.clear()
                await call.write(self._heartbeat())
        except (AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended, which its reader sees as well

    def _heartbeat(self) -> pb.ConnectRequest:
        held, condition = list(self._worker.held()), self._condition()
        beat = pb.ConnectHeartbeat(
            timestamp=int(time.time()),
            status=pb.AGENT_STATUS_BUSY if held else pb.AGENT_STATUS_IDLE,
            running_step_runs_count=len(held),
            max_concurrent_step_runs=self._settings.slots,
            running_step_run_ids=held,
            reports_running=True,
            blocked_slots=condition.blocked,
            problems=condition.problems,
        )
        return pb.ConnectRequest(agent_id=self.agent_id, heartbeat=beat)

    def _handle(self, response: pb.ConnectResponse) -> None:
        kind = response.WhichOneof("payload")
        if kind == "task_dispatch":
            for message in response.task_dispatch.step_runs:
                self._worker.dispatch(message)
        elif kind == "task_cancel":
            self._worker.cancel(response.task_cancel.step_run_id, response.task_cancel.reason)


def _channel(settings: AgentSettings) -> grpc.aio.Channel:
    options = list(_OPTIONS)
    if is_loopback(settings.grpc.rpartition(":")[0]):
        options.append(("grpc.enable_http_proxy", 0))  # no proxy leads to this machine
    if not settings.secure:
        return grpc.aio.insecure_channel(settings.grpc, options=options)
    roots = _read(settings.grpc_ca) if settings.grpc_ca is not None else None
    return grpc.aio.secure_channel(settings.grpc, grpc.ssl_channel_credentials(roots), options=options)


def _read(certificates: Path) -> bytes:
    try:
        return certificates.read_bytes()
    except OSError as error:
        raise SettingsRefused(f"cannot read {certificates}: {error.strerror}") from None


def _own_address(target: str) -> str:
    """This machine's address on the route to the server; empty if unknown."""
    host, _, port = target.rpartition(":")
    try:
        family, kind, *_, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return ""


def _too_old(error: AioRpcError) -> bool:
    if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
        return False
    return str(error.details()).startswith(AgentTooOld.code)


def _said(error: AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
