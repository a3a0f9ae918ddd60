"""A run that release 0.1.0 left under way goes on on both databases: to its end, again, and larger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from pilothouse.engine.graph import Job, Step
from pilothouse.engine.lookup import find_step_run
from pilothouse.fleet.model import TaskStatus
from pilothouse.storage import Database
from pilothouse.storage.migrations import upgrade
from pilothouse.wire import entries
from support.databases import Backend
from support.kernel import Clock, Kernel
from support.waiting import PATIENCE

HERE = Path(__file__).parent
RUN = "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"
SPEC = """{"jobs":[
  {"name":"j","retry":{"maxAttempts":2},"steps":[
    {"name":"a","uses":"dummy","action":"run"},
    {"name":"b","uses":"dummy","action":"run","env":{"TAG":"${{ job.outputs.tag }}"}},
    {"name":"c","uses":"dummy","action":"run"}]},
  {"name":"k","dependsOn":["j"],"steps":[{"name":"d","uses":"dummy","action":"run"}]}]}"""


@pytest.fixture
async def old(backend: Backend) -> AsyncIterator[Kernel]:
    """A server of this release on what the first one left: ``a`` is done, ``b`` waits for an agent."""
    database = Database(backend.create(migrated=False))
    upgrade(database, "0001")
    values = {"spec": SPEC}
    with database.write_engine.begin() as conn:
        for file in ("first_release.sql", "first_release_run.sql"):
            for row in (HERE / file).read_text().split(";\n\n"):
                if any(word in row for word in ("INTO entries", "'one'", "'try-1'")):
                    continue
                conn.execute(text(row), {name: value for name, value in values.items() if f":{name}" in row})
    upgrade(database)
    kernel = Kernel(database, Clock())
    await kernel.start()
    yield kernel
    while kernel.following is not None:
        kernel = kernel.following
    for run_id, kept in kernel.runs._kept.items():
        assert kernel.load(run_id) == kept
    await asyncio.wait_for(kernel.stop(), PATIENCE)
    kernel.database.close()


def attempts(kernel: Kernel, run_id: str, step: str) -> list[tuple[int, str]]:
    return [(a["number"], a["status"]) for a in kernel.step(run_id, step)["attempts"]]


async def test_it_goes_on_to_its_end(old: Kernel) -> None:
    agent = await old.connect("old")
    assert (agent.last.id, agent.last.name, agent.last.env) == ("attempt-b", "b", {"TAG": "v1"})
    assert (agent.last.workspace, agent.last.fresh_workspace) == ("job-j", False)
    ids = {name: old.step(RUN, name)["attempts"][0]["step_run_id"] for name in "cd"}
    with old.database.read() as conn:
        at = find_step_run(conn, ids["d"])
    assert at is not None
    assert at.step.name == "d"
    await old.do(agent)
    assert agent.last.id == ids["c"]
    kernel = await old.restart()
    agent = await kernel.connect("old")
    await kernel.do(agent)
    assert agent.last.id == ids["d"]
    await kernel.do(agent)
    assert kernel.view(RUN)["status"] == "succeeded"
    assert all(attempts(kernel, RUN, name) == [(1, "succeeded")] for name in "abcd")
    ended = [body["step_run_id"] for body in kernel.told(RUN, entries.ATTEMPT_COMPLETED)]
    assert ended == ["attempt-b", ids["c"], ids["d"]]


async def test_its_job_is_tried_again_and_the_run_rerun(old: Kernel) -> None:
    agent = await old.connect("old")
    await old.do(agent, TaskStatus.FAILED)
    assert old.view(RUN)["jobs"][0]["round"] == 2
    kernel = await old.restart()
    agent = await kernel.connect("old")
    assert (agent.last.name, agent.last.fresh_workspace) == ("a", True)
    await kernel.ack(agent)
    await kernel.tell("old", 1, agent.last.id, "step.output", {"name": "tag", "value": "v2"})
    await kernel.report(agent)
    assert agent.last.env == {"TAG": "v2"}
    await kernel.do(agent)
    await kernel.do(agent, TaskStatus.FAILED)
    assert kernel.view(RUN)["status"] == "failed"
    assert attempts(kernel, RUN, "a") == [(1, "succeeded"), (2, "succeeded")]
    assert attempts(kernel, RUN, "c") == [(1, "skipped"), (2, "failed")]
    again = await kernel.rerun(RUN, from_failed=True)
    assert agent.last.name == "c"
    assert not agent.last.fresh_workspace
    await kernel.do(agent)
    await kernel.do(agent)
    assert kernel.view(again)["status"] == "succeeded"
    whole = await kernel.rerun(RUN, from_failed=False)
    assert (agent.last.name, attempts(kernel, whole, "a")) == ("a", [(1, "queued")])


async def test_it_grows(old: Kernel) -> None:
    agent = await old.connect("old")
    more = Job("late", (Step("e", "dummy", "run"),), depends_on=("k",))
    await old.extend(RUN, more, j=(Step("c2", "dummy", "run"),), k=(Step("d2", "dummy", "run"),))
    kernel = await old.restart()
    agent = await kernel.connect("old")
    await kernel.extend(RUN, k=(Step("d3", "dummy", "run"),))
    done = []
    while kernel.view(RUN)["status"] == "running":
        if len(done) == 3:
            kernel = await kernel.restart()
            agent = await kernel.connect("old")
        done.append(agent.last.name)
        await kernel.do(agent)
    assert done == ["b", "c", "c2", "d", "d2", "d3", "e"]
    assert kernel.view(RUN)["status"] == "succeeded"
