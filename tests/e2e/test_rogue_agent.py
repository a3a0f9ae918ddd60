"""An agent that lies, with a valid credential: it gains nothing, costs little, and disturbs no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from pilothouse.wire.agent.v1 import agent_pb2 as pb
from support.agent_work import ACCEPTED, OUT_OF_ORDER, PARTIAL, REJECTED, Work, begin
from support.fake_agent import CANCELLED, FAILED, RUNNING, SUCCESS, FakeAgent, batch, events, registered
from support.server import Server, spec_for
from support.waiting import PATIENCE, eventually, slowness
from support.wire_table import table

Code = grpc.StatusCode
BIG = 2**63 - 1
OUTPUT, PROGRESS = "arcentra.step.output", "arcentra.step.progress"


@pytest.fixture
async def victim(shared_server: Server) -> AsyncIterator[Work]:
    """An honest agent in the midst of a step, which it must be able to finish as if nothing had happened."""
    work = await begin(shared_server)
    yield work
    await work.agent.lines(work.step, ["mine"])
    await work.agent.finish(work.task, SUCCESS)
    await eventually(lambda: work.view()["status"] == "succeeded")
    assert work.logged() == ["mine"]
    assert work.step_view()["outputs"] == {}
    assert len(work.step_view()["attempts"]) == 1
    await work.agent.vanish()


@pytest.fixture
async def rogue(shared_server: Server) -> AsyncIterator[Work]:
    """The liar, with a step of its own."""
    work = await begin(shared_server)
    yield work
    await work.agent.vanish()


async def beat(agent: FakeAgent, **fields: Any) -> None:
    """A heartbeat with fields that are ours, which the contract's table does not have."""
    message = pb.ConnectRequest(agent_id=agent.agent_id, heartbeat=pb.ConnectHeartbeat(**fields))
    await agent._say.put(table().message("agent.v1.ConnectRequest").FromString(message.SerializeToString()))


async def register_again(agent: FakeAgent, **fields: Any) -> None:
    """With its own token."""
    message = pb.RegisterRequest(
        agent_id=agent.agent_id, token=agent.token, max_concurrent_step_runs=1, labels=agent.labels
    )
    message.MergeFrom(pb.RegisterRequest(**fields))
    request = table().message("agent.v1.RegisterRequest").FromString(message.SerializeToString())
    await agent.rpc("agent.v1.AgentService/Register")(request, timeout=PATIENCE)


def code_of(error: grpc.aio.AioRpcError) -> str:
    return str(dict(error.trailing_metadata() or ())["pilot-code"])  # type: ignore[arg-type]


async def ended(agent: FakeAgent) -> tuple[grpc.StatusCode, str]:
    """How the server has ended its connection."""
    assert agent.closed is not None
    async with asyncio.timeout(PATIENCE):
        return await agent.closed


# -- the work of others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [RUNNING, SUCCESS, FAILED, CANCELLED, 7, 8])
async def test_reports_on_another_s_step(rogue: Work, victim: Work, status: int) -> None:
    answer = await rogue.agent.report(victim.step, status)
    assert not answer.success
    await rogue.agent.say(task_status={"step_run_id": victim.step, "status": status})
    await rogue.agent.say(task_ack={"command_id": victim.task.command_id, "status": 2, "message": "no"})
    await rogue.agent.say(task_ack={"command_id": victim.task.command_id, "status": 1})
    await rogue.agent.lines(rogue.step, ["processed"])
    assert victim.step_view()["status"] == "running"


async def test_claims_to_hold_another_s_lease(rogue: Work, victim: Work) -> None:
    claims = [victim.step, rogue.step, "never-leased", "\x00", "x" * 5000, ""]
    for _ in range(3):
        await beat(rogue.agent, running_step_run_ids=claims, reports_running=True)
    await eventually(lambda: {victim.step, "never-leased"} <= rogue.agent.cancelled.keys())
    assert not rogue.agent.cancelled.keys() - {victim.step, "never-leased"}
    assert not victim.agent.cancelled
    assert victim.step_view()["status"] == "running"


async def test_writes_into_another_s_step(rogue: Work, victim: Work) -> None:
    rogue.agent.seq = 1
    ack = await rogue.agent.push(batch(victim.step, 1, ["forged"]))
    assert (ack.status, list(ack.rejected_seqs)) == (REJECTED, [1])
    told: list[Any] = [
        ("e1", 1, victim.step, OUTPUT, {"name": "x", "json": "1"}),
        ("e2", 2, victim.step, PROGRESS, {"percent": 99}),
        ("e3", 3, victim.step, "arcentra.step.annotation", {"text": "forged"}),
    ]
    ack = await rogue.agent.push_events(events(*told))
    assert (ack.status, list(ack.rejected_seqs)) == (REJECTED, [1, 2, 3])


@pytest.mark.parametrize("where", ["handshake", "batch", "event"])
async def test_pushes_in_another_s_name(rogue: Work, victim: Work, where: str) -> None:
    other = victim.agent.agent_id
    request = table().message(
        "gateway.v1.PushEventsRequest" if where == "event" else "gateway.v1.PushLogsRequest"
    )()
    if where == "handshake":
        request.handshake.agent_id = other
    elif where == "batch":
        request = batch(rogue.step, 1, ["x"], agent_id=other)
    else:
        request.batch.events.add(event_id="e", event_type="x").meta.agent_id = other
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (rogue.agent.push_events(request) if where == "event" else rogue.agent.push(request))
    assert (caught.value.code(), code_of(caught.value)) == (
        Code.PERMISSION_DENIED,
        "AUTH_INSUFFICIENT_PERMISSIONS",
    )


async def test_speaks_in_another_s_name_on_its_connection(rogue: Work, victim: Work) -> None:
    message = table().message("agent.v1.ConnectRequest")
    await rogue.agent._say.put(message(agent_id=victim.agent.agent_id, heartbeat={"status": 1}))
    status, details = await ended(rogue.agent)
    assert status is Code.PERMISSION_DENIED
    assert details.startswith("AUTH_INSUFFICIENT_PERMISSIONS: ")


async def test_reads_what_it_may_not(rogue: Work, victim: Work, shared_server: Server) -> None:
    token = rogue.agent.token
    for method in table().methods:
        if "StreamService" not in method or "AgentChannel" in method:
            continue
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            request = table().message(table().methods[method][0])()
            async for _ in rogue.agent.rpc(method)(request, metadata=rogue.agent.metadata, timeout=PATIENCE):
                break
        assert caught.value.code() is Code.PERMISSION_DENIED, method
    blob = shared_server.http.post(
        f"{shared_server.url}/api/v1/blobs",
        headers={"Authorization": f"Bearer {shared_server.admin}"},
        content=b"of another project",
    )
    assert blob.status_code == 201
    for path in (
        f"/blobs/{blob.json()['id']}",
        f"/workflow-runs/{victim.run_id}",
        f"/workflow-runs/{victim.run_id}/logs",
        f"/workflow-runs/{rogue.run_id}",
        "/agents",
        "/secrets",
        "/registration-tokens",
    ):
        assert shared_server.call("GET", path, token).status_code in (403, 404), path
    for path in ("/registration-tokens", "/blobs", "/tokens", f"/workflow-runs/{victim.run_id}/cancel"):
        assert shared_server.call("POST", path, token, json={}).status_code in (403, 404), path


# -- its own work ---------------------------------------------------------------------------------------


async def test_changes_what_has_ended(rogue: Work, victim: Work) -> None:
    agent, step = rogue.agent, rogue.step
    output: list[Any] = [("o1", 1, step, OUTPUT, {"name": "kept", "json": "1"})]
    assert (await agent.push_events(events(*output))).status == ACCEPTED
    await agent.finish(rogue.task, SUCCESS)
    await eventually(lambda: rogue.view()["status"] == "succeeded")
    before = rogue.view()
    for status in (RUNNING, FAILED, CANCELLED, 7, 8):
        assert not (await agent.report(step, status)).success
    await agent.say(task_ack={"command_id": rogue.task.command_id, "status": 2})
    await beat(agent, running_step_run_ids=[step], reports_running=True)
    late: list[Any] = [
        ("o2", 2, step, OUTPUT, {"name": "kept", "json": "2"}),
        ("o3", 3, step, OUTPUT, {"name": "more", "json": "3"}),
        ("o4", 4, step, PROGRESS, {"percent": 10}),
    ]
    await agent.push_events(events(*late))
    await eventually(lambda: step in agent.cancelled)
    after = rogue.view()
    assert after == before
    assert after["jobs"][0]["steps"][0]["outputs"] == {"kept": 1}


async def test_reports_success_after_a_cancel(rogue: Work, victim: Work, shared_server: Server) -> None:
    shared_server.ask("POST", f"/workflow-runs/{rogue.run_id}/cancel", json={})
    await eventually(lambda: rogue.step in rogue.agent.cancelled)
    await rogue.agent.report(rogue.step, SUCCESS)
    await eventually(lambda: rogue.view()["status"] == "cancelled")
    assert not (await rogue.agent.report(rogue.step, RUNNING)).success


@pytest.mark.parametrize("exit_code", [-(2**31), 2**31 - 1, 0, -1])
async def test_exit_codes(rogue: Work, exit_code: int) -> None:
    assert (await rogue.agent.report(rogue.step, FAILED, exit_code)).success
    assert rogue.step_view()["attempts"][0]["exit_code"] == exit_code
    assert rogue.view()["status"] == "failed"


@pytest.mark.parametrize("status", [0, 1, 2, 9, 99, -1])
async def test_statuses_that_no_agent_reports(rogue: Work, status: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rogue.agent.report(rogue.step, status)
    assert (caught.value.code(), code_of(caught.value)) == (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert rogue.step_view()["status"] == "running"


async def test_words_of_any_size(rogue: Work) -> None:
    """What is too long is left out; impossible times are refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rogue.agent.call(
            "agent.v1.AgentService/ReportStepRunStatus",
            step_run_id=rogue.step,
            status=FAILED,
            start_time=BIG,
            end_time=-BIG,
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    answer = await rogue.agent.call(
        "agent.v1.AgentService/ReportStepRunStatus",
        agent_id=rogue.agent.agent_id,
        step_run_id=rogue.step,
        status=FAILED,
        error_message="e" * 900_000,
        metrics={f"m{n}": "v" * (n % 7) for n in range(3000)} | {"x" * 50_000: "y"},
    )
    assert answer.success
    shown = rogue.step_view()
    assert len(str(shown)) < 20_000
    assert "900000" in str(shown)
    assert "2026" <= str(shown["attempts"][0]["finished_at"])[:4] < "2100"


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        ({"name": "x", "json": '"' + "y" * (1 << 20) + '"'}, "one too large"),
        ({"name": "x", "json": "[" * 5000 + "]" * 5000}, "one too deep"),
        ({"name": "x" * 200, "json": "1"}, "a long name"),
        ({"name": "x", "value": {f"k{n}": n for n in range(60_000)}}, "many keys"),
        ({f"k{n}": n for n in range(60_000)}, "many fields"),
        ({"name": 7, "value": None}, "no name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_outputs_out_of_bounds(rogue: Work, payload: dict[str, Any], what: str) -> None:
    ack = await rogue.agent.push_events(events(("o", 1, rogue.step, OUTPUT, payload)))
    assert (ack.status, list(ack.rejected_seqs)) == (REJECTED, [1]), what
    assert rogue.step_view()["outputs"] == {}


async def test_more_outputs_than_a_step_may_have(rogue: Work) -> None:
    told: list[Any] = [
        (f"o{n}", n, rogue.step, OUTPUT, {"name": f"o{n}", "json": "1"}) for n in range(1, 1011)
    ]
    ack = await rogue.agent.push_events(events(*told))
    assert (ack.status, list(ack.rejected_seqs)) == (PARTIAL, list(range(1001, 1011)))
    assert len(rogue.step_view()["outputs"]) == 1000


# -- numbers and ids ------------------------------------------------------------------------------------


async def test_sequence_numbers_at_the_end(rogue: Work, victim: Work) -> None:
    agent, step = rogue.agent, rogue.step
    ack = await agent.push(batch(step, BIG + 1, ["x"]))
    assert (ack.status, list(ack.rejected_seqs)) == (REJECTED, [BIG + 1])
    assert (await agent.push(batch(step, 2**64 - 1, ["x"]))).status == REJECTED
    assert (await agent.push(batch(step, BIG, ["last"]))).status == ACCEPTED
    assert (await agent.push(batch(step, BIG, ["other"], id="another"))).status == OUT_OF_ORDER
    assert (await agent.push(batch(step, 1, ["late"]))).status in (ACCEPTED, OUT_OF_ORDER)
    first: Any = ("e1", 1, step, PROGRESS, {"percent": 1})  # the first number begins the count
    assert (await agent.push_events(events(first))).status == ACCEPTED
    for seq in (BIG, 2**64 - 1, 3):
        told: Any = (f"e{seq}", seq, step, PROGRESS, {"percent": 1})
        ack = await agent.push_events(events(told))
        assert (ack.status, ack.expected_seq) == (OUT_OF_ORDER, 2)
    assert rogue.logged() == ["last"]


@pytest.mark.parametrize("id", ["x" * 257, "x" * 1_000_000, "\x00" * 500])
async def test_long_ids_of_batches_and_events(rogue: Work, id: str) -> None:
    ack = await rogue.agent.push(batch(rogue.step, 1, ["x"], id=id), batch(rogue.step, 2, ["y"]))
    assert (ack.status, list(ack.rejected_seqs)) == (PARTIAL, [1])
    assert (await rogue.agent.push(batch(id, 3, ["x"]))).status == REJECTED
    told: list[Any] = [(id, 1, rogue.step, "t", {}), ("e2", 2, id, "t", {}), ("e3", 3, rogue.step, id, {})]
    assert (await rogue.agent.push_events(events(*told))).status == REJECTED
    assert rogue.logged() == ["y"]


async def test_sequence_numbers_that_pass_over_are_forgotten(rogue: Work) -> None:
    """Each far from the one before, none a multiple of anything: what is kept of them stays bounded."""
    requests = [batch(rogue.step, 1 + n * 10_007, []) for n in range(300)]
    assert (await rogue.agent.push(*requests)).status == ACCEPTED
    again = await rogue.agent.push(batch(rogue.step, 1 + 10_007, [], id="another"))
    assert again.status == ACCEPTED  # as one that is too old to be known


# -- floods ---------------------------------------------------------------------------------------------


async def test_thousands_of_claims(rogue: Work, victim: Work) -> None:
    """A list within the bound: some are answered. One beyond it ends the connection."""
    ids = [f"claim-{n}" for n in range(1000)]
    await beat(rogue.agent, running_step_run_ids=[rogue.step, *ids], reports_running=True)
    await eventually(lambda: len(rogue.agent.cancelled) >= 100)
    more = [f"claim-{n}" for n in range(20_000)]
    await beat(rogue.agent, running_step_run_ids=more, reports_running=True)
    status, details = await ended(rogue.agent)
    assert (status, details.partition(":")[0]) == (Code.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert rogue.step_view()["status"] == "running"


async def test_acknowledgements_of_nothing(rogue: Work, victim: Work) -> None:
    for n in range(2000):
        await rogue.agent.say(task_ack={"command_id": f"never-{n}", "status": 1 + n % 2})
    status, details = await ended(rogue.agent)
    # A call that ends while its client still sends may end there with a status of the client's library.
    unsent = (status, details) == (Code.INTERNAL, "Internal error from Core")
    refused = (status, details.partition(":")[0]) == (Code.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED")
    assert refused or unsent
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rogue.agent.report("never", SUCCESS)
    assert code_of(caught.value) == "RATE_LIMIT_EXCEEDED"


async def test_labels_that_change_all_the_time(rogue: Work, victim: Work) -> None:
    codes = set()
    update = "agent.v1.AgentService/UpdateLabels"
    for n in range(200):
        try:
            labels = {"only": rogue.agent.agent_id, "n": str(n)}
            answer = await rogue.agent.call(update, agent_id=rogue.agent.agent_id, labels=labels)
            assert answer.success
        except grpc.aio.AioRpcError as error:
            codes.add((error.code(), code_of(error)))
    assert codes == {(Code.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED")}


async def test_ten_thousand_heartbeats(rogue: Work, victim: Work, shared_server: Server) -> None:
    """Others notice nothing, and the journal grows by few entries, though each heartbeat says something else."""
    slowest = 0.0

    async def ask() -> None:
        nonlocal slowest
        while True:
            began = time.monotonic()
            assert (await victim.agent.call("agent.v1.AgentService/Heartbeat")).success
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0)

    asking = asyncio.create_task(ask())
    try:
        for n in range(10_000):
            await beat(rogue.agent, problems=[f"problem {n}"], blocked_slots=n % 5)
        name = rogue.agent.agent_id

        def last() -> bool:
            return bool(shared_server.ask("GET", f"/agents/{name}")["degraded"] == ["problem 9999"])

        await eventually(last)
    finally:
        asking.cancel()
    assert slowest < 0.3 * slowness() + 0.3
    assert rogue.agent.closed is not None
    assert not rogue.agent.closed.done()


# -- projects and labels --------------------------------------------------------------------------------


async def test_an_agent_of_one_project_gets_no_other_s_work(shared_server: Server) -> None:
    """Not after it changed its labels, registered again with its own token, or connected again."""
    own, other = shared_server.project("own-of-rogue"), shared_server.project("other-of-rogue")
    name = "bound-rogue"
    async with FakeAgent(shared_server.grpc, name, labels={"pool": "own"}) as agent:
        await agent.register(
            shared_server.registration_token(projects=["own-of-rogue"], labels=["only", "pool=own"])
        )
        await agent.connect()
        spec = spec_for(name)
        spec["jobs"][0]["steps"][0]["agentSelector"] = {"matchLabels": {"pool": "own"}}
        stolen = shared_server.trigger(shared_server.pipeline("p-other-of-rogue", spec, project=other))
        update = "agent.v1.AgentService/UpdateLabels"
        for labels in ({"pool": "other"}, {"project": other}, {"zone": "z"}):
            assert not (await agent.call(update, agent_id=name, labels=labels, merge=True)).success
        assert (await agent.call(update, agent_id=name, labels={"pool": "own"})).success
        agent.labels = {"pool": "other"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await agent.register()
        assert code_of(caught.value) == "VALIDATION_FAILED"
        agent.labels = {"pool": "own"}
        await register_again(agent, metadata={"projects": other, "project": other}, region=other)
        await agent.vanish()
        await agent.connect()
        assert shared_server.ask("GET", f"/agents/{name}")["projects"] == [own]
        mine = shared_server.trigger(shared_server.pipeline("p-own-of-rogue", spec, project=own))
        task = await agent.task()
        assert task.pipeline_run_id == mine
        await agent.ack(task)
        await agent.finish(task)
        await eventually(lambda: shared_server.ask("GET", f"/workflow-runs/{mine}")["status"] == "succeeded")
        assert shared_server.ask("GET", f"/workflow-runs/{stolen}")["status"] != "succeeded"
        given = {
            step.pipeline_run_id for command in agent.received for step in command.task_dispatch.step_runs
        }
        assert given == {mine}


async def test_a_profile_that_grows(shared_server: Server) -> None:
    """With its own token an agent changes what it says of itself, within the same bounds."""
    async with await registered(shared_server, "growing") as agent:
        for fields in (
            {"metadata": {"x": "y" * 20_000}},
            {"platform": "p" * 300},
            {"max_sessions": -1},
            {"agent_name": "a\x00b"},
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await register_again(agent, **fields)
            assert code_of(caught.value) == "VALIDATION_FAILED"


async def test_secrets_in_events_that_name_no_step(shared_server: Server) -> None:
    secret = "told-by-the-agent-itself"
    shared_server.ask("PUT", "/secrets/TOLD", json={"value": secret})
    spec = spec_for("teller")
    spec["jobs"][0]["steps"][0]["env"] = {"TOLD": "${{ secrets.TOLD }}"}
    async with await registered(shared_server, "teller") as agent:
        shared_server.trigger(shared_server.pipeline("teller", spec))
        await agent.ack(await agent.task())
        ack = await agent.push_events(events(("e1", 1, "", "custom", {"told": f"<{secret}>"})))
        assert ack.status == ACCEPTED
    headers = {"Authorization": f"Bearer {shared_server.admin}"}
    query = {"stream": "agent/teller", "type": "agent.event", "cursor": "start"}
    with shared_server.http.stream(
        "GET", f"{shared_server.url}/api/v1/events", headers=headers, params=query
    ) as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data:"))
    assert secret not in data
    assert "<***>" in data


def test_nothing_unforeseen_was_logged(shared_server: Server) -> None:
    assert shared_server.failures() == []


async def test_what_an_agent_says_of_itself_shows_no_secret_of_its_work(shared_server: Server) -> None:
    """Problems of heartbeats and the reason of its removal; also where the text is cut within the secret."""
    server, secret = shared_server, "tell-tale-9f31c0"
    server.ask("PUT", "/secrets/TELLTALE", json={"value": secret})
    async with await registered(server, "telltale") as agent:
        spec = spec_for("telltale")
        spec["jobs"][0]["steps"][0]["env"] = {"T": "${{ secrets.TELLTALE }}"}
        run_id = server.trigger(server.pipeline("telltale", spec))
        task = await agent.task()
        await agent.ack(task)
        said = [f"left behind: sh -c {secret}", "x" * 493 + secret]
        await beat(agent, problems=said)
        shown = await eventually(lambda: server.ask("GET", "/agents/telltale")["degraded"])
        assert shown == ["left behind: sh -c ***", "x" * 493]
        await agent.finish(task, SUCCESS)
        await eventually(lambda: server.ask("GET", f"/workflow-runs/{run_id}")["status"] == "succeeded")
        await beat(agent, problems=[f"still there: {secret}"])
        await eventually(lambda: server.ask("GET", "/agents/telltale")["degraded"] == ["still there: ***"])
        await beat(agent)
        await eventually(lambda: server.ask("GET", "/agents/telltale")["degraded"] == [])
        await agent.call("agent.v1.AgentService/Unregister", agent_id="telltale", reason=f"because {secret}")
    records = server.ask("GET", "/audit?action=agent.unregister&target=telltale")["entries"]
    assert [record["detail"]["reason"] for record in records] == ["because ***"]
