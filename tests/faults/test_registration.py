"""A registration's response is lost and its token allows one use: the agent retries and is registered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.fake_agent import FakeAgent
from support.faults.commits import doom, mortal, until_dead
from support.faults.fleet import PATIENT, Fleet, fleet, on, shell, until

KEY = "k" * 32
REGISTER = "agent.v1.AgentService/Register"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("registration"), **PATIENT) as made:
        yield made


async def ask(agent: FakeAgent, token: str, key: str = KEY, agent_id: str = "") -> Any:
    """One registration with a key."""
    who = agent_id or agent.agent_id
    return await agent.call(
        REGISTER,
        metadata=(("pilot-registration-key", key),) if key else (),
        agent_id=who,
        registration_token=token,
        labels={"only": who},
    )


async def refused(agent: FakeAgent, token: str, *words: str) -> grpc.StatusCode:
    """The status of a registration that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(agent, token, *words)
    return caught.value.code()


async def test_with_its_key_it_may_ask_again(made: Fleet) -> None:
    token = made.server.registration_token(max_uses=1)
    async with FakeAgent(made.server.grpc, "again") as agent:
        first = await ask(agent, token)
        assert first.auth_token == (await ask(agent, token)).auth_token
        for key in ("", "x" * 32, KEY):
            assert await refused(agent, token, key, "another") is grpc.StatusCode.UNAUTHENTICATED
        for key in ("k" * 31, "k" * 257):
            assert await refused(agent, token, key) is grpc.StatusCode.INVALID_ARGUMENT


async def test_asking_again_changes_nothing(made: Fleet) -> None:
    """A delayed retry arrives after the agent has connected."""
    token = made.server.registration_token()
    async with FakeAgent(made.server.grpc, "ghostly") as agent:
        agent.token = (await ask(agent, token)).auth_token
        await agent.connect()
        run_id = made.run("ghostly", on("ghostly", {"name": "j", "steps": [shell("s", "true")]}))
        task = await agent.task(60)
        await agent.ack(task)
        await agent.lines(task.step_run_id, ["one"])
        assert (await ask(agent, token)).auth_token == agent.token
        await agent.lines(task.step_run_id, ["two"])  # under the next number, on the same connection
        await agent.finish(task)
        assert (await asyncio.to_thread(made.ended, run_id))["status"] == "succeeded"
        assert agent.closed is not None
        assert not agent.closed.done()
    assert made.unforeseen() == []


def test_the_server_dies_when_it_has_taken_the_registration_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed, but the response is lost."""
    mortal(monkeypatch)
    with fleet(tmp_path, **PATIENT) as made:
        agent = made.agent("a")  # its token is good for one use
        made.server.kill9()
        for _ in range(2):
            doom(tmp_path, "registered")
            made.server.restart()
            if agent._process is None:
                agent.start(online=False)
            until_dead(made)
            assert agent.exit_code is None, agent.log()
        doom(tmp_path, "never")
        made.server.restart()
        until(lambda: agent.said("agent.connected"), what="it gets in all the same")
        run_id = made.run("after", on("a", {"name": "j", "steps": [shell("s", "echo fine")]}))
        assert made.ended(run_id)["status"] == "succeeded"


def test_the_agent_dies_before_it_has_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The restarted agent retries with the same key."""
    mortal(monkeypatch)
    with fleet(tmp_path, **PATIENT) as made:
        agent = made.agent("a")
        made.server.kill9()
        doom(tmp_path, "registered")
        made.server.restart()
        agent.start(online=False)
        until_dead(made)
        agent.kill9()
        doom(tmp_path, "never")
        made.server.restart()
        agent.start()
        assert agent.exit_code is None
