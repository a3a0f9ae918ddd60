"""``stream.v1.StreamService/AgentChannel``: an agent that gets its work over it, from the wire table alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from support.agent_work import Code
from support.fake_agent import CANCELLED, FAILED, RUNNING, SUCCESS, FakeAgent, Task, registered
from support.server import Server, running, spec_for
from support.waiting import PATIENCE, eventually
from support.wire_table import table


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("channel"), lease=3) as server:
        yield server


class ChannelAgent(FakeAgent):
    """Speaks on ``AgentChannel`` what :class:`FakeAgent` says on ``Connect``."""

    method = "stream.v1.StreamService/AgentChannel"

    async def connect(self) -> None:
        """Open the call and send the first heartbeat."""
        self._say = asyncio.Queue()
        self.closed = asyncio.get_running_loop().create_future()
        self._call = self.rpc(self.method)(self._speak(self._say), metadata=self.metadata)
        self._spawn(self._listen(self._call, self.closed))
        await self.beat()
        await self._call.wait_for_connection()

    async def say(self, **payload: Any) -> None:
        message = table().message("stream.v1.AgentChannelRequest")
        await self._say.put(message(agent_id=self.agent_id, **payload))

    async def ack(self, task: Any, status: int = 1) -> None:
        await self.status(task, RUNNING)

    async def finish(self, task: Any, status: int = SUCCESS, exit_code: int = 0) -> None:
        await self.status(task, status, exit_code)

    async def status(self, task: Any, status: int, exit_code: int = 0, error: str = "") -> None:
        said = {"step_run_id": task.step_run_id, "status": status, "exit_code": exit_code}
        await self.say(step_run_status={**said, "error_message": error})

    async def _listen(self, call: Any, closed: Any) -> None:
        try:
            async for answer in call:
                self.received.append(answer)
                kind = answer.WhichOneof("payload")
                if kind == "step_run_cancel_command":
                    told = answer.step_run_cancel_command
                    self.cancelled[told.step_run_id] = told.reason
                for step in answer.step_run_assignment.step_runs:
                    await self._tasks.put(Task(answer.response_id, step))
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        if not closed.done():
            closed.set_result((await call.code(), await call.details()))

    def got(self, kind: str) -> list[Any]:
        """The answers of this kind."""
        return [getattr(one, kind) for one in self.received if one.WhichOneof("payload") == kind]


_names = (f"channel-{number}" for number in range(1000))


@pytest.fixture
async def agent(server: Server) -> AsyncIterator[ChannelAgent]:
    name = next(_names)
    async with ChannelAgent(server.grpc, name, slots=2) as agent:
        await agent.register(server.registration_token(max_uses=1))
        await agent.connect()
        yield agent


def start(server: Server, agent: FakeAgent, jobs: int = 1) -> str:
    spec = spec_for(agent.agent_id)
    [job] = spec["jobs"]
    spec["jobs"] = [{**job, "name": f"j{number}"} for number in range(jobs)]
    return server.trigger(server.pipeline(f"{agent.agent_id}-{next(_names)}", spec))


def steps(server: Server, run_id: str) -> list[Any]:
    shown = server.ask("GET", f"/workflow-runs/{run_id}")
    return [step for job in shown["jobs"] for step in job["steps"]]


async def ended(server: Server, run_id: str, status: str) -> None:
    await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == status)


async def test_a_step_from_its_assignment_to_its_end(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent)
    task = await agent.task()
    assert (task.pipeline_run_id, dict(task.args)) == (run_id, {"command": "true"})
    assert steps(server, run_id)[0]["status"] == "queued"
    await agent.ack(task)
    await eventually(lambda: steps(server, run_id)[0]["status"] == "running")
    await agent.lines(task.step_run_id, ["one"])
    await agent.finish(task)
    await ended(server, run_id, "succeeded")
    assert server.call("GET", f"/workflow-runs/{run_id}/logs").text == "one\n"
    [config] = agent.got("config_update")
    assert (config.heartbeat_interval, config.max_concurrent_step_runs) == (10_000, 2)


async def test_a_failure_has_its_exit_code_and_message(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent)
    task = await agent.task()
    await agent.ack(task)
    await agent.status(task, FAILED, 9, "it broke")
    await ended(server, run_id, "failed")
    [attempt] = steps(server, run_id)[0]["attempts"]
    assert (attempt["exit_code"], attempt["error"]) == (9, "it broke")


async def test_slots_bound_what_is_assigned(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent, jobs=3)
    first, second = await agent.task(), await agent.task()
    await agent.say(step_run_fetch={"max_step_runs": 5})
    await eventually(lambda: [len(one.step_runs) for one in agent.got("step_run_assignment")] == [1, 1, 0])
    assert (
        sum(step["status"] == "queued" and "offered" in step["reason"] for step in steps(server, run_id)) == 2
    )
    for task in (first, second):
        await agent.ack(task)
        await agent.finish(task)
    third = await agent.task()
    await agent.ack(third)
    await agent.finish(third)
    await ended(server, run_id, "succeeded")


async def test_a_cancel_reaches_the_agent(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent)
    task = await agent.task()
    await agent.ack(task)
    await eventually(lambda: steps(server, run_id)[0]["status"] == "running")
    server.ask("POST", f"/workflow-runs/{run_id}/cancel", json={"reason": "not wanted"})
    await eventually(lambda: agent.cancelled.get(task.step_run_id) == "not wanted")
    await agent.finish(task, CANCELLED, 143)
    await ended(server, run_id, "cancelled")


async def test_heartbeats_are_answered(server: Server, agent: ChannelAgent) -> None:
    await eventually(lambda: agent.got("heartbeat_ack"))
    message = table().message("stream.v1.AgentChannelRequest")
    await agent._say.put(message(request_id="my-own", heartbeat={"status": 1}))
    await eventually(lambda: len(agent.got("heartbeat_ack")) == 2)
    assert agent.received[-1].response_id == "my-own"
    ack = agent.got("heartbeat_ack")[-1]
    assert ack.success
    assert abs(ack.server_time - time.time()) < 60
    assert server.ask("GET", f"/agents/{agent.agent_id}")["status"] == "online"


async def test_offers_come_again_after_a_reconnect(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent)
    task = await agent.task()
    await agent.vanish()
    await eventually(lambda: server.ask("GET", f"/agents/{agent.agent_id}")["status"] == "offline")
    await agent.connect()
    again = await agent.task()
    assert again.step_run_id == task.step_run_id
    await agent.ack(again)
    await agent.finish(again)
    await ended(server, run_id, "succeeded")


async def test_a_newer_call_replaces_the_older(server: Server, agent: ChannelAgent) -> None:
    async with ChannelAgent(server.grpc, agent.agent_id, token=agent.token) as newer:
        await eventually(lambda: server.ask("GET", f"/agents/{agent.agent_id}")["status"] == "online")
        await newer.connect()
        assert agent.closed is not None
        code, words = await asyncio.wait_for(asyncio.shield(agent.closed), PATIENCE)
        assert (code, "replaced" in words) == (Code.ABORTED, True)


async def test_beside_connect_work_comes_once(server: Server, agent: ChannelAgent) -> None:
    """Keyed by agent and channel: neither replaces the other, and the newest carries the work."""
    async with FakeAgent(server.grpc, agent.agent_id, token=agent.token) as beside:
        await eventually(lambda: agent.got("heartbeat_ack"))
        await beside.connect()
        await beside.call("agent.v1.AgentService/Heartbeat")

        def connected() -> bool:
            return agent.closed is not None and not agent.closed.done()

        run_id = start(server, agent)
        taking = [asyncio.create_task(one.task()) for one in (agent, beside)]
        done, pending = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED)
        [task] = [one.result() for one in done]
        for one in pending:
            one.cancel()
        await beside.report(task.step_run_id, RUNNING)
        await beside.report(task.step_run_id, SUCCESS)
        await ended(server, run_id, "succeeded")
        assert connected()
        given = [len(one.step_runs) for one in agent.got("step_run_assignment")]
        given += [len(one.task_dispatch.step_runs) for one in beside.received]
        assert sum(given) == 1


async def test_work_of_an_agent_that_is_silent_is_lost(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent)
    task = await agent.task()
    await agent.ack(task)
    await eventually(lambda: steps(server, run_id)[0]["status"] == "running")
    await agent.vanish()
    await ended(server, run_id, "failed")
    assert steps(server, run_id)[0]["attempts"][0]["error"].startswith("lost:")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"step_run_fetch": {"max_step_runs": -1}}, Code.INVALID_ARGUMENT),
        ({"step_run_fetch": {"max_step_runs": 10_001}}, Code.INVALID_ARGUMENT),
        ({"metrics": {"custom_metrics": {str(n): "" for n in range(101)}}}, Code.INVALID_ARGUMENT),
        ({"metrics": {"custom_metrics": {"a": "x" * 257}}}, Code.INVALID_ARGUMENT),
        ({"metrics": {"cpu_usage": float("nan")}}, Code.INVALID_ARGUMENT),
        ({"agent_id": "somebody-else", "heartbeat": {}}, Code.PERMISSION_DENIED),
    ],
)
async def test_what_ends_the_call(
    server: Server, agent: ChannelAgent, payload: dict[str, Any], code: grpc.StatusCode
) -> None:
    message = table().message("stream.v1.AgentChannelRequest")
    await agent._say.put(message(**payload))
    assert agent.closed is not None
    found, _ = await asyncio.wait_for(asyncio.shield(agent.closed), PATIENCE)
    assert found is code


async def test_what_has_no_effect(server: Server, agent: ChannelAgent) -> None:
    run_id = start(server, agent)
    task = await agent.task()
    await agent.say()
    await agent.say(metrics={"cpu_usage": 0.5, "custom_metrics": {"a": "b"}})
    await agent.say(step_run_status={"step_run_id": "no-such-step", "status": SUCCESS})
    await agent.say(step_run_status={"step_run_id": task.step_run_id, "status": 99})
    await agent.say(step_run_status={"status": SUCCESS})
    await agent.say(step_run_fetch={})
    await eventually(lambda: len(agent.got("step_run_assignment")) == 2)
    assert steps(server, run_id)[0]["status"] == "queued"
    await agent.ack(task)
    await agent.finish(task)
    await ended(server, run_id, "succeeded")


async def test_only_agents_may_call(server: Server) -> None:
    for token, code in ((server.admin, Code.PERMISSION_DENIED), ("nonsense", Code.UNAUTHENTICATED)):
        async with ChannelAgent(server.grpc, "nobody", token=token) as agent:
            call = agent.rpc(ChannelAgent.method)(iter(()), metadata=agent.metadata, timeout=PATIENCE)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is code


async def test_agents_on_connect_and_here_share_the_work(server: Server, agent: ChannelAgent) -> None:
    async with await registered(server, next(_names), slots=2) as other:
        change = {"agent_id": other.agent_id, "labels": {"only": agent.agent_id}, "merge": True}
        assert (await other.call("agent.v1.AgentService/UpdateLabels", **change)).success
        start(server, agent, jobs=4)
        for one in (agent, other):
            for _ in range(2):
                await one.task()


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
