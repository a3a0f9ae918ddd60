"""A server of a later release with older agents and clients: which are served, and the response to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from pilothouse import __version__
from support.bodies import enveloped_error, plain_error
from support.desk import Desk
from support.fake_agent import FakeAgent
from support.server import Server, spec_for
from support.waiting import PATIENCE, eventually

LATER = "0.7.2"
UPGRADE = f"pip install --upgrade pilothouse=={LATER}"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("later"))
    server.version = LATER
    try:
        yield server.start()
    finally:
        server.close()


@pytest.mark.parametrize("user_agent", ["pilot/0.5.9", "pilothouse/0.1.0"])
def test_an_old_client_gets_the_command_that_upgrades(later: Server, user_agent: str) -> None:
    headers = {"User-Agent": user_agent}
    body = plain_error(later.call("GET", "/auth/me", headers=headers), 426, "CLIENT_TOO_OLD")
    assert body["message"].endswith(UPGRADE)
    assert body["details"] == {"client": user_agent, "server": LATER, "upgrade": UPGRADE}
    login = {"username": "admin", "password": "?"}
    plain_error(later.call("POST", "/auth/login", None, headers=headers, json=login), 426, "CLIENT_TOO_OLD")
    plain_error(later.call("GET", "/events", headers=headers), 426, "CLIENT_TOO_OLD")
    assert UPGRADE in enveloped_error(later.call("GET", "/pipelines", headers=headers), 426)["errMsg"]
    assert later.call("GET", "/healthz", None, headers=headers).json()["version"] == LATER


@pytest.mark.parametrize(
    "user_agent", ["pilot/0.6.0", "pilot/0.7.0", "pilot/1.0.0", "curl/7.88.1", "x pilot/0.1.0"]
)
def test_newer_ones_and_others_are_served(later: Server, user_agent: str) -> None:
    assert later.call("GET", "/auth/me", headers={"User-Agent": user_agent}).status_code == 200


@pytest.mark.parametrize(
    ("user_agent", "served"),
    [("pilothouse-agent/0.5.0", False), ("pilothouse-agent/0.6.3", True), ("", True), ("robot/0.1", True)],
)
async def test_agents(later: Server, user_agent: str, served: bool) -> None:
    name = f"agent-{user_agent.replace('/', '-') or 'plain'}"
    async with FakeAgent(later.grpc, name) as agent:
        named = [("grpc.primary_user_agent", user_agent)] if user_agent else []
        agent.channel = grpc.aio.insecure_channel(later.grpc, [*named, ("grpc.use_local_subchannel_pool", 1)])
        token = later.ask("POST", "/registration-tokens", json={})["token"]
        if served:
            await agent.register(token)
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await agent.register(token)
        for error in (refused.value, await connecting(agent)):
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert dict(error.trailing_metadata() or ())["pilot-code"] == "CLIENT_TOO_OLD"
            assert str(error.details()).startswith("CLIENT_TOO_OLD: pilothouse-agent 0.5.0 is too old")
            assert str(error.details()).endswith(UPGRADE)


async def connecting(agent: FakeAgent) -> grpc.aio.AioRpcError:
    """The end of a connection that is refused."""
    call = agent.rpc("agent.v1.AgentService/Connect")(iter(()), metadata=agent.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in call:
            pass
    return refused.value


def test_pilot_sends_its_user_agent(later: Server, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk", later.url, later.admin)
    done = desk.pilot("whoami")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"pilot {__version__} is too old for this server ({LATER})" in done.stderr
    assert UPGRADE in done.stderr
    token = later.ask("POST", "/registration-tokens", json={})["token"]
    where = ("--server", later.url, "--grpc", later.grpc, "--data-dir", str(tmp_path / "agent"))
    done = desk.pilot("agent", *where, "--token", token, "--name", "old")
    assert done.returncode == 6, done.stderr
    assert UPGRADE in done.stderr


async def test_work_goes_on_where_the_server_is_upgraded_too_far(tmp_path: Path) -> None:
    """The agent cannot report any more, but it keeps what it has until one of them is exchanged."""
    server = Server(tmp_path)
    try:
        server.start()
        desk = Desk(tmp_path / "desk", server.url, server.admin)
        token = server.ask("POST", "/registration-tokens", json={})["token"]
        where = ("--server", server.url, "--grpc", server.grpc, "--data-dir", str(tmp_path / "agent"))
        log, go = tmp_path / "agent.log", tmp_path / "go"
        with log.open("w") as stderr:
            agent = desk.start(
                "agent", *where, "--token", token, "--name", "old", "--label", "only=old", stderr=stderr
            )
        spec = spec_for("old")
        spec["jobs"][0]["steps"][0]["args"]["command"] = f"until test -e {go}; do sleep 0.1; done"
        run_id = server.trigger(server.pipeline("upgraded", spec))
        await eventually(lambda: "agent.step_started" in log.read_text())
        server.stop()
        server.version = LATER
        server.restart()
        await eventually(lambda: "agent.too_old" in log.read_text())
        assert UPGRADE in log.read_text()
        go.touch()
        await eventually(lambda: "agent.step_finished" in log.read_text())
        server.stop()
        server.version = ""
        server.restart()
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")
        agent.terminate()
        assert agent.wait(PATIENCE) == 0
    finally:
        server.close()
        if "agent" in locals() and agent.poll() is None:
            agent.kill()
