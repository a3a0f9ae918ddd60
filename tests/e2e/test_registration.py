"""Registration tokens over REST and gRPC, and two projects on a fleet of two agents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from support.agent_work import refusal
from support.bodies import plain_error
from support.fake_agent import FakeAgent
from support.server import Server, running, spec_for
from support.waiting import eventually

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("registration")) as server:
        yield server


def listed(server: Server, token_id: str) -> Any:
    tokens = server.ask("GET", "/registration-tokens")["registration_tokens"]
    return next(token for token in tokens if token["id"] == token_id)


def test_what_a_token_allows_is_shown_but_not_its_secret(server: Server) -> None:
    shop = server.project("shop")
    body = {
        "description": "d",
        "max_uses": 2,
        "agents": ["build-*"],
        "projects": ["shop"],
        "labels": ["zone=a", "gpu"],
    }
    made = server.ask("POST", "/registration-tokens", json=body)
    shown = listed(server, made["id"])
    assert (shown["agents"], shown["projects"], shown["labels"]) == (["build-*"], [shop], ["zone=a", "gpu"])
    assert "token" not in shown
    free = server.ask("POST", "/registration-tokens", json={})
    shown = listed(server, free["id"])
    assert (shown["agents"], shown["projects"], shown["labels"]) == ([], None, None)


@pytest.mark.parametrize(
    "body",
    [
        {"agents": ["x"] * 101},
        {"agents": ["x" * 201]},
        {"agents": "build-1"},
        {"agents": [7]},
        {"agents": ["a/b"]},
        {"labels": ["x"] * 101},
        {"labels": ["x=" + "y" * 199]},
        {"labels": [""]},
        {"labels": [{"zone": "a"}]},
        {"labels": ["a\x00b"]},
        {"projects": ["x"] * 101},
        {"projects": ["x" * 201]},
        {"projects": []},
        {"projects": ["no such project"]},
        {"project": ["shop"]},
    ],
)  # fmt: skip
def test_what_it_cannot_allow(server: Server, body: dict[str, Any]) -> None:
    before = server.ask("GET", "/registration-tokens")
    plain_error(server.call("POST", "/registration-tokens", json=body), 400, "VALIDATION_FAILED")
    assert server.ask("GET", "/registration-tokens") == before


async def test_whom_a_token_lets_in(server: Server) -> None:
    made = server.ask("POST", "/registration-tokens", json={"description": "hosts", "max_uses": 1})
    async with FakeAgent(server.grpc, "let-in") as agent, FakeAgent(server.grpc, "not-in") as other:
        await agent.register(made["token"])
        assert await refusal(other.register(made["token"])) is Code.UNAUTHENTICATED
        await agent.register(made["token"])  # its own name again, and that is no use of it
        shown = server.ask("GET", "/agents/let-in")
        assert shown["registered_by"] == {
            "token_id": made["id"],
            "description": "hosts",
            "created_by": "admin",
        }
        assert (shown["projects"], shown["allowed_labels"], shown["ephemeral"]) == (None, None, False)
        assert listed(server, made["id"])["uses"] == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.register(server.registration_token())
        assert caught.value.code() is Code.ALREADY_EXISTS
        assert str(caught.value.details()).startswith("AGENT_ALREADY_EXISTS: ")
        assert ("pilot-code", "AGENT_ALREADY_EXISTS") in [*(caught.value.trailing_metadata() or ())]
        assert (await agent.call("agent.v1.AgentService/Heartbeat", agent_id="let-in")).success
        old = agent.token
        await agent.register(server.registration_token(agents=["let-*"]))
        assert agent.token != old
        server.call("DELETE", f"/registration-tokens/{made['id']}")
        assert await refusal(agent.register(made["token"])) is Code.UNAUTHENTICATED
        assert (await agent.call("agent.v1.AgentService/Heartbeat", agent_id="let-in")).success


async def test_labels_that_a_token_does_not_allow(server: Server) -> None:
    token = server.registration_token(labels=["only", "zone=a"])
    async with FakeAgent(server.grpc, "labelled", labels={"zone": "b"}) as agent:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.register(token, os="linux")
        assert caught.value.code() is Code.INVALID_ARGUMENT
        assert "zone=b (allowed: only, zone=a)" in str(caught.value.details())
        agent.labels = {"zone": "a"}
        await agent.register(token, os="linux")
        update = "agent.v1.AgentService/UpdateLabels"
        for labels, merge in (({"zone": "c"}, True), ({"more": "x"}, False)):
            answer = await agent.call(update, agent_id="labelled", labels=labels, merge=merge)
            assert not answer.success
            assert "does not allow" in answer.message
        assert (await agent.call(update, agent_id="labelled", labels={"zone": "a"})).success
        agent.labels = {"zone": "d"}
        assert await refusal(agent.register()) is Code.INVALID_ARGUMENT
        assert server.ask("GET", "/agents/labelled")["labels"] == {"zone": "a"}


async def test_two_projects_share_no_agent(server: Server) -> None:
    """Both agents match both runs; each gets its own project's, whatever the order of things."""
    projects = {name: server.project(name) for name in ("red", "blue")}
    agents = {
        name: FakeAgent(server.grpc, f"{name}-1", slots=10, labels={"only": "both"}) for name in projects
    }
    try:
        for name, agent in agents.items():
            await agent.register(server.registration_token(projects=[name]))
            await agent.connect()
            shown = server.ask("GET", f"/agents/{name}-1")
            assert shown["projects"] == [projects[name]]
        pipelines = {
            name: server.pipeline(f"p-{name}", spec_for("both"), project=id) for name, id in projects.items()
        }
        runs = [(name, server.trigger(pipelines[name])) for _ in range(4) for name in projects]
        for name, run_id in runs:
            task = await agents[name].task()
            await agents[name].ack(task)
            await agents[name].finish(task, 5)
            await eventually(
                lambda run_id=run_id: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "failed"
            )
        again = [(name, server.ask("POST", f"/workflow-runs/{run_id}/rerun", json={"from": "failed"})["id"])
                 for name, run_id in runs[:2]]  # fmt: skip
        for name, run_id in again:
            assert (await agents[name].task()).pipeline_run_id == run_id
        given = {name: {step.pipeline_run_id for command in agent.received for step in command.task_dispatch.step_runs}
                 for name, agent in agents.items()}  # fmt: skip
        assert given == {name: {id for of, id in [*runs, *again] if of == name} for name in projects}
        waits = server.trigger(server.pipeline("p-free", spec_for("both")))
        await eventually(
            lambda: (
                server.ask("GET", f"/workflow-runs/{waits}")["jobs"][0]["steps"][0]["reason"]
                == "every matching agent is bound to other projects (blue-1, red-1)"
            )
        )
    finally:
        for agent in agents.values():
            await agent.vanish()


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
