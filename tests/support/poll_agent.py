"""A third-party agent that only polls, from the contract's wire table alone: it runs shell steps one after another.

It uses no field of ours: it learns of a cancel from the answer to its next ``running`` report.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

from support.fake_agent import CANCELLED, FAILED, RUNNING, SUCCESS, FakeAgent, batch

SERVICE = "agent.v1.AgentService"


class PollAgent(FakeAgent):
    """Polls every ``every`` seconds for at most ``most`` step runs, and carries them out as child processes."""

    every = 0.05
    most = 1

    async def fetch(self, most: int | None = None) -> list[Any]:
        """Work, leased to this agent."""
        asked = self.most if most is None else most
        answer = await self.call(f"{SERVICE}/FetchStepRun", agent_id=self.agent_id, max_step_runs=asked)
        assert answer.success, answer
        return list(answer.step_runs)

    async def heartbeat(self) -> None:
        """Renew the leases."""
        answer = await self.call(f"{SERVICE}/Heartbeat", agent_id=self.agent_id)
        assert answer.success, answer

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            running = [asyncio.create_task(self.carry_out(step)) for step in await self.fetch()]
            try:
                await asyncio.gather(*running)
            finally:
                for one in running:
                    one.cancel()
            await asyncio.sleep(self.every)

    async def carry_out(self, step: Any) -> None:
        """One step run, from its start to its result."""
        if not (await self.report(step.step_run_id, RUNNING)).success:
            return  # withdrawn before it started
        process = await asyncio.create_subprocess_exec(
            *("sh", "-e", "-c", step.args["command"]),
            env={**os.environ, **step.env},
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        watching = asyncio.create_task(self._watch(step, process))
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                await self.told(step.step_run_id, line)
            code = await process.wait()
        finally:
            watching.cancel()
            _kill(process)
        stopped = watching.done() and not watching.cancelled()
        status = CANCELLED if stopped else FAILED if code else SUCCESS
        await self.report(step.step_run_id, status, code)

    async def told(self, step_run_id: str, line: bytes) -> None:
        """Push a line; returns when it is on disk."""
        self.seq += 1
        ack = await self.push(batch(step_run_id, self.seq, line, agent_id=self.agent_id))
        assert ack.status == 1, ack

    async def _watch(self, step: Any, process: asyncio.subprocess.Process) -> None:
        """End the process when the server no longer wants it."""
        while (await self.report(step.step_run_id, RUNNING)).success:
            await asyncio.sleep(self.every)
        _kill(process)


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)


async def polling(server: Any, agent_id: str, **fields: Any) -> PollAgent:
    """A registered agent of this server that polls, in place of an earlier one of that name."""
    agent = PollAgent(server.grpc, agent_id, **fields)
    await agent.register(server.registration_token(max_uses=1, agents=[agent_id]))
    return agent
