"""``pilot run logs`` of a real run: whose line it is, and which lines."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.desk import Desk
from support.fake_agent import FAILED, FakeAgent, registered
from support.server import Server
from support.waiting import eventually

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def agent(server: Server) -> AsyncIterator[FakeAgent]:
    async with await registered(server, f"scribe-{time.monotonic_ns()}") as agent:
        yield agent


def spec(agent: str, **jobs: list[str]) -> dict[str, Any]:
    selector = {"matchLabels": {"only": agent}}
    more = {"agentSelector": selector, "retry": {"maxAttempts": 2}}
    made = [
        {
            "name": job,
            "steps": [{"name": s, "uses": "shell", "args": {"command": "true"}, **more} for s in steps],
        }
        for job, steps in jobs.items()
    ]
    return {"jobs": made}


async def begun(server: Server, agent: FakeAgent, name: str, **jobs: list[str]) -> tuple[str, dict[str, Any]]:
    """A run whose first steps have started: its id, and the tasks by job."""
    run_id = server.trigger(server.pipeline(name, spec(agent.agent_id, **jobs)))
    tasks = {}
    for _ in jobs:
        task = await agent.task()
        await agent.ack(task)
        tasks[str(task.job_name)] = task
    return run_id, tasks


def desk(server: Server, tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", server.url, server.admin)


async def said(desk: Desk, *words: str, code: int = 0) -> list[str]:
    done = await asyncio.to_thread(desk.pilot, "run", "logs", *words)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout.splitlines()


async def test_lines_of_parallel_jobs(server: Server, agent: FakeAgent, tmp_path: Path) -> None:
    run_id, tasks = await begun(server, agent, "parallel", a=["one"], b=["one", "two"])
    here = desk(server, tmp_path)
    await agent.lines(tasks["a"].step_run_id, ["a 1", "a 2"])
    await agent.lines(tasks["b"].step_run_id, ["b 1"])
    await agent.lines(tasks["a"].step_run_id, ["a 3 \x1b[2J"])
    await agent.finish(tasks["b"], FAILED, exit_code=3)
    again = await agent.task()
    await agent.ack(again)
    await agent.lines(again.step_run_id, ["b again"])
    whole = ["a/one | a 1", "a/one | a 2", "b/one | b 1", "a/one | a 3 ", "b/one | b again"]
    assert await said(here, run_id) == whole
    assert await said(here, run_id, "--no-prefix") == ["a 1", "a 2", "b 1", "a 3 ", "b again"]
    assert await said(here, run_id, "--step", "a/one") == ["a 1", "a 2", "a 3 "]
    assert await said(here, run_id, "--job", "b", "--step", "one") == ["b 1", "b again"]
    assert await said(here, run_id, "--tail", "2") == whole[-2:]
    assert await said(here, run_id, "--tail", "3") == whole[-3:]
    assert await said(here, run_id, "--tail", "0") == []
    nothing = await asyncio.to_thread(here.pilot, "run", "logs", run_id, "--grep", "nowhere")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "no lines\n")
    assert await said(here, run_id, "--job", "a", "--tail", "2") == ["a 2", "a 3 "]
    assert await said(here, run_id, "--attempt", "2") == ["b/one | b again"]
    assert await said(here, run_id, "--attempt", "1", "--job", "b") == ["b/one | b 1"]
    assert await said(here, run_id, "--grep", "^(a|b) 1$") == ["a/one | a 1", "b/one | b 1"]
    assert await said(here, run_id, "--grep", "^. ", "--tail", "1") == ["b/one | b again"]
    assert await said(here, run_id, "--since", "1h") == whole
    assert await said(here, run_id, "--since", "2999-01-01T00:00:00Z") == []
    stamped = await said(here, run_id, "--timestamps", "--tail", "1")
    assert re.fullmatch(rf"{TIME} b/one \| b again", stamped[0])
    both = await asyncio.to_thread(here.pilot, "run", "logs", run_id, "--step", "one")
    assert both.stdout.splitlines() == whole
    assert "step 'one' is in 2 jobs (a, b); one of them: --step a/one" in both.stderr
    await agent.finish(again, FAILED, exit_code=4)
    await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["jobs"][1]["status"] == "failed")
    assert await said(here, run_id, "--failed") == ["b 1", "b again"]
    objects = [json.loads(line) for line in await said(here, run_id, "-o", "json")]
    assert [(o["job"], o["step"], o["attempt"], o["number"], o["text"]) for o in objects] == [
        ("a", "one", 1, 1, "a 1"),
        ("a", "one", 1, 2, "a 2"),
        ("b", "one", 1, 1, "b 1"),
        ("a", "one", 1, 3, "a 3 \x1b[2J"),
        ("b", "one", 2, 1, "b again"),
    ]
    assert {o["stream"] for o in objects} == {"stdout"}
    assert all(re.fullmatch(TIME, o["time"]) for o in objects)
    await agent.finish(tasks["a"])


async def test_following_goes_on_where_the_log_so_far_ends(
    server: Server, agent: FakeAgent, tmp_path: Path
) -> None:
    run_id, tasks = await begun(server, agent, "followed", a=["one"], b=["two"])
    here = desk(server, tmp_path)
    await agent.lines(tasks["a"].step_run_id, [f"line {n}" for n in range(500)])
    following = here.start("run", "logs", run_id, "-f", "--tail", "2", "--job", "a")
    assert following.stdout is not None
    first = [await asyncio.to_thread(following.stdout.readline) for _ in range(2)]
    assert first == ["line 498\n", "line 499\n"]
    await agent.lines(tasks["b"].step_run_id, ["not asked for"])
    await agent.lines(tasks["a"].step_run_id, ["line 500", "line 501"])
    for task in tasks.values():
        await agent.finish(task)
    out, err = await asyncio.to_thread(following.communicate, timeout=60)
    assert (following.returncode, out.splitlines()) == (0, ["line 500", "line 501"]), err
    late = await said(here, run_id, "--follow", "--job", "a")
    assert late == [f"line {n}" for n in range(502)], "a run that is over has nothing to follow"


async def test_the_route_as_text_and_as_json(server: Server, agent: FakeAgent) -> None:
    """What other clients of the route get."""
    run_id, tasks = await begun(server, agent, "routed", a=["one"])
    task = tasks["a"]
    for start in range(0, 1000, 250):
        await agent.lines(task.step_run_id, [f"line {n}" for n in range(start, start + 250)])

    def ask(**query: Any) -> str:
        answer = server.call("GET", f"/workflow-runs/{run_id}/logs", params=query)
        assert answer.status_code == 200, answer.text
        return answer.text

    assert ask().splitlines() == [f"line {n}" for n in range(1000)]
    assert ask(tail=450).splitlines() == [f"line {n}" for n in range(550, 1000)]
    assert ask(tail=450, step_run=task.step_run_id).splitlines() == [f"line {n}" for n in range(550, 1000)]
    assert ask(step_run="01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a") == ""
    *chunks, end = [json.loads(line) for line in ask(tail=450, format="ndjson").splitlines()]
    assert [line for chunk in chunks for line in chunk["lines"]] == [f"line {n}" for n in range(550, 1000)]
    number = chunks[0]["first"]
    for chunk in chunks:
        assert chunk["first"] == number
        number += len(chunk["lines"])
    assert end.keys() == {"cursor", "status"}
    assert end["status"] == "running"
    for wrong in (
        {"tail": -1},
        {"tail": 10**9},
        {"since": "soon"},
        {"format": "xml"},
        {"step_run": ["x"] * 51},
    ):
        assert server.call("GET", f"/workflow-runs/{run_id}/logs", params=wrong).status_code == 400, wrong
    await agent.finish(task)
    await eventually(lambda: json.loads(ask(tail=0, format="ndjson"))["status"] == "succeeded")
