"""A third-party agent that runs one step of one run."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from support.fake_agent import (
    FakeAgent,
    Task,
    batch,
    registered,
)
from support.server import Server, spec_for
from support.waiting import eventually

ACCEPTED, PARTIAL, REJECTED, OUT_OF_ORDER = 1, 2, 3, 4
Code = grpc.StatusCode


class Work:
    """An agent that has acknowledged one step of one run."""

    def __init__(self, server: Server, agent: FakeAgent, run_id: str, task: Task) -> None:
        self.server, self.agent, self.run_id, self.task = server, agent, run_id, task

    @property
    def step(self) -> str:
        return str(self.task.step_run_id)

    def view(self) -> Any:
        return self.server.ask("GET", f"/workflow-runs/{self.run_id}")

    def step_view(self) -> Any:
        return self.view()["jobs"][0]["steps"][0]

    def logged(self) -> list[str]:
        return self.server.call("GET", f"/workflow-runs/{self.run_id}/logs").text.splitlines()

    def push(self, seq: int, data: Any, **fields: Any) -> Any:
        return self.agent.push(batch(self.step, seq, data, **fields))


_names = iter(f"gw{number}" for number in range(1000))


async def begin(server: Server, *, ack: bool = True, **agent_fields: Any) -> Work:
    """A fresh agent with one step of its own."""
    name = next(_names)
    agent = await registered(server, name, **agent_fields)
    run_id = server.trigger(server.pipeline(name, spec_for(name)))
    task = await agent.task()
    work = Work(server, agent, run_id, task)
    if ack:
        await agent.ack(task)
        await eventually(lambda: work.step_view()["status"] == "running")
    return work


async def refusal(calling: Any) -> grpc.StatusCode:
    """The status that a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling
    return caught.value.code()
