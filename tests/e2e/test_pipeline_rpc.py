"""pipeline.v1.PipelineService as a client from the contract's table alone sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format

from support.fake_agent import registered
from support.server import Server, running, spec_for
from support.user_rpc import UserRpc, user_rpc
from support.waiting import eventually
from support.wire_table import table
from support.world import UNKNOWN

SPEC = {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": "shell", "args": {"command": "true"}}]}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("pipeline-rpc")) as server:
        yield server


@pytest.fixture
def rpc(server: Server) -> Iterator[UserRpc]:
    with user_rpc(server, "pipeline.v1.PipelineService") as rpc:
        yield rpc


def test_a_pipeline_lives(server: Server, rpc: UserRpc) -> None:
    made = rpc("CreatePipeline", name="lives", description="d", metadata={"team": "a"}, createdBy="mallory")
    assert (made.success, made.message) == (True, "success")
    shown = rpc("GetPipeline", pipelineId=made.pipeline_id).pipeline
    assert (shown.name, shown.description, dict(shown.metadata)) == ("lives", "d", {"team": "a"})
    assert (shown.created_by, shown.is_enabled, shown.save_mode, shown.status) == ("admin", 1, 1, 0)
    assert shown.project_id == server.default_project
    assert abs(shown.created_at - time.time()) < 60
    assert rpc("UpdatePipeline", pipelineId=made.pipeline_id, description="new").success
    shown = rpc("GetPipeline", pipelineId=made.pipeline_id).pipeline
    assert (shown.name, shown.description, shown.is_enabled) == ("lives", "new", 1)
    assert shown.name == server.ask("GET", f"/pipelines/{made.pipeline_id}")["name"]
    assert rpc("UpdatePipeline", pipelineId=made.pipeline_id, isEnabled=2).success
    assert rpc("GetPipeline", pipelineId=made.pipeline_id).pipeline.is_enabled == 0
    assert rpc("DeletePipeline", pipelineId=made.pipeline_id).success
    for method in ("GetPipeline", "DeletePipeline", "GetPipelineSpec", "TriggerPipeline", "UpdatePipeline"):
        gone = rpc(method, pipelineId=made.pipeline_id)
        assert not gone.success
        assert (gone.error.code, gone.error.type) == (404, "PIPELINE_NOT_FOUND"), method
        assert gone.message == gone.error.message != ""


def test_a_name_that_is_taken_is_an_outcome(rpc: UserRpc) -> None:
    assert rpc("CreatePipeline", name="taken").success
    again = rpc("CreatePipeline", name="taken")
    assert (again.success, again.pipeline_id, again.error.type) == (False, "", "PIPELINE_ALREADY_EXISTS")
    assert again.error.code == 409
    other = rpc("CreatePipeline", name="other")
    renamed = rpc("UpdatePipeline", pipelineId=other.pipeline_id, name="taken")
    assert renamed.error.type == "PIPELINE_ALREADY_EXISTS"
    assert rpc("CreatePipeline", name="x", projectId=UNKNOWN).error.type == "PROJECT_NOT_FOUND"


def test_pages_and_filters(server: Server, rpc: UserRpc) -> None:
    project = server.project("paged")
    for number in range(5):
        rpc("CreatePipeline", name=f"p{number}", projectId=project)
    first = rpc("ListPipelines", projectId=project, pageSize=2)
    assert ([p.name for p in first.pipelines], first.total) == (["p0", "p1"], 5)
    assert (first.success, first.page, first.page_size) == (True, 1, 2)
    last = rpc("ListPipelines", projectId=project, page=3, pageSize=2)
    assert [p.name for p in last.pipelines] == ["p4"]
    assert rpc("ListPipelines", projectId=project).page_size == 20
    assert [p.name for p in rpc("ListPipelines", projectId=project, name="p3").pipelines] == ["p3"]
    assert rpc("ListPipelines", projectId=project, status=2).total == 0
    stranger = server.user("paged-stranger", "user", [])
    assert rpc("ListPipelines", stranger, projectId=project).total == 0


@pytest.mark.parametrize("form", [0, 1, 2])
def test_specs_come_back_as_they_were_saved(rpc: UserRpc, form: int) -> None:
    made = rpc("CreatePipeline", name=f"spec-{form}").pipeline_id
    missing = rpc("GetPipelineSpec", pipelineId=made)
    assert (missing.success, missing.error.type) == (False, "SPEC_NOT_FOUND")
    args = {"command": "echo hi", "shell": "bash"}
    step = {"name": "s", "uses": "shell", "args": args, "timeout": "5m", "continueOnError": True}
    step |= {"agentSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}}
    spec = {"variables": {"v": "1"}, "jobs": [{"name": "j", "steps": [step]}, {"name": "k", "steps": [step]}]}
    spec["jobs"][1]["dependsOn"] = ["j"]
    checked = rpc("ValidatePipelineSpec", pipelineId=made, spec=spec, format=form)
    assert (checked.success, checked.jobs_count, checked.error.type) == (True, 2, "")
    saved = rpc("SavePipelineSpec", pipelineId=made, spec=spec, format=form, commitMessage="m")
    assert saved.success
    assert (len(saved.commit_sha), saved.save_mode) == (40, 1)
    found = rpc("GetPipelineSpec", pipelineId=made)
    assert (found.success, found.head_commit_sha) == (True, saved.commit_sha)
    assert found.format == (2 if form == 2 else 1)
    shown = json_format.MessageToDict(found.spec)
    assert shown["variables"] == {"v": "1"}
    assert [job["name"] for job in shown["jobs"]] == ["j", "k"]
    assert shown["jobs"][1]["dependsOn"] == ["j"]
    assert shown["jobs"][0]["steps"][0] == {**step, "action": "command"}
    conflict = rpc("SavePipelineSpec", pipelineId=made, spec=SPEC, expectedHeadCommitSha="0" * 40)
    assert (conflict.success, conflict.error.type) == (False, "SPEC_CONFLICT")
    assert rpc("GetPipelineSpec", pipelineId=made).head_commit_sha == saved.commit_sha


def test_what_is_wrong_with_a_spec_is_an_outcome(rpc: UserRpc) -> None:
    made = rpc("CreatePipeline", name="wrong").pipeline_id
    spec = {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": "nothing-like-it"}]}]}
    for method in ("ValidatePipelineSpec", "SavePipelineSpec"):
        answer = rpc(method, pipelineId=made, spec=spec)
        assert not answer.success
        assert (answer.error.code, answer.error.type) == (400, "SPEC_INVALID")
        [problem] = json_format.MessageToDict(answer.error.details)["problems"]
        assert problem["path"].startswith("jobs[0].steps[0]")
        assert not rpc(method, pipelineId=made, spec={}).success
    assert rpc("GetPipelineSpec", pipelineId=made).error.type == "SPEC_NOT_FOUND"
    assert rpc("ValidatePipelineSpec", spec=SPEC).success, "no pipeline is needed for a check"


def test_the_same_request_id_starts_one_run(server: Server, rpc: UserRpc) -> None:
    pipeline = server.pipeline("once", spec_for("nobody"))
    first = rpc("TriggerPipeline", pipelineId=pipeline, requestId="r1", variables={})
    again = rpc("TriggerPipeline", pipelineId=pipeline, requestId="r1", variables={})
    assert first.success
    assert first.run_id == again.run_id
    other = rpc("TriggerPipeline", pipelineId=pipeline, requestId="r1", variables={"a": "b"})
    assert (other.success, other.error.type) == (False, "IDEMPOTENCY_KEY_REUSED")
    assert rpc("TriggerPipeline", pipelineId=pipeline, requestId="r2").run_id != first.run_id
    assert rpc("ListPipelineRuns", pipelineId=pipeline).total == 2
    needs = {
        "jobs": [{"name": "j", "steps": [{"name": "s", "run": "true", "env": {"A": "${{ secrets.NONE }}"}}]}]
    }
    wrong = rpc("TriggerPipeline", pipelineId=server.pipeline("lacks", needs))
    assert (wrong.success, wrong.error.type) == (False, "SPEC_INVALID")
    rpc("UpdatePipeline", pipelineId=pipeline, isEnabled=2)
    assert rpc("TriggerPipeline", pipelineId=pipeline).error.type == "PIPELINE_DISABLED"


async def test_a_run_is_paused_resumed_and_stopped(server: Server, rpc: UserRpc) -> None:
    pipeline = server.pipeline("controlled", spec_for("controlled", "a", "b"))
    run_id = rpc("TriggerPipeline", pipelineId=pipeline).run_id
    named = {"pipelineId": pipeline, "runId": run_id, "reason": "because", "operator": "mallory"}

    def run() -> Any:
        return rpc("GetPipelineRun", runId=run_id).run

    assert (run().status, run().pipeline_name, run().total_jobs) == (2, "controlled", 1)
    assert (run().triggered_by, run().trigger_type, run().end_time) == ("admin", 1, 0)
    assert rpc("PausePipeline", **named).success
    twice = rpc("PausePipeline", **named)
    assert (twice.success, twice.error.type) == (False, "INVALID_STATE_TRANSITION")
    assert run().status == 6
    assert [r.run_id for r in rpc("ListPipelineRuns", pipelineId=pipeline, status=6).runs] == [run_id]
    agent = await registered(server, "controlled")
    try:
        with pytest.raises(TimeoutError):
            await agent.task(timeout=0.5)  # nothing is handed out
        assert rpc("ResumePipeline", **named).success
        task = await agent.task()
        await agent.ack(task)
        await eventually(lambda: run().running_jobs == 1)
        assert rpc("PausePipeline", **named).success
        await agent.finish(task)
        with pytest.raises(TimeoutError):
            await agent.task(timeout=0.5)
        assert rpc("ResumePipeline", **named).success
        assert (await agent.task()).step_name == "b"
    finally:
        await agent.vanish()
    other = server.pipeline("not-its", spec_for("nobody"))
    for method in ("StopPipeline", "PausePipeline", "ResumePipeline"):
        assert rpc(method, pipelineId=other, runId=run_id).error.type == "RUN_NOT_FOUND"
        assert rpc(method, runId=UNKNOWN).error.type == "RUN_NOT_FOUND"
    assert rpc("StopPipeline", runId=run_id, reason="enough").success
    await eventually(lambda: run().status == 5)
    assert server.ask("GET", f"/workflow-runs/{run_id}")["reason"] == "enough"
    assert rpc("StopPipeline", runId=run_id).error.type == "INVALID_STATE_TRANSITION"
    assert run().end_time >= run().start_time > 0
    rpc("DeletePipeline", pipelineId=pipeline)
    assert run().pipeline_id == pipeline, "runs outlive their pipeline"


LONG = "x" * 3000
BAD: list[tuple[str, dict[str, Any]]] = [
    ("CreatePipeline", {}),
    ("CreatePipeline", {"name": "a\nb"}),
    ("CreatePipeline", {"name": "n" * 300}),
    ("CreatePipeline", {"name": "bad", "description": LONG}),
    ("CreatePipeline", {"name": "bad", "saveMode": 99}),
    ("CreatePipeline", {"name": "bad", "metadata": {f"k{n}": "v" for n in range(200)}}),
    ("CreatePipeline", {"name": "bad", "metadata": {"k": "v" * 100_000}}),
    ("CreatePipeline", {"name": "bad", "projectId": "p" * 300}),
    ("UpdatePipeline", {"name": "new"}),
    ("UpdatePipeline", {"pipelineId": "REAL", "isEnabled": 7}),
    ("UpdatePipeline", {"pipelineId": "REAL", "isEnabled": -1}),
    ("UpdatePipeline", {"pipelineId": "REAL", "description": LONG}),
    ("GetPipeline", {}),
    ("GetPipeline", {"pipelineId": "x" * 300}),
    ("GetPipeline", {"pipelineId": "a\u0000b"}),
    ("ListPipelines", {"page": -1}),
    ("ListPipelines", {"page": 2_000_000}),
    ("ListPipelines", {"pageSize": 101}),
    ("ListPipelines", {"pageSize": -5}),
    ("ListPipelines", {"status": 99}),
    ("ListPipelines", {"name": "n" * 300}),
    ("DeletePipeline", {}),
    ("TriggerPipeline", {}),
    ("TriggerPipeline", {"pipelineId": "REAL", "requestId": "r" * 300}),
    ("TriggerPipeline", {"pipelineId": "REAL", "variables": {f"k{n}": "" for n in range(300)}}),
    ("TriggerPipeline", {"pipelineId": "REAL", "variables": {"k": "v" * 300_000}}),
    ("StopPipeline", {"pipelineId": "REAL"}),
    ("StopPipeline", {"pipelineId": "REAL", "runId": "RUN", "reason": LONG}),
    ("PausePipeline", {"pipelineId": "REAL"}),
    ("PausePipeline", {"pipelineId": "REAL", "runId": "RUN", "reason": LONG}),
    ("ResumePipeline", {"runId": "r" * 300}),
    ("GetPipelineRun", {}),
    ("ListPipelineRuns", {"pipelineId": "REAL", "status": -1}),
    ("ListPipelineRuns", {"pipelineId": "REAL", "pageSize": 1000}),
    ("GetPipelineSpec", {}),
    ("ValidatePipelineSpec", {"pipelineId": "REAL"}),
    ("ValidatePipelineSpec", {"spec": {}, "format": 9}),
    ("SavePipelineSpec", {"pipelineId": "REAL"}),
    ("SavePipelineSpec", {"spec": SPEC}),
    ("SavePipelineSpec", {"pipelineId": "REAL", "spec": SPEC, "format": 9}),
    ("SavePipelineSpec", {"pipelineId": "REAL", "spec": SPEC, "commitMessage": LONG}),
    ("SavePipelineSpec", {"pipelineId": "REAL", "spec": SPEC, "expectedHeadCommitSha": "0" * 100}),
]  # fmt: skip


def test_bad_requests_are_refused_and_change_nothing(server: Server, rpc: UserRpc) -> None:
    pipeline = server.pipeline("walked", spec_for("nobody"))
    run_id = server.trigger(pipeline)

    def everything() -> Any:
        return (
            server.ask("GET", "/pipelines?pageSize=100"),
            server.ask("GET", f"/pipelines/{pipeline}/spec"),
            server.ask("GET", f"/workflow-runs/{run_id}"),
            server.ask("GET", "/workflow-runs?limit=100")["pagination"],
        )

    before, wrong = everything(), []
    for method, fields in BAD:
        given = {
            k: {"REAL": pipeline, "RUN": run_id}.get(v, v) if isinstance(v, str) else v
            for k, v in fields.items()
        }
        status = rpc.refused(method, **given)
        if status != "INVALID_ARGUMENT":
            wrong.append((method, str(fields)[:80], status))
    assert wrong == []
    assert everything() == before
    served = {m.split("/")[1] for m in table().methods if m.startswith("pipeline.v1.PipelineService/")}
    assert {method for method, _ in BAD} == served, "every request message is walked"


def test_members_alone_see_and_change_a_projects_pipelines(server: Server, rpc: UserRpc) -> None:
    project = server.project("closed")
    pipeline = server.pipeline("closed", spec_for("nobody"), project=project)
    run_id = server.trigger(pipeline)
    stranger = server.user("rpc-stranger", "user", [])
    viewer = server.user("rpc-viewer", "viewer", [project])
    by_pipeline = {"pipelineId": pipeline, "runId": run_id, "spec": SPEC}
    names = {"GetPipeline": "", "GetPipelineSpec": "", "TriggerPipeline": "r", "UpdatePipeline": "r",
             "DeletePipeline": "r", "ValidatePipelineSpec": "", "SavePipelineSpec": "r"}  # fmt: skip

    def fields(method: str) -> dict[str, Any]:
        return {name: value for name, value in by_pipeline.items() if _has(method, name)}

    for method, write in names.items():
        assert rpc(method, stranger, **fields(method)).error.type == "PIPELINE_NOT_FOUND", method
        status = rpc.refused(method, viewer, **fields(method))
        assert status == ("PERMISSION_DENIED" if write else "OK"), method
    for method in ("StopPipeline", "PausePipeline", "ResumePipeline"):
        assert rpc(method, stranger, **fields(method)).error.type == "RUN_NOT_FOUND", method
        assert rpc.refused(method, viewer, **fields(method)) == "PERMISSION_DENIED"
    assert rpc("GetPipelineRun", stranger, runId=run_id).error.type == "RUN_NOT_FOUND"
    assert rpc.refused("ListPipelineRuns", stranger, pipelineId=pipeline) == "NOT_FOUND"
    assert rpc("ListPipelineRuns", stranger).total == 0
    assert rpc("GetPipelineRun", viewer, runId=run_id).success
    assert rpc.refused("ListPipelines", None) == "UNAUTHENTICATED"


def _has(method: str, field: str) -> bool:
    asks = table().methods[f"pipeline.v1.PipelineService/{method}"][0]
    return field in {f.camelcase_name for f in table().message(asks).DESCRIPTOR.fields}


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
