"""`pilot up`: a server with a supervised local agent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

from pilothouse.cli.addresses import reachable, reachable_host
from pilothouse.cli.context import Context
from pilothouse.cli.errors import CliError
from pilothouse.cli.imports import client_imports, deferred_models, process_imports
from pilothouse.cli.local_agent import AGENT_NAME, LocalAgent
from pilothouse.cli.local_context import LOCAL, Claim, claim
from pilothouse.cli.session import Session

if TYPE_CHECKING:
    from pilothouse.client import PilotClient
    from pilothouse.server.main import Ready
    from pilothouse.server.settings import Settings

_ASK = 2.0
"""Timeout in seconds of the query for the agent's running steps at shutdown."""


class LocalServer:
    """One `pilot up` process."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._stop = asyncio.Event()
        self._agent: LocalAgent | None = None
        self._context = Context(LOCAL, "")
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> int:
        with process_imports(), deferred_models():
            from pilothouse.server.main import serve

        try:
            return await serve(self._settings, on_ready=self._ready, stop=self._stop)
        finally:
            if self._ending is not None:
                await self._ending
            if self._agent is not None:
                await self._agent.release()

    async def _ready(self, ready: Ready) -> None:
        self._context = await self._log_in(ready)
        self._agent = LocalAgent(self._settings, ready, self._session.out)
        self._agent.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Replaces the server's own handlers: the agent's state is queried while the server still answers.
            loop.add_signal_handler(number, self._signalled)

    async def _log_in(self, ready: Ready) -> Context:
        """Claim a context. A valid token is kept, since streams may be open with it."""
        server, grpc = reachable(ready.http_url), reachable_host(ready.grpc_address)
        contexts = self._session.contexts
        try:
            made = await asyncio.to_thread(claim, contexts, server, grpc, self._settings.data_dir)
            token = made.context.token
            if not await self._good(server, token):
                token = await ready.local_token()
            context = replace(made.context, token=token)
            contexts.change(lambda saved: saved.with_context(context, use=False))
        except (CliError, OSError) as error:
            self._session.out.say(f"warning: cannot save the login: {error}", "yellow")
            return Context(LOCAL, server, await ready.local_token(), grpc)
        self._print_contexts(replace(made, context=context))
        return context

    def _print_contexts(self, made: Claim) -> None:
        """Print the context's name and other servers that run here."""
        out, name = self._session.out, made.context.name
        out.say(f"Logged in as admin (context {name!r}). Server: {made.context.server}")
        if made.replaced is not None:
            where = made.replaced.data_dir or made.replaced.server
            out.say(f"Context {name!r} replaces that of {where}, which is not running.")
        for other in made.others:
            out.say(f"Another `pilot up` is running on {other.data_dir} (context {other.name!r}).", "yellow")
        if made.current != name:
            out.say(
                f"The current context is still {made.current!r}. For this server use "
                f"--context {name}, or switch with `pilot config use {name}`.",
                "yellow",
            )

    def _signalled(self) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        else:
            self._stop.set()  # second signal: stop without the query

    async def _end(self) -> None:
        agent = self._agent
        assert agent is not None, "signal handlers are installed once the agent is started"
        busy = await self._busy()
        if busy == 0:
            stopping = asyncio.create_task(agent.stop())
            await asyncio.wait({stopping}, timeout=_ASK)  # while the server still runs
            self._stop.set()
            await stopping
            return
        self._stop.set()
        doing = f"still runs {busy} step{'' if busy == 1 else 's'}" if busy else "may still be running steps"
        self._session.out.say(
            f"The local agent {doing} and keeps running; the next `pilot up` here adopts it."
        )
        await agent.release()

    async def _busy(self) -> int | None:
        """Number of steps the local agent runs; ``None`` if unknown."""
        from pilothouse.client import ApiProblem, ClientError

        try:
            async with (
                asyncio.timeout(_ASK),
                self._client(self._context.server, self._context.token) as client,
            ):
                return (await client.agents.get(AGENT_NAME))["capacity"]["busy"]
        except ApiProblem as refusal:
            return 0 if refusal.status == 404 else None  # not registered yet
        except (ClientError, TimeoutError):
            return None

    async def _good(self, server: str, token: str) -> bool:
        """Whether a saved token is a valid token of admin."""
        from pilothouse.client import ClientError

        if not token:
            return False
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(_ASK), self._client(server, token) as client:
                return (await client.auth.me())["username"] == "admin"
        return False

    def _client(self, server: str, token: str) -> PilotClient:
        """A client that trusts the server's own certificate, regardless of its issuer and name."""
        with client_imports():
            import httpx

            from pilothouse.client import PilotClient

        if self._settings.tls_cert is None:  # the server is on this machine: no proxy
            return PilotClient(server, token, transport=httpx.AsyncHTTPTransport())
        trust = ssl.create_default_context(cafile=str(self._settings.tls_cert))
        trust.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        trust.check_hostname = False
        return PilotClient(server, token, transport=httpx.AsyncHTTPTransport(verify=trust))
