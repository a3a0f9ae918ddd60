"""The gRPC agent API as seen by third-party agents: registration and the control channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.agent_work import REJECTED, Code, Work, begin, refusal
from support.fake_agent import (
    ACK_FAILED,
    FAILED,
    RUNNING,
    SUCCESS,
    FakeAgent,
    batch,
    events,
    registered,
)
from support.server import Server, running, spec_for
from support.waiting import PATIENCE, eventually
from support.wire_table import table


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("gateway"), lease=3) as server:
        yield server


@pytest.fixture
async def work(server: Server) -> AsyncIterator[Work]:
    work = await begin(server)
    yield work
    await work.agent.vanish()


async def test_register_gives_a_credential_that_works(server: Server) -> None:
    async with FakeAgent(server.grpc, "register-1", labels={"zone": "a"}) as agent:
        answer = await agent.register(
            server.registration_token(), agent_name="One", os="linux", arch="arm64", version="9.9"
        )
        assert answer.success
        assert answer.agent_id == "register-1"
        assert answer.auth_token
        assert answer.heartbeat_interval == 10_000  # durations are milliseconds
        assert dict(answer.labels)["zone"] == "a"
        beat = await agent.call("agent.v1.AgentService/Heartbeat", agent_id="register-1")
        assert beat.success
        assert abs(beat.timestamp - time.time()) < 60
        shown = server.ask("GET", "/agents/register-1")
        assert (shown["name"], shown["status"], shown["metadata"]["arch"]) == ("One", "online", "arm64")
        again = await agent.register()
        assert again.success
        assert again.auth_token == ""  # it has one


@pytest.mark.parametrize("given", ["", "pilotreg_nonsense", "\x00", "x" * 100_000])
async def test_register_refuses_bad_registration_tokens(server: Server, given: str) -> None:
    async with FakeAgent(server.grpc, "register-2") as agent:
        calling = agent.call(
            "agent.v1.AgentService/Register", (), agent_id="register-2", registration_token=given
        )
        assert await refusal(calling) is Code.UNAUTHENTICATED
    assert server.call("GET", "/agents/register-2").status_code == 404


async def test_registration_tokens_end_by_use_revocation_and_time(server: Server) -> None:
    once = server.registration_token(max_uses=1)
    async with FakeAgent(server.grpc, "register-3") as agent:
        await agent.register(once)
        async with FakeAgent(server.grpc, "register-4") as second:
            assert await refusal(second.register(once)) is Code.UNAUTHENTICATED
        made = server.ask("POST", "/registration-tokens", json={})
        assert server.call("DELETE", f"/registration-tokens/{made['id']}").status_code == 204
        assert await refusal(agent.register(made["token"])) is Code.UNAUTHENTICATED
        brief = server.registration_token(expires_in=1)

        async def expired() -> bool:
            try:
                await agent.register(brief)
            except grpc.aio.AioRpcError as error:
                return error.code() is Code.UNAUTHENTICATED
            return False

        await eventually(expired)


@pytest.mark.parametrize(
    "fields",
    [
        {"agent_id": ""},
        {"agent_id": "../../etc"},
        {"agent_id": "a" * 300},
        {"max_concurrent_step_runs": -1},
        {"max_concurrent_step_runs": 2**31 - 1},
        {"labels": {f"l{n}": "x" for n in range(1000)}},
        {"labels": {"a b": "x"}},
        {"labels": {"ok": "x" * 100_000}},
        {"agent_name": "n" * 100_000},
        {"os": "o" * 100_000},
    ],
    ids=["no-id", "path-id", "long-id", "minus-slots", "huge-slots", "many-labels", "bad-label", "long-label",
         "long-name", "long-os"],
)  # fmt: skip
async def test_register_refuses_impossible_profiles(server: Server, fields: dict[str, Any]) -> None:
    given = {"agent_id": "profile", "registration_token": server.registration_token(), **fields}
    async with FakeAgent(server.grpc, "profile") as agent:
        calling = agent.call("agent.v1.AgentService/Register", (), **given)
        assert await refusal(calling) is Code.INVALID_ARGUMENT


async def test_a_new_credential_ends_the_old_one_and_its_connection(server: Server) -> None:
    async with await registered(server, "renewed") as old, FakeAgent(server.grpc, "renewed") as new:
        await new.register(server.registration_token(agents=["renewed"]))
        calling = old.call("agent.v1.AgentService/Heartbeat", agent_id="renewed")
        assert await refusal(calling) is Code.UNAUTHENTICATED
        # A stream ends within 5 s of its token's revocation: else it would go on getting secrets.
        assert old.closed is not None
        await asyncio.wait_for(asyncio.shield(old.closed), PATIENCE)


async def test_a_removed_agents_connection_ends(server: Server, work: Work) -> None:
    await eventually(lambda: work.step_view()["status"] == "running")
    assert server.call("DELETE", f"/agents/{work.agent.agent_id}").status_code == 204
    assert await refusal(work.push(1, ["late"])) is Code.UNAUTHENTICATED
    assert work.agent.closed is not None
    code, _ = await asyncio.wait_for(asyncio.shield(work.agent.closed), PATIENCE)
    assert code is not Code.OK


async def test_unregister_and_labels(server: Server) -> None:
    async with await registered(server, "labels") as agent:
        service = "agent.v1.AgentService"
        merged = await agent.call(f"{service}/UpdateLabels", agent_id="labels", labels={"a": "1"}, merge=True)
        assert dict(merged.labels) == {"only": "labels", "a": "1"}
        replaced = await agent.call(f"{service}/UpdateLabels", agent_id="labels", labels={"b": "2"})
        assert dict(replaced.labels) == {"b": "2"} == server.ask("GET", "/agents/labels")["labels"]
        bad = await agent.call(f"{service}/UpdateLabels", agent_id="labels", labels={"a b": ""})
        assert not bad.success
        left = await agent.call(f"{service}/Unregister", agent_id="labels", reason="done")
        assert left.success
        assert server.call("GET", "/agents/labels").status_code == 404
        calling = agent.call(f"{service}/Heartbeat", agent_id="labels")
        assert await refusal(calling) is Code.UNAUTHENTICATED


async def test_an_agent_may_not_act_under_anothers_id(server: Server, work: Work) -> None:
    async with await registered(server, "impostor") as other:
        name = work.agent.agent_id
        service = "agent.v1.AgentService"
        for method in ("Heartbeat", "Unregister", "UpdateLabels"):
            calling = other.call(f"{service}/{method}", agent_id=name)
            assert await refusal(calling) is Code.PERMISSION_DENIED, method
        reporting = other.call(
            f"{service}/ReportStepRunStatus", agent_id=name, step_run_id=work.step, status=SUCCESS
        )
        assert await refusal(reporting) is Code.PERMISSION_DENIED
        claimed = other.push(batch(work.step, 1, ["mine"], agent_id=name))
        assert await refusal(claimed) is Code.PERMISSION_DENIED
        handshake = table().message("gateway.v1.PushLogsRequest")(handshake={"agent_id": name})
        assert await refusal(other.push(handshake)) is Code.PERMISSION_DENIED
        registering = other.call(f"{service}/Register", agent_id=name, max_concurrent_step_runs=1)
        assert await refusal(registering) is Code.UNAUTHENTICATED
        # Under its own id it may speak, but not of work it does not hold.
        assert (await other.push(batch(work.step, 1, ["mine"]))).status == REJECTED
        told = events(("e1", 1, work.step, "arcentra.step.progress", {"percent": 99}))
        assert (await other.push_events(told)).status == REJECTED
        assert not (await other.report(work.step)).success
    assert work.logged() == []
    assert work.step_view()["status"] == "running"
    assert work.step_view()["progress"] == 0


async def test_a_step_from_dispatch_to_success(server: Server) -> None:
    name = "whole"
    server.ask("PUT", "/secrets/TOKEN", json={"value": "hunter2-hunter2"})
    spec = spec_for(name)
    spec["variables"] = {"who": "world"}
    spec["jobs"][0]["env"] = {"GREETING": "hello ${{ variables.who }}", "KEY": "${{ secrets.TOKEN }}"}
    spec["jobs"][0]["timeout"] = "1h"
    async with await registered(server, name) as agent:
        pipeline_id = server.pipeline(name, spec)
        run_id = server.trigger(pipeline_id, variables={"who": "you"})
        task = await agent.task()
        step = task.step
        assert (step.pipeline_id, step.pipeline_run_id) == (pipeline_id, run_id)
        assert (step.job_name, step.step_name, step.step_index) == ("build", "work", 0)
        assert (step.uses, step.action, dict(step.args)) == ("shell", "command", {"command": "true"})
        assert dict(step.env) == {"GREETING": "hello you", "KEY": "hunter2-hunter2"}
        assert dict(step.secrets) == {"TOKEN": "hunter2-hunter2"}
        view = server.ask("GET", f"/workflow-runs/{run_id}")["jobs"][0]["steps"][0]
        assert view["status"] == "queued"  # offered is not started
        await agent.ack(task)
        view = await eventually(lambda: _status(server, run_id) == "running" or None)
        await agent.lines(step.step_run_id, ["the key is hunter2-hunter2"])
        await agent.finish(task)
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")
        assert not (await agent.report(step.step_run_id, FAILED, 1)).success  # a late result changes nothing
        assert (await agent.report(step.step_run_id, SUCCESS)).success  # the same again is idempotent
    shown = server.call("GET", f"/workflow-runs/{run_id}").text
    logs = server.call("GET", f"/workflow-runs/{run_id}/logs").text
    assert "hunter2" not in shown + logs
    assert server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded"


def _status(server: Server, run_id: str) -> str:
    return str(server.ask("GET", f"/workflow-runs/{run_id}")["jobs"][0]["steps"][0]["status"])


async def test_a_failed_step_keeps_its_exit_code(work: Work) -> None:
    await work.agent.finish(work.task, FAILED, 7)
    await eventually(lambda: work.view()["status"] == "failed")
    attempt = work.step_view()["attempts"][0]
    assert (attempt["status"], attempt["exit_code"], attempt["agent_id"]) == (
        "failed", 7, work.agent.agent_id)  # fmt: skip


async def test_cancelling_a_run_notifies_the_agent(work: Work) -> None:
    work.server.ask("POST", f"/workflow-runs/{work.run_id}/cancel", json={"reason": "wrong branch"})
    await eventually(lambda: work.step in work.agent.cancelled)
    assert "wrong branch" in work.agent.cancelled[work.step]
    assert work.view()["status"] == "running"  # until the agent reports the end
    await work.agent.finish(work.task, 6, 143)
    await eventually(lambda: work.view()["status"] == "cancelled")


async def test_unacknowledged_work_comes_again_under_the_same_id_after_a_reconnect(server: Server) -> None:
    work = await begin(server, ack=False)
    first = work.step
    await work.agent.vanish()
    await work.agent.connect()
    again = await work.agent.task()
    assert again.step_run_id == first  # the lease still stands
    await work.agent.ack(again)
    await work.agent.finish(again)
    await eventually(lambda: work.view()["status"] == "succeeded")
    await work.agent.vanish()


async def test_never_acknowledged_work_goes_back_to_the_queue_under_a_new_id(server: Server) -> None:
    work = await begin(server, ack=False)
    await work.agent.vanish()
    attempts = lambda: work.step_view()["attempts"]  # noqa: E731
    await eventually(lambda: len(attempts()) == 2)
    await work.agent.connect()
    again = await work.agent.task()
    assert again.step_run_id != work.step  # a new id is the fence
    lost = attempts()[0]
    assert (lost["status"], lost["error"][:5]) == ("failed", "lost:")
    assert not (await work.agent.report(work.step, SUCCESS)).success
    assert work.view()["status"] == "running"
    await work.agent.ack(again)
    await work.agent.finish(again)
    await eventually(lambda: work.view()["status"] == "succeeded")
    await work.agent.vanish()


async def test_started_work_whose_agent_vanishes_is_lost_honestly(server: Server) -> None:
    work = await begin(server)
    await work.agent.lines(work.step, ["began"])
    await work.agent.vanish()
    await eventually(lambda: work.view()["status"] == "failed")
    attempt = work.step_view()["attempts"][0]
    assert attempt["error"].startswith("lost:")
    assert not (await work.agent.report(work.step, SUCCESS)).success
    assert work.view()["status"] == "failed"


async def test_a_refused_step_goes_elsewhere_or_fails_with_the_reason(server: Server) -> None:
    work = await begin(server, ack=False)
    await work.agent.ack(work.task, ACK_FAILED)
    await eventually(lambda: len(work.step_view()["attempts"]) > 1)
    first = work.step_view()["attempts"][0]
    assert (first["step_run_id"], first["status"]) == (work.task.step_run_id, "failed"), first
    assert first["error"] == f"lost: agent {work.agent.agent_id} refused it: no reason given"
    await work.agent.vanish()


async def test_a_newer_connection_replaces_the_older(server: Server) -> None:
    async with (
        await registered(server, "twice") as older,
        FakeAgent(server.grpc, "twice", token=older.token) as newer,
    ):
        # The server's order of arrival decides which is older.
        await eventually(lambda: server.ask("GET", "/agents/twice")["status"] == "online")
        await newer.connect()
        assert older.closed is not None
        code, words = await asyncio.wait_for(asyncio.shield(older.closed), 60)
        assert code is Code.ABORTED
        assert "replaced" in words
        # The end of the older does not make the agent offline.
        run_id = server.trigger(server.pipeline("twice", spec_for("twice")))
        task = await newer.task()
        await newer.ack(task)
        await newer.finish(task)
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")


async def test_invalid_messages_on_the_control_channel_are_refused(work: Work) -> None:
    agent = work.agent
    await agent.say()
    await agent.say(task_ack={"command_id": "no-such-command", "status": 1})
    await agent.say(task_ack={"command_id": work.task.command_id, "status": 99})
    await agent.say(task_status={"step_run_id": "no-such-step", "status": SUCCESS})
    await agent.say(task_status={"step_run_id": work.step, "status": 99})
    await agent.say(task_status={"step_run_id": work.step, "status": RUNNING})
    await agent.say(
        task_status={"step_run_id": "x" * 1_000_000, "status": FAILED, "error_message": "\x00" * 9}
    )
    await agent.lines(work.step, ["still here"])
    await agent.say(
        task_status={"step_run_id": work.step, "status": FAILED, "error_message": "e" * 1_000_000}
    )
    await eventually(lambda: work.view()["status"] == "failed")
    assert work.logged() == ["still here"]
    assert agent.closed is not None
    assert not agent.closed.done()


async def test_work_waits_with_a_reason(server: Server) -> None:
    async with await registered(server, "somebody"):
        run_id = server.trigger(server.pipeline("nobody", spec_for("nobody-there")))
        step = lambda: server.ask("GET", f"/workflow-runs/{run_id}")["jobs"][0]["steps"][0]  # noqa: E731
        assert await eventually(lambda: "only=nobody-there" in step()["reason"])


@pytest.mark.parametrize("who", ["nobody", "nonsense", "basic", "registration", "admin"])
async def test_only_agents_may_call(server: Server, who: str) -> None:
    given = {
        "nobody": (),
        "nonsense": (("authorization", "Bearer nonsense"),),
        "basic": (("authorization", "Basic YWRtaW46YWRtaW4="),),
        "registration": (("authorization", f"Bearer {server.registration_token()}"),),
        "admin": (("authorization", f"Bearer {server.admin}"),),
    }[who]
    expected = Code.PERMISSION_DENIED if who == "admin" else Code.UNAUTHENTICATED
    async with FakeAgent(server.grpc, "nobody") as agent:
        for method in ("Heartbeat", "Unregister", "UpdateLabels", "ReportStepRunStatus"):
            calling = agent.call(f"agent.v1.AgentService/{method}", given, agent_id="x")
            assert await refusal(calling) is expected, method
        for method in ("agent.v1.AgentService/Connect", "gateway.v1.GatewayService/PushLogs",
                       "gateway.v1.GatewayService/PushEvents"):  # fmt: skip
            call = agent.rpc(method)(_silence(), metadata=given, timeout=PATIENCE)
            reading = call.read() if method.endswith("Connect") else call
            assert await refusal(reading) is expected, method


async def _silence() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


async def test_health_and_reflection_are_on(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "agent.v1.AgentService", "gateway.v1.GatewayService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody.v1.Nothing"))
        assert caught.value.code() is Code.NOT_FOUND
        assert {"agent.v1.AgentService", "gateway.v1.GatewayService"} <= await _served(channel)


async def _served(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([asked])):
        return {service.name for service in answer.list_services_response.service}
    return set()


async def test_every_rpc_of_the_table_is_served(server: Server) -> None:
    missing = []
    async with await registered(server, "walker") as agent:
        for method, (asks, _, asks_stream, answers_stream) in table().methods.items():
            request = table().message(asks)()
            call = agent.rpc(method)(
                iter([request]) if asks_stream else request, metadata=agent.metadata, timeout=PATIENCE
            )
            try:
                await (call.read() if answers_stream else call)
            except grpc.aio.AioRpcError as error:
                if error.code() is Code.UNIMPLEMENTED:
                    missing.append(method)
    assert missing == []


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
