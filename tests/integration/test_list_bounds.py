"""Lists and views of the largest rows: bounds in bytes, and on the time of the event loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import Connection, insert, select, update
from uuid_utils import uuid7

from pilothouse.engine import list_store
from pilothouse.engine import store as engine_store
from pilothouse.engine.gates.store import gates
from pilothouse.engine.model import Attempt, Status
from pilothouse.engine.store import jobs, runs
from pilothouse.identity.tables import audit_records, project_members, users
from pilothouse.pipelines.store import pipelines
from pilothouse.storage import Tx
from pilothouse.storage.counting import AHEAD, count_ahead
from support.loop_probe import Local, local_server
from support.server import spec_for

MIB = 1 << 20
MOST = 4 * MIB
PAUSE = 0.1
"""Seconds of CPU time of one callback."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Local]:
    async with local_server(tmp_path_factory.mktemp("lists")) as local:
        yield local


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def fetched(local: Local, path: str, most: int = MOST) -> bytes:
    """The answer's body, which must be in bounds, as must be what it cost the loop."""
    await local.call("GET", "/roles")
    local.probe.reset()
    answer = await local.call("GET", path)
    longest, which = local.probe.longest, local.probe.which
    assert answer.status_code == 200, answer.text[:500]
    print(f"{path}: {len(answer.content)} bytes, {longest * 1000:.0f} ms")
    assert len(answer.content) <= most
    assert longest < PAUSE, which
    return answer.content


async def pipeline_with(local: Local, name: str, spec: dict[str, Any]) -> str:
    made = await local.ask("POST", "/pipelines", json={"name": name})
    path = f"/pipelines/{made['pipelineId']}"
    body = json.dumps({"spec": spec}).encode()
    await local.ask("POST", f"{path}/spec/save", content=body, headers={"Content-Type": "application/json"})
    return str(made["pipelineId"])


async def copied(local: Local, table: Any, id: str, count: int, **values: Any) -> None:
    """Rows like that one, with other ids; ``values`` may be functions of the number."""

    def fill(tx: Tx) -> None:
        row = tx.conn.execute(select(table).where(table.c.id == id)).one()._mapping
        rows = []
        for number in range(count):
            given = {key: value(number) if callable(value) else value for key, value in values.items()}
            rows.append({**{c.name: row[c] for c in table.c}, "id": str(uuid7()), **given})
        tx.conn.execute(insert(table), rows)

    await local.graph.storage.write(fill)


async def test_pipelines(local: Local) -> None:
    """Whatever an older release has accepted as metadata."""
    first = await pipeline_with(local, "listed", spec_for("nobody"))
    huge = orjson.dumps({"a": "x" * 1_900_000}).decode()
    largest = orjson.dumps({"a": "x" * (list_store.MAX_LISTED - 8)}).decode()
    names = {
        "name": lambda n: f"listed {n:03}" + "x" * 100,
        "description": "\x01" * 2000,
        "file_path": "ä" * 500,
    }
    await copied(local, pipelines, first, 5, metadata=huge, **names)
    found = orjson.loads(await fetched(local, "/pipelines?pageSize=100"))["detail"]["list"]
    assert [one["metadata"] for one in found if one["name"] != "listed"] == [{}] * 5
    assert all(one["metadataOmitted"] for one in found if one["name"] != "listed")
    later = dict(names, name=lambda n: f"listed later {n:03}")
    await copied(local, pipelines, first, 95, metadata=largest, **later)
    found = orjson.loads(await fetched(local, "/pipelines?pageSize=100"))["detail"]["list"]
    assert len(found) == 100
    assert len(found[-1]["metadata"]["a"]) == list_store.MAX_LISTED - 8
    assert "metadataOmitted" not in found[-1]
    [one] = [one for one in found if one["name"].startswith("listed 000")]
    alone = await local.ask("GET", f"/pipelines/{one['pipelineId']}")
    assert len(alone["metadata"]["a"]) == 1_900_000


async def large_run(local: Local, name: str) -> tuple[str, str]:
    """A pipeline and a run of it: 5,000 steps in 1,000 jobs."""
    [step] = spec_for("nobody")["jobs"][0]["steps"]
    five = [{**step, "name": f"step-{m}"} for m in range(5)]
    spec = {"jobs": [{"name": f"job-{n}", "steps": five} for n in range(1000)]}
    pipeline_id = await pipeline_with(local, name, spec)
    run = await local.ask("POST", f"/pipelines/{pipeline_id}/trigger", json={})
    return pipeline_id, str(run["runId"])


async def test_runs(local: Local) -> None:
    """Lists load none of the runs, and show no large variables."""
    pipeline_id, run_id = await large_run(local, "many")
    variables = orjson.dumps({"a": "x" * 250_000}).decode()
    text = {
        "branch": "ä" * 200,
        "tag": "ä" * 200,
        "reason": "\x01" * 500,
        "status": "succeeded",
        "unsettled": False,
    }
    await copied(local, runs, run_id, 200, variables=variables, **text)
    found = orjson.loads(await fetched(local, "/workflow-runs?limit=100"))
    assert (len(found["runs"]), found["pagination"]["total"]) == (100, 201)
    path = f"/pipelines/{pipeline_id}/runs"
    listed = orjson.loads(await fetched(local, f"{path}?pageSize=100"))["detail"]
    assert (len(listed["list"]), listed["total"]) == (100, 201)
    one = listed["list"][0]
    assert (one["variables"], one["variablesOmitted"], one["totalJobs"]) == ({}, True, 1000)
    alone = await local.ask("GET", f"{path}/{one['runId']}")
    assert (len(alone["variables"]["a"]), alone["totalJobs"]) == (250_000, 1000)
    last = await local.ask("GET", f"{path}/{run_id}")
    assert (last["variables"], last.get("variablesOmitted")) == ({}, None)


async def test_the_counts_of_a_runs_jobs_are_those_of_the_loaded_run(local: Local) -> None:
    """Also for a run of an older release, whose row has no number of jobs."""
    _, run_id = await large_run(local, "counted")

    def change(tx: Tx) -> None:
        tx.conn.execute(
            update(jobs).where(jobs.c.run_id == run_id, jobs.c.index == 3).values(status="failed")
        )
        tx.conn.execute(
            update(jobs).where(jobs.c.run_id == run_id, jobs.c.index == 4).values(status="running")
        )

    await local.graph.storage.write(change)

    def read(conn: Connection) -> list[dict[str, int]]:
        row = conn.execute(select(runs).where(runs.c.id == run_id)).one()
        loaded = engine_store.load_run(conn, run_id)
        assert loaded is not None
        return [list_store.count_jobs(conn, [row])[run_id], loaded.counts.shown()]

    for job_count in (1000, 0):
        forget = update(runs).where(runs.c.id == run_id).values(job_count=job_count)
        await local.graph.storage.write(lambda tx, forget=forget: tx.conn.execute(forget))
        ours, loaded = await local.graph.storage.read(read)
        assert ours == loaded
        assert ours["failed"] >= 1


async def test_the_view_of_the_largest_run(local: Local) -> None:
    _, run_id = await large_run(local, "largest")
    await _spoil(local, run_id)
    view = orjson.loads(await fetched(local, f"/workflow-runs/{run_id}", 4 * MIB))
    all_steps = [step for job in view["jobs"] for step in job["steps"]]
    left_out = sum(job.get("steps_omitted", 0) for job in view["jobs"])
    assert len(all_steps) + left_out == 5000
    assert len(all_steps) > 3000
    last = orjson.loads(await fetched(local, f"/workflow-runs/{run_id}?job={view['jobs'][-1]['name']}"))
    assert [len(job["steps"]) for job in last["jobs"]] == [5]
    omitted = [step for step in all_steps if step.get("outputs_omitted")]
    assert len(omitted) > 100
    assert all(step["outputs"] == {} for step in omitted)
    assert any(len(step["outputs"]) for step in all_steps)
    assert any(step.get("attempts_omitted") == 4 for step in all_steps)
    name = next(job["name"] for job in view["jobs"] if job["steps"][0].get("outputs_omitted"))
    alone = orjson.loads(await fetched(local, f"/workflow-runs/{run_id}?job={name}&step=step-0"))
    [job] = alone["jobs"]
    [step] = job["steps"]
    assert (job["name"], step["name"]) == (name, "step-0")
    assert len(step["outputs"]["a"]) == 50_000
    assert "outputs_omitted" not in step
    assert [len(attempt["error"]) for attempt in step["attempts"]] == [4096] * 5


async def _spoil(local: Local, run_id: str) -> None:
    """Outputs, errors and reasons as long as they get."""

    def change(tx: Tx) -> None:
        run = engine_store.load_run(tx.conn, run_id)
        assert run is not None
        made = []
        for job in run.jobs:
            step = job.steps[0]
            step.outputs, step.reason, step.status = {"a": "x" * 50_000}, "ä" * 4000, Status.FAILED
            step.attempts = 5
            engine_store.save_part(tx.conn, run_id, step)
            made += [
                Attempt(str(uuid7()), step.id, number, Status.FAILED, selector="{}", error="\x01" * 4096)
                for number in range(1, 6)
            ]
        engine_store.insert_attempts(tx.conn, run_id, made)

    await local.graph.storage.write(change)


async def test_gates(local: Local) -> None:
    row = {
        "run_id": str(uuid7()),
        "project": str(uuid7()),
        "kind": "hold",
        "status": "open",
        "child_run": "",
        "opened_at": 1,
        "deadline": 0,
    }
    more = {
        "closed_at": 0,
        "decided_by": "",
        "decided_by_id": "",
        "message": "\x01" * 1000,
        "comment": "\x01" * 1000,
    }
    names = orjson.dumps(["ä" * 63] * 50).decode()

    def fill(tx: Tx) -> None:
        rows = [{**row, **more, "id": str(uuid7()), "roles": names, "users": names} for _ in range(150)]
        tx.conn.execute(insert(gates), rows)

    await local.graph.storage.write(fill)
    assert len(orjson.loads(await fetched(local, "/gates?limit=100"))["gates"]) == 100


async def test_the_audit_trail(local: Local) -> None:
    """More than are counted: a reader of page after page still sees all."""
    count = AHEAD + 500

    def fill(tx: Tx) -> None:
        one = {
            "at": 1,
            "actor_kind": "user",
            "actor_id": "x",
            "actor": "x" * 63,
            "action": "bounds.tested",
            "target": "t" * 300,
        }
        detail = orjson.dumps({"reason": "\x01" * 500, "fields": ["x" * 50] * 20}).decode()
        values = {**one, "address": "192.0.2.1", "request_id": "r" * 128, "detail": detail}
        tx.conn.execute(insert(audit_records), [{**values, "id": str(uuid7())} for _ in range(count)])

    await local.graph.storage.write(fill)
    path = "/audit?action=bounds.tested&limit=100"
    found = orjson.loads(await fetched(local, path))
    assert (len(found["entries"]), found["pagination"]["total"]) == (100, AHEAD)
    found = orjson.loads(await fetched(local, f"{path}&page=100"))
    assert found["pagination"]["total"] == count
    found = orjson.loads(await fetched(local, f"{path}&page=105"))
    assert (len(found["entries"]), found["pagination"]["total"]) == (100, count)
    assert orjson.loads(await fetched(local, f"{path}&page=106"))["entries"] == []
    chosen = select(audit_records).where(audit_records.c.action == "bounds.tested")
    for offset, expected in ((0, AHEAD), (100, AHEAD + 100), (10_000, AHEAD + 500)):
        counted = await local.graph.storage.read(lambda conn, at=offset: count_ahead(conn, chosen, at))
        assert counted == expected


async def test_projects_users_and_tokens(local: Local) -> None:
    def fill(tx: Tx) -> None:
        made = [str(uuid7()) for _ in range(2000)]
        one = {"email": "x" * 254, "role": "user", "active": True, "created_at": 1, "updated_at": 1}
        row = tx.conn.execute(select(users)).first()
        assert row is not None
        base = {**row._mapping, **one}
        tx.conn.execute(
            insert(users),
            [
                {**base, "id": id, "username": f"{n:063}", "username_key": f"{n:063}"}
                for n, id in enumerate(made)
            ],
        )
        projects = list(tx.conn.execute(select(project_members.c.project_id).distinct()).scalars())
        for project in projects:
            tx.conn.execute(insert(project_members), [{"project_id": project, "user_id": id} for id in made])

    for number in range(20):
        await local.ask("POST", "/projects", json={"name": f"listed {number}", "members": ["admin"]})
    await local.graph.storage.write(fill)
    listed = orjson.loads(await fetched(local, "/projects?pageSize=100"))["detail"]["list"]
    large = next(one for one in listed if one["name"] == "listed 0")
    assert (len(large["members"]), large["membersCount"]) == (100, 2001)
    assert len(orjson.loads(await fetched(local, "/users?limit=100"))["users"]) == 100
    for path in (
        "/tokens?user=*&limit=100",
        "/agents?limit=100",
        "/registration-tokens",
        "/secrets",
        "/roles",
    ):
        await fetched(local, path)
