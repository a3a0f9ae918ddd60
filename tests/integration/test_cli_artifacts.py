"""``pilot artifact`` and the tests in ``pilot run view``, with the examples, a real server and a real agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.server import Server
from support.waiting import PATIENCE, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def agent(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent that runs the steps of these tests."""
    home = tmp_path_factory.mktemp("agent")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    environment["PILOT_AGENT_TOKEN"] = shared_server.registration_token()
    command = [sys.executable, "-m", "pilothouse", "agent", "--server", shared_server.url]
    options = [
        "--grpc",
        shared_server.grpc,
        "--name",
        "clerk",
        "--label",
        "only=clerk",
        "--data-dir",
        str(home),
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log, cwd="/")
    yield "clerk"
    process.terminate()
    process.wait(PATIENCE)


async def run_of(server: Server, example: str) -> str:
    """A run of an example on the agent, once it has succeeded."""
    spec = yaml.safe_load((EXAMPLES / example / ".pilot.yaml").read_text())
    for job in spec["jobs"]:
        for step in job["steps"]:
            step["agentSelector"] = {"matchLabels": {"only": "clerk"}}
    run = server.trigger(server.pipeline(f"example {example}", spec))
    await eventually(lambda: server.ask("GET", f"/workflow-runs/{run}")["finished_at"])
    view = server.ask("GET", f"/workflow-runs/{run}")
    assert view["status"] == "succeeded", view
    return run


def pilot(server: Server, *words: str, code: int = 0) -> str:
    """The output of a command."""
    environment = {**os.environ, "PILOT_SERVER": server.url, "PILOT_TOKEN": server.admin, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pilothouse", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


async def test_artifacts_are_listed_downloaded_and_deleted(
    shared_server: Server, agent: str, tmp_path: Path
) -> None:
    run = await run_of(shared_server, "artifacts")
    [listed] = json.loads(pilot(shared_server, "artifact", "list", "--run", run, "-o", "json"))
    assert (listed["name"], listed["files"]) == ("dist", 2)
    assert "dist" in pilot(shared_server, "artifact", "list", "--run", run)
    pilot(shared_server, "artifact", "download", "dist", "--run", run, "--dir", str(tmp_path / "out"))
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["docs", "docs/readme.txt", "run.sh"]
    pilot(shared_server, "artifact", "download", "dist", "--run", run, "--dir", str(tmp_path), "--packed")
    assert (tmp_path / "dist.zip").stat().st_size == listed["size"]
    missing = pilot(shared_server, "artifact", "download", "other", "--run", run, code=1)
    assert "has no artifact other (it has: dist)" in missing
    pilot(shared_server, "artifact", "delete", "dist", "--run", run)
    assert "No artifacts." in pilot(shared_server, "artifact", "list", "--run", run)


async def test_a_run_shows_its_tests(shared_server: Server, agent: str) -> None:
    run = await run_of(shared_server, "reports")
    shown = pilot(shared_server, "run", "view", run)
    assert "2 tests: 1 passed, 1 failed" in shown
    assert "failed: cart totals: 3 != 4" in shown
