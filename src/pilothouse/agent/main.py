"""The agent process: `pilot agent` runs it until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from pilothouse.agent.actions import ProcessActions
from pilothouse.agent.builtin.artifacts import ArtifactActions
from pilothouse.agent.builtin.reports import ReportActions
from pilothouse.agent.builtin.transfer import Transfer
from pilothouse.agent.builtin.workfiles import Workfiles
from pilothouse.agent.checkout import CheckoutFetcher
from pilothouse.agent.errors import AgentError, PlatformUnsupported, SettingsRefused
from pilothouse.agent.executors.process import ProcessExecutor, ProcessSettings
from pilothouse.agent.executors.users import UnknownUser
from pilothouse.agent.guard import Guard
from pilothouse.agent.layout import ArchiveLimits, Layout
from pilothouse.agent.link import Link
from pilothouse.agent.lock import AgentLock, LockHolder, lock_holder, lock_path
from pilothouse.agent.logs import configure_logs
from pilothouse.agent.objects import ObjectCache, TreeLimits
from pilothouse.agent.outbox import Outbox
from pilothouse.agent.results import ResultStore
from pilothouse.agent.runner import Runner
from pilothouse.agent.server_http import ServerHttp
from pilothouse.agent.settings import AgentSettings
from pilothouse.agent.workspace_manager import WorkspaceManager
from pilothouse.workers.children import Children
from pilothouse.workers.git import Git, find_git

__all__ = ["AgentSettings", "LockHolder", "lock_holder", "lock_path", "run", "run_agent"]

STOP_WITHIN = 7.0  # seconds in all; decisions.md allows 10, including the time for the guard
PUSH_WITHIN = 5.0  # seconds
LINGER_LOOK = 0.25  # seconds

log = structlog.get_logger("agent")


async def run(settings: AgentSettings) -> int:
    """`run_agent` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await run_agent(settings, stop)


async def run_agent(settings: AgentSettings, stop: asyncio.Event) -> int:
    """Run the agent until `stop` is set; returns the exit code of the process.

    0: stopped, or without work for `linger`; 2: invalid settings; 3: another agent uses this id; 4: the server
    refuses the agent's tokens; 5: the data directory is in use. The reason is in the log.
    """
    configure_logs()
    try:
        if settings.platform != "process":
            raise PlatformUnsupported(
                f"this release has no executor for platform {settings.platform}: use process"
            )
        _make_data_dir(settings)
        with AgentLock(settings.data_dir, settings.agent_id):
            async with _guard() as guard:
                await _work(settings, _executor(settings, guard), guard, stop)
    except AgentError as error:
        log.error("agent.ended", code=error.code, reason=str(error))
        return error.exit_code
    log.info("agent.stopped")
    return 0


def _make_data_dir(settings: AgentSettings) -> None:
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsRefused(f"cannot make {settings.data_dir}: {error.strerror}") from None


def _executor(settings: AgentSettings, guard: Guard) -> ProcessExecutor:
    wanted = ProcessSettings(settings.data_dir, run_as=settings.run_as, pass_env=tuple(settings.pass_env))
    try:
        executor = ProcessExecutor(wanted, guard)
    except UnknownUser as error:
        raise SettingsRefused(str(error)) from None
    except OSError as error:
        raise SettingsRefused(f"cannot use {settings.data_dir}: {error.strerror}") from None
    log.info("agent.starting", agent_id=settings.agent_id, steps=executor.announcement)
    log.info("agent.guarded", ends_steps_by=guard.backend, because=guard.why)
    return executor


@contextlib.asynccontextmanager
async def _guard() -> AsyncIterator[Guard]:
    """A running guard; all processes of steps have ended when the context is left."""
    guard = await asyncio.to_thread(Guard)
    try:
        yield guard
    finally:
        await asyncio.to_thread(guard.close)


async def _work(
    settings: AgentSettings, executor: ProcessExecutor, guard: Guard, stop: asyncio.Event
) -> None:
    spool = settings.data_dir / "spool"
    async with contextlib.AsyncExitStack() as stack:
        server = ServerHttp(settings, lambda: link.token)
        stack.push_async_callback(server.close)
        fetcher = CheckoutFetcher(server, settings.max_checkout)
        results = ResultStore(spool / "results")
        stack.push_async_callback(results.close)
        found = await asyncio.to_thread(find_git)
        workspaces = _workspaces(settings, executor, guard, fetcher, found)
        stack.push_async_callback(workspaces.close)
        environments, survivors = executor.job_environments, executor.survivors
        environments.sweep(settings.data_dir / "work")
        runner = Runner(
            results, workspaces, _actions(settings, executor, guard, server).executor_for, environments
        )
        facts = {"steps_run_as": executor.user.name, "steps_end_by": guard.backend}
        facts |= {"git": found[1]} if found else {}
        link = Link(settings, runner, facts, lambda: survivors.condition)
        survivors.on_change = link.heartbeat_now
        stack.push_async_callback(link.close)
        outbox = Outbox(spool, link, settings.spool_limit)
        stack.callback(outbox.close)
        runner.start(link, outbox)
        await _until_ended(settings, stop, link, runner, outbox, workspaces)


def _actions(
    settings: AgentSettings, executor: ProcessExecutor, guard: Guard, server: ServerHttp
) -> ProcessActions:
    children = Children(settings.data_dir, guard)
    workfiles = Workfiles(children, settings.data_dir / "artifacts", executor.user)
    artifacts = ArtifactActions(workfiles, Transfer(server), settings.max_artifact)
    return ProcessActions(executor, artifacts, ReportActions(workfiles))


def _workspaces(
    settings: AgentSettings,
    executor: ProcessExecutor,
    guard: Guard,
    fetcher: CheckoutFetcher,
    found: tuple[str, str] | None,
) -> WorkspaceManager:
    user = executor.user
    owner = (user.uid, user.gid) if user.switched else None
    if user.switched:  # other users may access the workspaces below, but not list this directory
        settings.data_dir.chmod(settings.data_dir.stat().st_mode | 0o011)
    root: Path = settings.data_dir / "work"
    children = Children(settings.data_dir, guard)
    limits = ArchiveLimits(total_bytes=8 * settings.max_checkout)
    git = objects = None
    if found is not None:
        git = Git(*found, children)
        trees = TreeLimits(limits.total_bytes, limits.members)
        objects = ObjectCache(settings.data_dir / "objects", git, fetcher, settings.object_cache, trees)
    layout = Layout(fetcher, children, git, objects, owner, limits)
    return WorkspaceManager(root, owner, layout, settings.agent_id, settings.workspace_keep)


async def _until_ended(
    settings: AgentSettings,
    stop: asyncio.Event,
    link: Link,
    runner: Runner,
    outbox: Outbox,
    workspaces: WorkspaceManager,
) -> None:
    ends = [
        asyncio.create_task(stop.wait()),
        asyncio.create_task(_without_work(settings.linger, link, runner)),
    ]
    works = [link.run(), outbox.logs.run(), outbox.events.run(), workspaces.sweep()]
    working = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait({*ends, *working}, return_when=asyncio.FIRST_COMPLETED)
        await runner.stop(STOP_WITHIN, PUSH_WITHIN)
        for task in done:
            task.result()  # raises the error that ended the agent, if any
    finally:
        for task in (*ends, *working):
            task.cancel()
        await asyncio.wait({*ends, *working})


async def _without_work(linger: float | None, link: Link, runner: Runner) -> None:
    """Return when there was neither a connection nor a running step for `linger` seconds; the spool stays on disk."""
    since = time.monotonic()
    while linger is None or time.monotonic() - since < linger:
        await asyncio.sleep(LINGER_LOOK)
        if link.connected.is_set() or not runner.idle:
            since = time.monotonic()
    log.info("agent.linger_expired", linger=linger)
