"""The agent as a process of its own: killed, started again; and over TLS."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import psutil

from support.agents import command, dummy, options, plane, running, unsettled
from support.certificates import self_signed
from support.control_plane import FAILED, SUCCESS, ControlPlane
from support.waiting import PATIENCE, eventually

__all__ = ["options", "plane"]  # fixtures

_PROGRAM = """
import sys
from pathlib import Path
import uvloop
from pilothouse.agent.main import run
from pilothouse.agent.settings import AgentSettings
grpc, token, data_dir = sys.argv[1:]
settings = AgentSettings(server="http://127.0.0.1:9", grpc=grpc, token=token, agent_id="worker-1", slots=4,
                         data_dir=Path(data_dir))
sys.exit(uvloop.run(run(settings)))
"""


def start(options: dict[str, Any]) -> subprocess.Popen[bytes]:
    arguments = (options["grpc"], options["token"], str(options["data_dir"]))
    return subprocess.Popen([sys.executable, "-c", _PROGRAM, *arguments], stderr=subprocess.DEVNULL)


async def exit_code(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, PATIENCE)


async def test_killed_it_leaves_no_step_and_loses_no_result(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    process = start(options)
    plane.offer("running", **command(f"echo $$ > {tmp_path / 'pid'}; echo up; sleep 300"))
    await eventually(lambda: plane.lines["running"])
    plane.faults.refuse |= {"PushLogs"}
    plane.offer("done", **command("seq 1 500; exit 7"))
    results = options["data_dir"] / "spool" / "results"
    await eventually(lambda: b'"done"' in results.read_bytes())
    process.kill()
    await exit_code(process)
    pid = int((tmp_path / "pid").read_text())
    await eventually(lambda: not psutil.pid_exists(pid))
    plane.faults.refuse.clear()
    async with running(options):
        await eventually(lambda: "done" in plane.ended)
    assert plane.ended["done"].exit_code == 7
    assert plane.lines["done"] == [str(number) for number in range(1, 501)]
    assert plane.known_at_end["done"] == 500
    assert plane.first_beats[-1].running_step_run_ids == ["done"]
    assert "running" not in plane.ended, "the server calls it lost, since nobody holds it"


async def test_sigterm_ends_it_in_order(plane: ControlPlane, options: dict[str, Any]) -> None:
    process = start(options)
    plane.offer("s1", **command("echo up; sleep 300"))
    await eventually(lambda: plane.lines["s1"])
    process.send_signal(signal.SIGTERM)
    assert await exit_code(process) == 0
    assert (plane.ended["s1"].status, plane.ended["s1"].error_message) == (FAILED, "the agent was stopped")
    assert not unsettled(options)


async def test_memory_stays_flat_without_a_server(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    process = start(options)
    done = tmp_path / "done"
    plane.offer("s1", **command(f"echo up; sleep 0.3; yes {'x' * 99} | head -c 60000000; touch {done}"))
    await eventually(lambda: plane.lines["s1"])
    before = psutil.Process(process.pid).memory_info().rss
    await plane.stop()
    await eventually(done.exists)
    assert psutil.Process(process.pid).memory_info().rss - before < 20 << 20
    process.kill()
    await exit_code(process)


async def test_tls_with_an_authority_of_ones_own(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    key, certificate = self_signed()
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificate)
    await plane.stop()
    await plane.start(grpc.ssl_server_credentials([(key, certificate)]))
    async with running(options, grpc_ca=authority):
        plane.offer("s1", **dummy(lines=1))
        await eventually(lambda: "s1" in plane.ended)
    assert plane.ended["s1"].status == SUCCESS
    async with running(options, grpc_ca=tmp_path / "missing.pem") as agent:
        assert await agent.ended() == 2
