"""An agent that only polls does its whole job: FetchStepRun, Heartbeat, ReportStepRunStatus, PushLogs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from support.agent_work import Code, refusal
from support.fake_agent import FAILED, RUNNING, SUCCESS, FakeAgent, registered
from support.poll_agent import SERVICE, PollAgent, polling
from support.server import Server, running, spec_for
from support.waiting import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(
        tmp_path_factory.mktemp("polling"), lease=3, agent_heartbeat=1, agent_offline_after=3
    ) as server:
        yield server


_names = (f"poll-{number}" for number in range(1000))


@asynccontextmanager
async def at_work(server: Server, **fields: Any) -> AsyncIterator[PollAgent]:
    """An agent that polls and works."""
    agent = await polling(server, next(_names), **fields)
    working = asyncio.create_task(agent.work())
    try:
        yield agent
        if working.done():
            await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await agent.vanish()


def start(server: Server, agent: FakeAgent, *commands: str, jobs: int = 1) -> str:
    spec = spec_for(agent.agent_id, *(f"s{number}" for number in range(len(commands))))
    [job] = spec["jobs"]
    for step, command in zip(job["steps"], commands, strict=True):
        step["args"] = {"command": command}
    spec["jobs"] = [{**job, "name": f"{job['name']}{number or ''}"} for number in range(jobs)]
    return server.trigger(server.pipeline(f"{agent.agent_id}-{next(_names)}", spec))


def view(server: Server, run_id: str) -> Any:
    return server.ask("GET", f"/workflow-runs/{run_id}")


def steps(server: Server, run_id: str) -> list[Any]:
    return [step for job in view(server, run_id)["jobs"] for step in job["steps"]]


async def ended(server: Server, run_id: str) -> Any:
    await eventually(lambda: view(server, run_id)["status"] in ("succeeded", "failed", "cancelled"))
    return view(server, run_id)


def logs(server: Server, run_id: str) -> list[str]:
    return server.call("GET", f"/workflow-runs/{run_id}/logs").text.splitlines()


async def beating(agent: PollAgent) -> None:
    """Heartbeats for longer than a lease lasts, which is 3 s."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 5

    async def over() -> bool:
        await agent.heartbeat()
        return loop.time() > end

    await eventually(over)


async def test_a_run_from_its_first_to_its_last_step(server: Server) -> None:
    async with at_work(server) as agent:
        run_id = start(server, agent, "echo one; echo two", "echo three")
        shown = await ended(server, run_id)
        assert shown["status"] == "succeeded", shown
        assert logs(server, run_id) == ["one", "two", "three"]
        attempts = [step["attempts"][0] for step in steps(server, run_id)]
        assert [one["agent_id"] for one in attempts] == [agent.agent_id] * 2
        assert server.ask("GET", f"/agents/{agent.agent_id}")["status"] == "online"


async def test_a_failed_step_has_its_exit_code(server: Server) -> None:
    async with at_work(server) as agent:
        run_id = start(server, agent, "echo before; exit 7", "echo never")
        assert (await ended(server, run_id))["status"] == "failed"
        assert logs(server, run_id) == ["before"]
        assert steps(server, run_id)[0]["attempts"][0]["exit_code"] == 7


@pytest.mark.parametrize("how", ["run", "step run", "job"])
async def test_a_cancel_reaches_the_process(server: Server, how: str) -> None:
    async with at_work(server) as agent, FakeAgent(server.grpc, "user", token=server.admin) as user:
        run_id = start(server, agent, "echo begun; sleep 600; echo survived")
        await eventually(lambda: logs(server, run_id) == ["begun"])
        [job] = view(server, run_id)["jobs"]
        if how == "run":
            server.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"reason": "not wanted"})
        elif how == "job":
            answer = await user.call(f"{SERVICE}/CancelJobRun", job_run_id=job["id"], reason="not wanted")
            assert answer.success
        else:
            id = job["steps"][0]["attempts"][0]["step_run_id"]
            answer = await user.call(f"{SERVICE}/CancelStepRun", step_run_id=id, reason="not wanted")
            assert answer.success
        shown = await ended(server, run_id)
        if how != "run":
            audited = server.ask("GET", "/audit?limit=10")["entries"]
            assert f"{how.replace(' ', '_')}{'_run' * (how == 'job')}.cancel" in {
                each["action"] for each in audited
            }
        assert shown["status"] == "cancelled", shown
        assert "not wanted" in shown["jobs"][0]["steps"][0]["reason"]
        assert logs(server, run_id) == ["begun"]


async def test_no_more_than_was_asked_for_and_than_there_are_slots(server: Server) -> None:
    async with await polling(server, next(_names), slots=3) as agent:
        assert await agent.fetch() == []
        start(server, agent, "true", jobs=5)
        first = await eventually(agent.fetch)
        assert len(first) == 1
        rest = await agent.fetch(10)
        assert len(rest) == 2, "it has three slots"
        assert await agent.fetch(10) == []
        ids = {step.step_run_id for step in (*first, *rest)}
        assert len(ids) == 3
        for id in ids:
            assert (await agent.report(id, RUNNING)).success
            assert (await agent.report(id, SUCCESS)).success
        assert len(await eventually(lambda: agent.fetch(0))) == 2, "0: as many as it has slots"


async def test_what_nobody_may_ask_for(server: Server) -> None:
    async with await polling(server, next(_names)) as agent:
        for most in (-1, 10_001, 2**31 - 1):
            assert await refusal(agent.fetch(most)) is Code.INVALID_ARGUMENT
        call = agent.call(f"{SERVICE}/FetchStepRun", agent_id="somebody-else", max_step_runs=1)
        assert await refusal(call) is Code.PERMISSION_DENIED


async def test_labels_decide_and_change_at_once(server: Server) -> None:
    async with await polling(server, next(_names), labels={"zone": "a"}) as agent:
        spec = spec_for(agent.agent_id)
        spec["jobs"][0]["steps"][0]["agentSelector"] = {"matchLabels": {"zone": "b"}}
        run_id = server.trigger(server.pipeline(agent.agent_id, spec))
        await eventually(lambda: steps(server, run_id)[0]["reason"])
        assert await agent.fetch() == []
        change = {"agent_id": agent.agent_id, "labels": {"zone": "b"}, "merge": True}
        assert (await agent.call(f"{SERVICE}/UpdateLabels", **change)).success
        [step] = await eventually(agent.fetch)
        assert step.pipeline_run_id == run_id


async def test_why_work_waits_for_an_agent_that_polls(server: Server) -> None:
    async with await polling(server, next(_names)) as agent:
        assert await agent.fetch() == []
        run_id = start(server, agent, "true")
        expected = f"waiting for agent {agent.agent_id} to fetch it"
        await eventually(lambda: steps(server, run_id)[0]["reason"] == expected)


async def test_an_agent_that_neither_polls_nor_beats_is_offline(server: Server) -> None:
    async with await polling(server, next(_names)) as agent:
        status = lambda: server.ask("GET", f"/agents/{agent.agent_id}")["status"]  # noqa: E731

        async def seen_online() -> bool:
            """A busy machine may take longer than the agent may be silent."""
            await agent.fetch()
            return bool(status() == "online")

        await eventually(seen_online)
        await eventually(lambda: status() == "offline")
        run_id = start(server, agent, "true")
        await eventually(
            lambda: steps(server, run_id)[0]["reason"].startswith(("no online agent", "no agent is"))
        )
        assert len(await eventually(agent.fetch)) == 1


async def test_heartbeats_renew_leases_and_silence_loses_them(server: Server) -> None:
    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        await beating(agent)
        assert view(server, run_id)["status"] == "running"
        await ended(server, run_id)
        assert steps(server, run_id)[0]["attempts"][0]["error"].startswith("lost:")
        late = await agent.report(step.step_run_id, SUCCESS)
        assert not late.success


async def test_work_that_was_fetched_and_not_started_goes_to_another(server: Server) -> None:
    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        start(server, agent, "true")
        [first] = await eventually(agent.fetch)
        [again] = await eventually(agent.fetch)
        assert again.step_run_id != first.step_run_id, "a new id is the fence"
        assert not (await agent.report(first.step_run_id, RUNNING)).success


async def test_a_call_that_ended_before_its_answer_takes_no_work_away(server: Server) -> None:
    """A client that cancels its polls at once, in whatever state they are: the work comes with a later one."""
    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        run_id = start(server, agent, "true")
        request = {"agent_id": agent.agent_id, "max_step_runs": 1}
        for turns in range(30):
            polling_ = asyncio.create_task(agent.call(f"{SERVICE}/FetchStepRun", **request))
            for _ in range(turns):  # of the event loop: each call is cancelled in another state
                await asyncio.sleep(0)
            polling_.cancel()
        [step] = await eventually(agent.fetch)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        assert (await agent.report(step.step_run_id, SUCCESS)).success
        assert (await ended(server, run_id))["status"] == "succeeded"


async def test_agents_on_connect_are_served_first(server: Server) -> None:
    name = next(_names)
    async with await registered(server, name) as other, await polling(server, next(_names)) as agent:
        change = {"agent_id": agent.agent_id, "labels": {"only": name}, "merge": True}
        assert (await agent.call(f"{SERVICE}/UpdateLabels", **change)).success
        run_ids = [start(server, other, "true") for _ in range(4)]
        polled: list[Any] = []
        for run_id in run_ids:
            polled += await agent.fetch(100)
            await eventually(lambda id=run_id: steps(server, id)[0]["status"] != "pending")
        tasks = [await other.task() for _ in range(4)]
        assert polled == []
        run_id = start(server, other, "true")
        [step] = await eventually(agent.fetch)
        assert step.pipeline_run_id == run_id, "the other one has no slot left"
        for task in tasks:
            await other.ack(task)
            await other.finish(task)


async def test_a_heartbeat_tells_what_is_to_be_stopped(server: Server) -> None:
    """The fields of ours: cancels in the answers, and the list of what runs in the heartbeat."""
    from pilothouse.wire.agent.v1 import agent_pb2 as pb
    from pilothouse.wire.agent.v1.agent_pb2_grpc import AgentServiceStub

    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        id = step.step_run_id
        assert (await agent.report(id, RUNNING)).success
        server.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"reason": "not wanted"})
        stub, who = AgentServiceStub(agent.channel), agent.metadata
        beat = pb.HeartbeatRequest(agent_id=agent.agent_id, running_step_run_ids=[id], reports_running=True)
        answer = await stub.Heartbeat(beat, metadata=who)
        assert [(one.step_run_id, one.reason) for one in answer.cancels] == [(id, "not wanted")]
        fetched = await stub.FetchStepRun(pb.FetchStepRunRequest(max_step_runs=1), metadata=who)
        assert [one.step_run_id for one in fetched.cancels] == [id]
        again = await agent.report(id, RUNNING)
        assert (again.success, again.message) == (False, "to be stopped: not wanted")
        assert (await agent.report(id, 6, 143)).success
        assert (await ended(server, run_id))["status"] == "cancelled"
        beat = pb.HeartbeatRequest(running_step_run_ids=["of-no-lease"], reports_running=True)
        answer = await stub.Heartbeat(beat, metadata=who)
        assert [one.step_run_id for one in answer.cancels] == ["of-no-lease"]


async def test_started_work_that_a_heartbeat_does_not_list_is_lost(server: Server) -> None:
    from pilothouse.wire.agent.v1 import agent_pb2 as pb
    from pilothouse.wire.agent.v1.agent_pb2_grpc import AgentServiceStub

    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        stub = AgentServiceStub(agent.channel)
        beat = pb.HeartbeatRequest(reports_running=True)

        async def lost() -> bool:
            await stub.Heartbeat(beat, metadata=agent.metadata)
            return bool(view(server, run_id)["status"] == "failed")

        await eventually(lost)
        assert "no longer runs it" in steps(server, run_id)[0]["attempts"][0]["error"]


async def test_an_agent_that_registers_anew_at_every_start(server: Server) -> None:
    """As Arcentra's own: it keeps its name, names it with its token, and replays its log of what it pushed."""
    name = next(_names)
    token = server.registration_token()
    async with PollAgent(server.grpc, name) as agent:
        await agent.register(token)
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        id = step.step_run_id
        assert (await agent.report(id, RUNNING)).success
        log = [(n, f"{name}-{n}", f"line {n}\n".encode()) for n in range(1, 5)]
        for n, batch_id, line in log[:3]:
            await agent.push(_batch(id, n, line, batch_id))
        async with PollAgent(server.grpc, name) as next_start:
            await next_start.register(token)
            given = (("authorization", f"bearer {name}:{next_start.token}"),)
            ack = await _push(next_start, given, *(_batch(id, n, line, b) for n, b, line in log[1:]))
            assert (ack.status, ack.last_accepted_seq) == (1, 4)
            assert logs(server, run_id) == ["line 1", "line 2", "line 3", "line 4"]
            call = agent.call(f"{SERVICE}/Heartbeat")
            assert await refusal(call) is Code.UNAUTHENTICATED
            # It does not say that it still runs it, and its heartbeats alone do not say so.

            async def lost() -> bool:
                await next_start.heartbeat()
                return bool(view(server, run_id)["status"] == "failed")

            await eventually(lost)
            assert "has registered again" in steps(server, run_id)[0]["attempts"][0]["error"]


async def test_an_agent_that_registers_anew_and_still_runs_its_work_keeps_it(server: Server) -> None:
    name = next(_names)
    token = server.registration_token()
    async with PollAgent(server.grpc, name) as agent:
        await agent.register(token)
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        await agent.register(token)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        await beating(agent)
        assert (await agent.report(step.step_run_id, SUCCESS)).success
        assert (await ended(server, run_id))["status"] == "succeeded"


def _batch(step_run_id: str, seq: int, line: bytes, id: str) -> Any:
    from support.fake_agent import batch

    return batch(step_run_id, seq, line, id=id)


async def _push(agent: FakeAgent, metadata: Any, *requests: Any) -> Any:
    call = agent.rpc("gateway.v1.GatewayService/PushLogs")
    return (await call(iter(requests), metadata=metadata)).ack


async def test_reports_on_a_whole_job(server: Server) -> None:
    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        run_id = start(server, agent, "true", "true")
        [step] = await eventually(agent.fetch)
        job = {"agent_id": agent.agent_id, "job_run_id": step.job_id}
        assert (await agent.call(f"{SERVICE}/ReportJobRunStatus", status=2, **job)).success
        assert steps(server, run_id)[0]["status"] == "running"
        assert (await agent.call(f"{SERVICE}/ReportJobRunStatus", status=3, **job)).success
        assert steps(server, run_id)[0]["status"] == "succeeded"
        early = await agent.call(f"{SERVICE}/ReportJobRunStatus", status=3, **job)
        assert not early.success, "its second step is still to be run"
        [second] = await eventually(agent.fetch)
        assert second.step_name == "s1"
        failed = {"status": 4, "error_message": "it broke", "end_time": 2, "start_time": 1}
        assert (await agent.call(f"{SERVICE}/ReportJobRunStatus", **failed, **job)).success
        assert (await ended(server, run_id))["status"] == "failed"
        assert steps(server, run_id)[1]["attempts"][0]["error"] == "it broke"
        assert (await agent.call(f"{SERVICE}/ReportJobRunStatus", status=4, **job)).success, "again"
        assert not (await agent.call(f"{SERVICE}/ReportJobRunStatus", status=2, **job)).success


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("ReportJobRunStatus", {"job_run_id": "{job}", "status": 0}, Code.INVALID_ARGUMENT),
        ("ReportJobRunStatus", {"job_run_id": "{job}", "status": 6}, Code.INVALID_ARGUMENT),
        ("ReportJobRunStatus", {"job_run_id": "{job}", "status": -1}, Code.INVALID_ARGUMENT),
        ("ReportJobRunStatus", {"status": 3}, Code.INVALID_ARGUMENT),
        ("ReportJobRunStatus", {"job_run_id": "x" * 129, "status": 3}, Code.INVALID_ARGUMENT),
        ("ReportJobRunStatus", {"job_run_id": "unknown", "status": 3}, Code.NOT_FOUND),
        (
            "ReportJobRunStatus",
            {"job_run_id": "{job}", "status": 3, "start_time": 9, "end_time": 8},
            Code.INVALID_ARGUMENT,
        ),
        (
            "ReportJobRunStatus",
            {"job_run_id": "{job}", "status": 3, "artifact_uris": {str(n): "" for n in range(101)}},
            Code.INVALID_ARGUMENT,
        ),
        ("ReportStepRunStatus", {"step_run_id": "{step}", "status": 0}, Code.INVALID_ARGUMENT),
        ("ReportStepRunStatus", {"step_run_id": "{step}", "status": 1}, Code.INVALID_ARGUMENT),
        (
            "ReportStepRunStatus",
            {"step_run_id": "{step}", "status": 4, "start_time": 9, "end_time": 8},
            Code.INVALID_ARGUMENT,
        ),
        (
            "ReportStepRunStatus",
            {"step_run_id": "{step}", "status": 4, "start_time": -1},
            Code.INVALID_ARGUMENT,
        ),
        ("CancelStepRun", {}, Code.INVALID_ARGUMENT),
        ("CancelStepRun", {"step_run_id": "unknown"}, Code.NOT_FOUND),
        ("CancelStepRun", {"step_run_id": "a\x00b"}, Code.INVALID_ARGUMENT),
        ("CancelStepRun", {"step_run_id": "{step}", "agent_id": "somebody-else"}, Code.PERMISSION_DENIED),
        ("CancelJobRun", {}, Code.INVALID_ARGUMENT),
        ("CancelJobRun", {"job_run_id": "unknown"}, Code.NOT_FOUND),
    ],
)
async def test_bad_calls_change_nothing(
    server: Server, method: str, fields: dict[str, Any], code: grpc.StatusCode
) -> None:
    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        names = {"{job}": step.job_id, "{step}": step.step_run_id}
        given = {
            key: names.get(value, value) if isinstance(value, str) else value for key, value in fields.items()
        }
        assert await refusal(agent.call(f"{SERVICE}/{method}", **given)) is code
        assert view(server, run_id)["status"] == "running"
        assert (await agent.report(step.step_run_id, SUCCESS)).success


async def test_who_may_cancel(server: Server) -> None:
    viewer, user = server.user(f"v-{next(_names)}", "viewer"), server.user(f"u-{next(_names)}", "user", [])
    async with await polling(server, next(_names)) as agent, await polling(server, next(_names)) as other:
        await agent.fetch()
        run_id = start(server, agent, "true")
        [step] = await eventually(agent.fetch)
        assert (await agent.report(step.step_run_id, RUNNING)).success
        calls = (
            (f"{SERVICE}/CancelStepRun", {"step_run_id": step.step_run_id}),
            (f"{SERVICE}/CancelJobRun", {"job_run_id": step.job_id}),
        )
        for method, given in calls:
            for token, code in (
                (viewer, Code.PERMISSION_DENIED),
                (user, Code.NOT_FOUND),  # in no project
                (other.token, Code.PERMISSION_DENIED),
            ):
                async with FakeAgent(server.grpc, "caller", token=token) as caller:
                    assert await refusal(caller.call(method, **given)) is code, (method, code)
        assert steps(server, run_id)[0]["status"] == "running"
        method, given = calls[0]
        assert (await agent.call(method, agent_id=agent.agent_id, reason="broken", **given)).success
        assert not (await agent.report(step.step_run_id, RUNNING)).success
        assert (await agent.report(step.step_run_id, FAILED, 1)).success
        assert (await ended(server, run_id))["status"] == "cancelled"
        over = await agent.call(method, **given)
        assert (over.success, over.message) == (False, "the step run was cancelled already")


async def test_waiting_steps_and_jobs_are_cancelled_at_once(server: Server) -> None:
    async with (
        await polling(server, next(_names)) as agent,
        FakeAgent(server.grpc, "u", token=server.admin) as user,
    ):
        run_id = start(server, agent, "true", "true", jobs=2)
        one, two = view(server, run_id)["jobs"]
        later = one["steps"][1]["attempts"][0]["step_run_id"]
        assert (await user.call(f"{SERVICE}/CancelStepRun", step_run_id=later)).success
        assert steps(server, run_id)[1]["status"] == "cancelled"
        assert (await user.call(f"{SERVICE}/CancelJobRun", job_run_id=two["id"], reason="not wanted")).success
        shown = view(server, run_id)["jobs"][1]
        assert (shown["status"], {step["status"] for step in shown["steps"]}) == ("cancelled", {"cancelled"})
        again = await user.call(f"{SERVICE}/CancelJobRun", job_run_id=two["id"])
        assert (again.success, again.message) == (False, f"job '{two['name']}' has ended already")
        [step] = await agent.fetch()
        assert step.job_id == one["id"]
        assert (await agent.report(step.step_run_id, RUNNING)).success
        assert (await agent.report(step.step_run_id, SUCCESS)).success
        assert (await ended(server, run_id))["status"] == "cancelled"


async def test_polls_for_nothing_cost_no_transaction(server: Server) -> None:
    """Other parts of the server may write meanwhile."""

    def written() -> float:
        return server.metric("pilothouse_storage_writes")

    async with await polling(server, next(_names)) as agent:
        await agent.fetch()
        before = written()
        for _ in range(400):
            assert await agent.fetch() == []
        assert before > 0
        assert written() - before < 50


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
