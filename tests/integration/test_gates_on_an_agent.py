"""A job with a gate on a real server and a real agent: its workspace waits with it, also for another life of the agent."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import Server, running
from support.waiting import PATIENCE, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), agent_heartbeat=0.2) as server:
        yield server


@contextlib.contextmanager
def agent(server: Server, directory: Path, **settings: str) -> Iterator[None]:
    """One life of the agent of this directory."""
    command = [sys.executable, "-m", "pilothouse", "agent", "--data-dir", str(directory / "agent")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "PILOT_GRPC": server.grpc}
    environment |= {
        "PILOT_SERVER": server.url,
        "PILOT_NAME": directory.name,
        "PILOT_LABEL": f"only={directory.name}",
    }
    environment |= {"PILOT_AGENT_TOKEN": server.registration_token(), **settings}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def held(server: Server, name: str, **more: Any) -> str:
    """A run whose gate comes after a step that leaves a file; gives its id."""
    selector = {"matchLabels": {"only": name}}
    steps = [
        {"name": "build", "run": "echo $PILOT_ATTEMPT >> made", "agentSelector": selector},
        {"name": "ask", "uses": "approval"},
        {"name": "ship", "run": "cat made", "agentSelector": selector},
    ]
    return server.trigger(server.pipeline(name, {"jobs": [{"name": "j", "steps": steps, **more}]}))


async def open_gate(server: Server, run_id: str, *before: str) -> str:
    """The id of the run's open gate, once there is one other than these."""
    found: list[str] = []

    def look() -> bool:
        gates = server.ask("GET", f"/gates?run={run_id}&status=open")["gates"]
        found[:] = [gate["id"] for gate in gates if gate["id"] not in before]
        return bool(found)

    await eventually(look)
    return found[0]


def approve(server: Server, gate_id: str) -> None:
    server.ask("POST", f"/gates/{gate_id}", json={"decision": "approve"})


async def ended(server: Server, run_id: str) -> Any:
    await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["finished_at"])
    return server.ask("GET", f"/workflow-runs/{run_id}")


async def test_the_workspace_is_there_after_the_gate(server: Server, tmp_path: Path) -> None:
    with agent(server, tmp_path):
        run_id = held(server, tmp_path.name)
        gate_id = await open_gate(server, run_id)
    with agent(server, tmp_path):
        approve(server, gate_id)
        run = await ended(server, run_id)
    assert run["status"] == "succeeded"
    assert [step["status"] for step in run["jobs"][0]["steps"]] == ["succeeded"] * 3


@pytest.mark.parametrize("on_lost", ["fail", "rerun"])
async def test_a_workspace_that_is_gone(server: Server, tmp_path: Path, on_lost: str) -> None:
    with agent(server, tmp_path):
        run_id = held(server, tmp_path.name, onLost=on_lost)
        gate_id = await open_gate(server, run_id)
        [workspace] = [path for path in (tmp_path / "agent" / "work").iterdir() if path.is_dir()]
        shutil.rmtree(workspace)
        approve(server, gate_id)
        if on_lost == "rerun":
            again = await open_gate(server, run_id, gate_id)  # the job has begun again, and its gate with it
            approve(server, again)
        run = await ended(server, run_id)
    [job] = run["jobs"]
    if on_lost == "rerun":
        assert (run["status"], job["round"]) == ("succeeded", 2)
        return
    assert (run["status"], job["round"]) == ("failed", 1)
    assert job["steps"][2]["reason"].startswith("lost: the workspace of this job is gone from agent")


async def test_a_workspace_is_kept_for_as_long_as_the_setting_says(server: Server, tmp_path: Path) -> None:
    with agent(server, tmp_path, PILOT_WORKSPACE_KEEP="1s"):
        run_id = held(server, tmp_path.name)
        gate_id = await open_gate(server, run_id)
        work = tmp_path / "agent" / "work"
        await eventually(lambda: not any(path.is_dir() for path in work.iterdir()))
        approve(server, gate_id)
        run = await ended(server, run_id)
    assert run["status"] == "failed"
    assert run["jobs"][0]["steps"][2]["reason"].startswith("lost: the workspace of this job is gone")
