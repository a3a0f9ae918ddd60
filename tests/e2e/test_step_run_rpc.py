"""steprun.v1.StepRunService as a client from the contract's table alone sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format

from support.fake_agent import FAILED, FakeAgent, registered
from support.server import Server, running, spec_for
from support.user_rpc import UserRpc, user_rpc
from support.waiting import eventually
from support.wire_table import table
from support.world import UNKNOWN

PENDING, QUEUED, RUNNING, SUCCESS, CANCELLED, SKIPPED = 1, 2, 3, 4, 6, 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("step-run-rpc")) as server:
        yield server


@pytest.fixture
def rpc(server: Server) -> Iterator[UserRpc]:
    with user_rpc(server, "steprun.v1.StepRunService") as rpc:
        yield rpc


def steps_of(rpc: UserRpc, run_id: str, **more: Any) -> list[Any]:
    return list(rpc("ListStepRuns", pipelineRunId=run_id, **more).step_runs)


def one(rpc: UserRpc, step_run_id: str) -> Any:
    return rpc("GetStepRun", stepRunId=step_run_id).step_run


def start(server: Server, name: str, *steps: str) -> tuple[str, str]:
    """A run whose steps only the agent of this name takes."""
    pipeline = server.pipeline(name, spec_for(name, *steps))
    return pipeline, server.trigger(pipeline)


async def finish(agent: FakeAgent, name: str, status: int = SUCCESS) -> Any:
    task = await agent.task()
    assert task.step_name == name
    await agent.ack(task)
    await agent.finish(task, status, 0 if status == SUCCESS else 1)
    return task


def test_every_step_has_a_step_run_from_the_start(server: Server, rpc: UserRpc) -> None:
    pipeline, run_id = start(server, "listed", "a", "b", "c")
    found = steps_of(rpc, run_id)
    assert [(s.step_name, s.step_index, s.status) for s in found] == [
        ("a", 0, QUEUED), ("b", 1, PENDING), ("c", 2, PENDING)]  # fmt: skip
    shown = one(rpc, found[1].step_run_id)
    assert (shown.pipeline_id, shown.pipeline_run_id, shown.job_name) == (pipeline, run_id, found[0].job_name)
    assert (shown.created_by, shown.agent_id) == ("admin", "")
    assert shown.created_at > 0
    assert (shown.uses, shown.action) == (found[1].uses, found[1].action) != ("", "")
    assert [s.step_name for s in steps_of(rpc, run_id, status=PENDING)] == ["b", "c"]
    assert [s.step_name for s in steps_of(rpc, run_id, stepName="b")] == ["b"]
    assert len(steps_of(rpc, run_id, jobId=shown.job_id)) == 3
    assert steps_of(rpc, run_id, jobName="other") == []
    assert steps_of(rpc, run_id, agentId="nobody") == []
    page = rpc("ListStepRuns", pipelineRunId=run_id, page=2, pageSize=2)
    assert ([s.step_name for s in page.step_runs], page.total, page.page, page.page_size) == (["c"], 3, 2, 2)
    names = [s.step_name for s in steps_of(rpc, run_id, sortBy="step_name", sortDesc=True)]
    assert names == ["c", "b", "a"]
    over_all = rpc("ListStepRuns", pipelineId=pipeline)
    assert [s.step_run_id for s in over_all.step_runs] == [found[0].step_run_id], "what was queued"
    assert rpc.refused("ListStepRuns", pipelineRunId=UNKNOWN) == "NOT_FOUND"
    gone = rpc("GetStepRun", stepRunId=UNKNOWN)
    assert (gone.success, gone.error.code, gone.error.type) == (False, 404, "STEP_RUN_NOT_FOUND")
    assert list(rpc("ListStepRunArtifacts", stepRunId=shown.step_run_id).artifacts) == []
    assert rpc("ListStepRunArtifacts", stepRunId=UNKNOWN).error.type == "STEP_RUN_NOT_FOUND"


async def test_a_step_is_appended_and_runs(server: Server, rpc: UserRpc) -> None:
    pipeline, run_id = start(server, "appended", "a")
    job = steps_of(rpc, run_id)[0].job_name
    server.ask("PUT", "/secrets/APPENDED", json={"value": "s3cr3t-appended"})
    given = {"pipelineId": pipeline, "pipelineRunId": run_id, "jobName": job, "stepName": "added",
             "uses": "shell", "args": {"command": "echo ${{ run.id }}"}, "env": {"A": "1"},
             "secrets": {"B": "APPENDED"}, "timeout": "90s", "continueOnError": True,
             "agentSelector": {"matchLabels": {"only": "appended"}}}  # fmt: skip
    made = rpc("CreateStepRun", **given)
    assert (made.success, made.message) == (True, "success")
    shown = one(rpc, made.step_run_id)
    assert (shown.step_name, shown.step_index, shown.status, shown.action) == ("added", 1, PENDING, "command")
    assert (shown.timeout, shown.continue_on_error) == ("1m30s", True)
    assert dict(shown.env) == {"A": "1", "B": '${{ secrets["APPENDED"] }}'}
    assert json_format.MessageToDict(shown.args) == {"command": "echo ${{ run.id }}"}
    assert dict(shown.agent_selector.match_labels) == {"only": "appended"}
    for wrong, code in (
        ({**given, "stepName": "a"}, "SPEC_INVALID"),
        ({**given, "stepName": "x", "uses": "nothing"}, "SPEC_INVALID"),
        ({**given, "stepName": "x", "secrets": {"B": "NO_SUCH"}}, "SPEC_INVALID"),
        ({**given, "jobName": "other"}, "JOB_NOT_FOUND"),
        ({**given, "pipelineRunId": UNKNOWN}, "RUN_NOT_FOUND"),
        ({**given, "pipelineId": UNKNOWN}, "RUN_NOT_FOUND"),
    ):
        answer = rpc("CreateStepRun", **wrong)
        assert (answer.success, answer.error.type) == (False, code), answer
    assert len(steps_of(rpc, run_id)) == 2
    async with await registered(server, "appended") as agent:
        await finish(agent, "a")
        task = await agent.task()
        assert (task.step_run_id, task.timeout) == (made.step_run_id, "1m30s")
        assert dict(task.env)["B"] == "s3cr3t-appended"
        await agent.ack(task)
        await agent.finish(task)
        await eventually(lambda: one(rpc, made.step_run_id).status == SUCCESS)
    ended = rpc("CreateStepRun", **{**given, "stepName": "late"})
    assert (ended.success, ended.error.type) == (False, "INVALID_STATE_TRANSITION")
    labels = dict(one(rpc, made.step_run_id).agent_labels)
    assert labels["only"] == "appended"


async def test_a_step_changes_until_it_is_handed_out(server: Server, rpc: UserRpc) -> None:
    _, run_id = start(server, "changed", "a", "b", "c")
    first, second, third = (s.step_run_id for s in steps_of(rpc, run_id))
    assert rpc("UpdateStepRun", stepRunId=first, env={"NEW": "${{ run.id }}"}).success
    assert rpc("UpdateStepRun", stepRunId=second, timeout="2m").success
    assert one(rpc, second).timeout == "2m"
    for fields in ({"timeout": "soon"}, {"env": {"1 bad": ""}}, {"env": {"A": "${{ secrets.NONE }}"}}):
        assert rpc("UpdateStepRun", stepRunId=first, **fields).error.type == "SPEC_INVALID", fields
    assert rpc("DeleteStepRun", stepRunId=third).success
    assert rpc("GetStepRun", stepRunId=third).error.type == "STEP_RUN_NOT_FOUND"
    assert [s.step_name for s in steps_of(rpc, run_id)] == ["a", "b"]
    assert rpc("DeleteStepRun", stepRunId=third).error.type == "STEP_RUN_NOT_FOUND"
    server.stop()
    server.restart()
    assert [s.step_name for s in steps_of(rpc, run_id)] == ["a", "b"]
    async with await registered(server, "changed") as agent:
        task = await agent.task()
        assert dict(task.env)["NEW"] == run_id
        for method, more in (("UpdateStepRun", {"timeout": "1s"}), ("DeleteStepRun", {})):
            late = rpc(method, stepRunId=first, **more)
            assert (late.success, late.error.type) == (False, "INVALID_STATE_TRANSITION")
        await agent.ack(task)
        await agent.finish(task)
        task = await agent.task()
        assert (task.step_name, task.timeout) == ("b", "2m")
        await agent.ack(task)
        await agent.finish(task)
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")
    over = rpc("UpdateStepRun", stepRunId=first, timeout="1s")
    assert (over.success, over.error.type) == (False, "INVALID_STATE_TRANSITION")


async def test_a_queued_step_that_is_deleted_is_not_handed_out(server: Server, rpc: UserRpc) -> None:
    _, run_id = start(server, "deleted", "a", "b")
    assert rpc("DeleteStepRun", stepRunId=steps_of(rpc, run_id)[0].step_run_id).success
    async with await registered(server, "deleted") as agent:
        await finish(agent, "b")
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")


async def test_a_cancel_reaches_the_agent(server: Server, rpc: UserRpc) -> None:
    _, run_id = start(server, "stopped", "a", "b")
    async with await registered(server, "stopped") as agent:
        task = await agent.task()
        await agent.ack(task)
        await eventually(lambda: one(rpc, task.step_run_id).status == RUNNING)
        assert rpc("CancelStepRun", stepRunId=task.step_run_id, reason="enough").success
        await eventually(lambda: task.step_run_id in agent.cancelled)
        await agent.finish(task, CANCELLED)
        await eventually(lambda: one(rpc, task.step_run_id).status == CANCELLED)
    assert one(rpc, task.step_run_id).error_message == "enough"
    again = rpc("CancelStepRun", stepRunId=task.step_run_id)
    assert (again.success, again.error.type) == (False, "INVALID_STATE_TRANSITION")
    assert server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "cancelled"


async def test_a_retry_opens_an_ended_run_for_the_step_and_what_depends_on_it(
    server: Server, rpc: UserRpc
) -> None:
    def job(name: str, *steps: str, **more: Any) -> dict[str, Any]:
        [made] = spec_for("retried", *steps)["jobs"]
        return {**made, "name": name, **more}

    spec = {"jobs": [job("j", "a", "b", "c"), job("k", "d", dependsOn=["j"]), job("other", "e")]}
    run_id = server.trigger(server.pipeline("retried", spec))
    agent = await registered(server, "retried", slots=1)
    ran: list[str] = []

    def status() -> str:
        return str(server.ask("GET", f"/workflow-runs/{run_id}")["status"])

    async def work(fails: str) -> None:
        while status() == "running":
            try:
                task = await agent.task(timeout=1)
            except TimeoutError:
                continue
            ran.append(task.step_name)
            await agent.ack(task)
            await agent.finish(
                task, FAILED if task.step_name == fails else SUCCESS, int(task.step_name == fails)
            )

    try:
        await work(fails="b")
        assert (status(), sorted(ran)) == ("failed", ["a", "b", "e"])
        before = {s.step_name: s for s in steps_of(rpc, run_id)}
        assert (before["c"].status, before["d"].status) == (SKIPPED, SKIPPED)
        for name in "ac":
            assert (
                rpc("RetryStepRun", stepRunId=before[name].step_run_id).error.type
                == "INVALID_STATE_TRANSITION"
            )
        assert status() == "failed"
        made = rpc("RetryStepRun", stepRunId=before["b"].step_run_id)
        assert made.success
        assert made.new_step_run_id not in ("", before["b"].step_run_id)
        assert (status(), one(rpc, made.new_step_run_id).step_name) == ("running", "b")
        ran.clear()
        await work(fails="")
        assert (status(), ran) == ("succeeded", ["b", "c", "d"])
        assert one(rpc, before["b"].step_run_id).status == FAILED
        assert one(rpc, made.new_step_run_id).status == SUCCESS
        assert rpc("RetryStepRun", stepRunId=before["b"].step_run_id).error.type == "INVALID_STATE_TRANSITION"
        stream = server.call(
            "GET", f"/workflow-runs/{run_id}/stream", headers={"Accept": "text/event-stream"}
        )
        ends = [line for line in stream.text.splitlines() if line == "event: workflow_completed"]
        assert len(ends) == 2, "the stream does not end where the run was opened again"
    finally:
        await agent.vanish()


LONG = "x" * 300
BAD: list[tuple[str, dict[str, Any]]] = [
    ("CreateStepRun", {}),
    ("CreateStepRun", {"pipelineRunId": "RUN"}),
    ("CreateStepRun", {"jobName": "JOB", "stepName": "x"}),
    ("CreateStepRun", {"pipelineRunId": LONG, "jobName": "JOB"}),
    *(
        ("CreateStepRun", {"pipelineRunId": "RUN", "jobName": "JOB", "stepName": "x", "uses": "shell", **more})
        for more in (
            {"stepIndex": -1}, {"stepIndex": 9}, {"workspace": "/etc"}, {"image": "alpine"},
            {"artifacts": [{"name": "a"}]}, {"plugins": [{"name": "p"}]}, {"secrets": {"A": "not a name!"}},
            {"secrets": {"A": "S"}, "env": {"A": "1"}},
        )
    ),
    ("GetStepRun", {}),
    ("GetStepRun", {"stepRunId": LONG}),
    ("GetStepRun", {"stepRunId": "a\u0000"}),
    ("ListStepRuns", {"page": -1}),
    ("ListStepRuns", {"pageSize": 1000}),
    ("ListStepRuns", {"status": 77}),
    ("ListStepRuns", {"sortBy": "args"}),
    ("ListStepRuns", {"pipelineRunId": "RUN", "sortBy": "; drop"}),
    ("ListStepRuns", {"jobName": LONG}),
    ("UpdateStepRun", {"timeout": "1s"}),
    ("UpdateStepRun", {"stepRunId": "STEP"}),
    ("DeleteStepRun", {}),
    ("CancelStepRun", {}),
    ("CancelStepRun", {"stepRunId": "STEP", "reason": "r" * 1000}),
    ("RetryStepRun", {"stepRunId": LONG}),
    ("ListStepRunArtifacts", {}),
]  # fmt: skip


def test_bad_requests_are_refused_and_change_nothing(server: Server, rpc: UserRpc) -> None:
    _, run_id = start(server, "walked", "a", "b")
    step = steps_of(rpc, run_id)[1]
    real = {"RUN": run_id, "JOB": step.job_name, "STEP": step.step_run_id}
    before, wrong = server.ask("GET", f"/workflow-runs/{run_id}"), []
    for method, fields in BAD:
        given = {k: real.get(v, v) if isinstance(v, str) else v for k, v in fields.items()}
        status = rpc.refused(method, **given)
        if status != "INVALID_ARGUMENT":
            wrong.append((method, str(fields)[:80], status))
    assert wrong == []
    assert server.ask("GET", f"/workflow-runs/{run_id}") == before
    served = {m.split("/")[1] for m in table().methods if m.startswith("steprun.v1.StepRunService/")}
    assert {method for method, _ in BAD} == served, "every request message is walked"


def test_members_alone_see_and_change_a_runs_steps(server: Server, rpc: UserRpc) -> None:
    project = server.project("closed")
    run_id = server.trigger(server.pipeline("closed", spec_for("nobody", "a", "b"), project=project))
    step = steps_of(rpc, run_id)[0]
    stranger = server.user("step-stranger", "user", [])
    viewer = server.user("step-viewer", "viewer", [project])
    new = {"pipelineRunId": run_id, "jobId": step.job_id, "stepName": "x", "uses": "shell"}
    asks: dict[str, dict[str, Any]] = {
        "CreateStepRun": new, "GetStepRun": {}, "UpdateStepRun": {"timeout": "1s"}, "DeleteStepRun": {},
        "CancelStepRun": {}, "RetryStepRun": {}, "ListStepRunArtifacts": {},
    }  # fmt: skip
    for method, fields in asks.items():
        given = fields if method == "CreateStepRun" else {"stepRunId": step.step_run_id, **fields}
        expected = "RUN_NOT_FOUND" if method == "CreateStepRun" else "STEP_RUN_NOT_FOUND"
        assert rpc(method, stranger, **given).error.type == expected, method
        reads = method in ("GetStepRun", "ListStepRunArtifacts")
        assert rpc.refused(method, viewer, **given) == ("OK" if reads else "PERMISSION_DENIED"), method
    assert rpc.refused("ListStepRuns", stranger, pipelineRunId=run_id) == "NOT_FOUND"
    assert rpc("ListStepRuns", stranger).total == 0
    assert rpc("ListStepRuns", viewer).total >= 1
    assert [s.status for s in steps_of(rpc, run_id)] == [QUEUED, PENDING]


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
