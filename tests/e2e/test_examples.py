"""The examples of the documentation work when they are pasted."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from support.answers import bodies
from support.live_run import begin
from support.mutations import REQUESTS, Asked, Grounds, asked
from support.server import Server, running
from support.waiting import eventually

KNOWN = {
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/password"),
    ("PATCH", "/api/v1/agents/{agent_id}"),
    ("POST", "/api/v1/step-runs/{step_run_id}/artifacts"),
}
"""The first two need a password that is right, the last one an agent; the one before is tried below."""


_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("examples")) as server:
        yield server


async def test_the_commands_of_the_streams_work(server: Server) -> None:
    """Each follows its stream. First, since runs of the other tests would take the agent's slots."""
    live = await begin(server)
    await live.say("a line")
    await live.end()
    page = server.http.get(f"{server.url}/docs/streams")
    assert page.status_code == 200
    assert "<script" not in page.text
    found = re.findall(r'<h2 id="(\w+)">.*?</table>\s*<pre>(.*?)</pre>', page.text, re.DOTALL)
    commands = {name: unescape(text) for name, text in found}
    ends = {
        "runEvents": "workflow_completed",
        "runStream": "workflow_completed",
        "stepChannels": "history_done",
        "journal": "project.created",
    }
    assert commands.keys() == ends.keys()
    environment = {
        **os.environ,
        "PILOT_SERVER": server.url,
        "PILOT_TOKEN": server.admin,
        "RUN_ID": live.run_id,
    }
    environment |= {
        "PIPELINE_ID": live.params["pipelineId"],
        "JOB_ID": live.params["jobId"],
        "STEP_RUN_ID": live.params["stepRunId"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name, command in commands.items():
        shown: list[str] = []
        process = subprocess.Popen(
            ["bash", "-c", command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        reading = threading.Thread(target=_read, args=(process, shown))
        reading.start()

        def seen(name: str = name, shown: list[str] = shown) -> bool:
            if name == "journal":  # it begins now, whenever that is
                server.ask("POST", "/projects", json={"name": f"seen {next(_numbers)}"})
            return any(ends[name] in line for line in shown)

        try:
            await eventually(seen)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reading.join()


def test_every_body_has_an_example() -> None:
    assert [name for name, example in bodies().items() if example is None] == []


@pytest.mark.parametrize("name", sorted(bodies().keys() - KNOWN), ids=" ".join)
def test_the_example_of_a_body_is_accepted(server: Server, name: tuple[str, str]) -> None:
    method, path = name
    number = next(_numbers)
    grounds = Grounds.of(server, f"examples {number}")
    greeting = {"name": "j", "steps": [{"name": "s", "run": "echo ${{ variables.greeting }}"}]}
    spec = {"variables": {"greeting": ""}, "jobs": [greeting]}
    pipeline = server.pipeline(f"greeting {number}", spec, project=grounds.project)
    request = {
        ("POST", "/api/v1/pipelines/{pipeline_id}/trigger"): lambda: asked({"pipeline_id": pipeline}),
        ("POST", "/api/v1/pipelines/{pipeline_id}/spec/validate"): lambda: asked({"pipeline_id": pipeline}),
        ("POST", "/api/v1/pipelines/spec/validate"): lambda: asked(),
    }.get(name, lambda: REQUESTS[name](grounds))
    made: Asked = request()
    url = re.sub(r"{(\w+)}", lambda match: made.ids[match[1]], path)
    answer = server.call(method, url, json=bodies()[name])
    assert answer.is_success, answer.text


def _read(process: subprocess.Popen[str], shown: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        shown.extend(process.stdout)
