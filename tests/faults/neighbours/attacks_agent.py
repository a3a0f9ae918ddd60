"""Agents in their right, with a credential and a lease, that push and report the worst."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from faults.neighbours import payloads
from faults.neighbours.ground import Ground, all_of, message
from faults.neighbours.table import abuse
from support.fake_agent import GZIP, NONE, ZSTD, FakeAgent, batch, events
from support.wire_table import table

REFUSED = ("ack 2", "ack 3", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")


async def _an_agent(ground: Ground) -> None:
    agent, steps = await ground.rogue()
    ground.kept["agent"], ground.kept["step"], ground.kept["seq"] = agent, steps[0], 0


def _seq(ground: Ground) -> int:
    ground.kept["seq"] += 1
    return int(ground.kept["seq"])


async def _push(ground: Ground, *requests: Any, ndjson: bool = False) -> None:
    agent: FakeAgent = ground.kept["agent"]
    metadata = (*agent.metadata, *((("pilot-log-format", "ndjson"),) if ndjson else ()))
    call = agent.rpc("gateway.v1.GatewayService/PushLogs")
    answer = await ground.call(call(iter(requests), metadata=metadata), 30)
    if answer is not None:
        ground.count(f"ack {answer.ack.status}")
        ground.kept["seq"] = max(ground.kept["seq"], answer.ack.last_accepted_seq)


def _batch(ground: Ground, data: bytes, compression: int, raw_size: int) -> Any:
    return batch(ground.kept["step"], _seq(ground), data, compression=compression, raw_size=raw_size)


@abuse("empty frames", "agent", REFUSED, prepare=_an_agent)
async def empty_frames(ground: Ground) -> None:
    """8 MB of zstd frames and 4 MB of gzip members that hold nothing."""
    await _push(ground, _batch(ground, payloads.empty_frames(), ZSTD, 0))
    await _push(ground, _batch(ground, payloads.empty_members(), GZIP, 0))


@abuse("eight million lines", "agent", REFUSED, prepare=_an_agent)
async def eight_million_lines(ground: Ground) -> None:
    """In some hundred bytes."""
    size = (8 << 20) - 1
    await _push(ground, _batch(ground, payloads.newlines(), ZSTD, size))
    await _push(ground, _batch(ground, payloads.newlines("gzip"), GZIP, size))


@abuse("unpacking without end", "agent", REFUSED, prepare=_an_agent)
async def unpacking_without_end(ground: Ground) -> None:
    """Half a GB of zeros, with an honest size, a lie, and none."""
    for size in (512 << 20, 1000, 0):
        await _push(ground, *(_batch(ground, payloads.beyond(), ZSTD, size) for _ in range(5)))


@abuse("a flood of lines", "agent", prepare=_an_agent)
async def flood_of_lines(ground: Ground) -> None:
    """What a legal agent may push, as fast as it is taken."""
    block = ("x" * 100 + "\n").encode() * 5000
    await _push(ground, *(_batch(ground, block, NONE, len(block)) for _ in range(8)))


async def _a_secret(ground: Ground) -> None:
    token = ground.token("setup")
    value = payloads.short_lines()
    body = {"value": value, "projectId": ground.given["project"]}
    await ground.detail("PUT", "secrets/SHORT", token, body)
    agent, steps = await ground.rogue(env={"S": "${{ secrets.SHORT }}"})
    ground.kept["agent"], ground.kept["step"], ground.kept["seq"] = agent, steps[0], 0


@abuse("a flood to mask", "agent", prepare=_a_secret)
async def flood_to_mask(ground: Ground) -> None:
    """Lines full of what looks like a secret of a thousand short lines."""
    piece = payloads.short_lines()[:4000].replace("\n", "")
    block = ((piece[:90] + "\n") * 5 + "k" * 90 + "\n").encode() * 1700
    await _push(ground, *(_batch(ground, block, NONE, len(block)) for _ in range(2)))


@abuse("lines as JSON", "agent", (*REFUSED, "ack 1"), prepare=_an_agent)
async def lines_as_json(ground: Ground) -> None:
    """Deep, wide and endless JSON in batches that say they are Log objects."""
    deep = b"[" * 100_000 + b"]" * 100_000 + b"\n"
    wide = payloads.wide_json() + b"\n"
    small = b"{}\n" * 100_000
    for data in (deep, wide, small, b'{"message":"' + b"x" * (1 << 20) + b'"}\n'):
        await _push(ground, _batch(ground, data, NONE, len(data)), ndjson=True)


@abuse("a flood of events", "agent", prepare=_an_agent)
async def flood_of_events(ground: Ground) -> None:
    """Outputs, progress, annotations and events of its own, large and many."""
    agent: FakeAgent = ground.kept["agent"]
    request = events(*_told(ground))
    call = agent.rpc("gateway.v1.GatewayService/PushEvents")
    answer = await ground.call(call(iter([request]), metadata=agent.metadata), 30)
    if answer is not None:
        ground.count(f"ack {answer.ack.status}")
        ground.kept["event"] = max(ground.kept.get("event", 0), answer.ack.expected_seq - 1)


def _told(ground: Ground) -> Iterator[tuple[str, int, str, str, Any]]:
    step = ground.kept["step"]
    nested: Any = "x"
    for _ in range(20):
        nested = {"a": nested}
    first = ground.kept.get("event", 0) + 1
    for n in range(100):
        kinds = (
            ("arcentra.step.progress", {"percent": n, "message": "m" * 5000}),
            ("arcentra.step.output", {"name": f"o{n}", "value": "v" * 20_000}),
            ("custom.event", {"nested": nested, "wide": {f"k{k}": k for k in range(200)}}),
            ("arcentra.step.annotation", {"message": "w" * 5000}),
        )
        type, payload = kinds[n % 4]
        yield ground.name("e"), first + n, step, type, payload


@abuse("messages that are none", "agent", ("INVALID_ARGUMENT", "UNIMPLEMENTED"), prepare=_an_agent)
async def messages_that_are_none(ground: Ground) -> None:
    """Bytes that no message can be read from, and a payload that is nested too deep, to every RPC."""
    agent: FakeAgent = ground.kept["agent"]
    nested: Any = "x"
    for _ in range(60):
        nested = {"a": nested}
    deep = events((ground.name("e"), 1, ground.kept["step"], "custom.event", nested)).SerializeToString()
    channel = agent.channel
    assert channel is not None
    calls = []
    for method, (_, _, asks, answers) in table().methods.items():
        kind = f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}"
        call = getattr(channel, kind)(f"/{method}")
        for data in (b"\xff" * 100, deep if method.endswith("PushEvents") else b"\x0a\xff\xff\xff\x7f"):
            calls.append(call(iter([data]) if asks else data, metadata=agent.metadata))
    await all_of((ground.call(call) for call in calls), 20)


@abuse("heartbeats", "agent", prepare=_an_agent)
async def heartbeats(ground: Ground) -> None:
    """At full speed, on ``Connect`` and one by one, with long lists of what it runs."""
    agent: FakeAgent = ground.kept["agent"]
    held = [ground.name("run") for _ in range(500)]
    for _ in range(400):
        await agent.say(heartbeat={"status": 1, "max_concurrent_step_runs": 4})
    for n in range(40):
        await agent.say(task_ack={"command_id": held[n], "status": 1})
        await agent.say(task_status={"step_run_id": held[n], "status": 4})
    beat = agent.rpc("agent.v1.AgentService/Heartbeat")
    request = message("agent.v1.HeartbeatRequest", agent_id=agent.agent_id)
    await all_of((ground.call(beat(request, metadata=agent.metadata)) for _ in range(200)), 50)


@abuse("polls", "agent", ("OK", "INVALID_ARGUMENT"), prepare=_an_agent)
async def polls(ground: Ground) -> None:
    """At full speed, for nothing and for what nobody may ask for, and cut off at once."""
    agent: FakeAgent = ground.kept["agent"]
    fetch = agent.rpc("agent.v1.AgentService/FetchStepRun")
    calls = []
    for most in (0, 1, 10_000, -1, 2**31 - 1):
        request = message("agent.v1.FetchStepRunRequest", agent_id=agent.agent_id, max_step_runs=most)
        calls += [fetch(request, metadata=agent.metadata) for _ in range(40)]
    for call in calls[::7]:
        call.cancel()
    await all_of((ground.call(call) for n, call in enumerate(calls) if n % 7), 50)


@abuse(
    "cancels",
    "agent",
    ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"),
    prepare=_an_agent,
    room=60.0,
)
async def cancels(ground: Ground) -> None:
    """Of what is not there, of its own again and again, and reports on jobs that it does not have."""
    agent: FakeAgent = ground.kept["agent"]
    long, made_up = "r" * 900_000, payloads.UNKNOWN
    asked = [
        *[
            ("CancelStepRun", {"step_run_id": id, "reason": long})
            for id in (made_up, ground.kept["step"], "x" * 5000)
        ],
        *[("CancelJobRun", {"job_run_id": id, "reason": long}) for id in (made_up, "")],
        *[
            ("ReportJobRunStatus", {"job_run_id": made_up, "status": n, "error_message": long})
            for n in (3, 99)
        ],
    ]
    calls = [
        agent.rpc(f"agent.v1.AgentService/{name}")(
            message(f"agent.v1.{name}Request", **fields), metadata=agent.metadata
        )
        for name, fields in asked * 5
    ]
    await all_of((ground.call(call) for call in calls), 20)


@abuse("agent channel", "agent", ("OK", "RESOURCE_EXHAUSTED", "ABORTED"), prepare=_an_agent)
async def agent_channel(ground: Ground) -> None:
    """Heartbeats, metrics, requests for work and statuses of what it does not have, and no answer is read.

    A call that is refused while its client still sends ends there as INTERNAL, which the client says, not the server.
    """
    agent: FakeAgent = ground.kept["agent"]
    kind, made_up = "stream.v1.AgentChannelRequest", payloads.UNKNOWN
    said = [
        message(kind, heartbeat={"status": 1}),
        message(kind, metrics={"cpu_usage": 1.0, "custom_metrics": {f"m{n}": "v" * 200 for n in range(100)}}),
        message(kind, step_run_fetch={"max_step_runs": 1}),
        message(kind, step_run_status={"step_run_id": made_up, "status": 4, "error_message": "e" * 5000}),
    ]
    channel = agent.rpc("stream.v1.StreamService/AgentChannel")
    calls = [channel(iter(said * 100), metadata=agent.metadata) for _ in range(3)]
    await all_of((ground.call(call) for call in calls), 3)


@abuse("labels", "agent", ("OK", "INVALID_ARGUMENT"), prepare=_an_agent)
async def labels(ground: Ground) -> None:
    """Many and long ones, in ``Register`` and ``UpdateLabels``, and reports of what it never had."""
    agent: FakeAgent = ground.kept["agent"]
    many = {f"l{n}": "v" * 60 for n in range(5000)}
    long = {"l": "v" * 900_000}
    calls = []
    for given in (many, long, {"only": agent.agent_id}):
        update = message("agent.v1.UpdateLabelsRequest", agent_id=agent.agent_id, labels=given)
        calls += [("UpdateLabels", update)] * 10
    report = message(
        "agent.v1.ReportStepRunStatusRequest", agent_id=agent.agent_id, step_run_id=ground.name(), status=4,
        error_message="e" * 900_000,
    )  # fmt: skip
    calls += [("ReportStepRunStatus", report)] * 20
    service = "agent.v1.AgentService"
    waves = (
        ground.call(agent.rpc(f"{service}/{name}")(request, metadata=agent.metadata))
        for name, request in calls
    )
    await all_of(waves, 20)


@abuse(
    "comings and goings",
    "agent",
    ("OK", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "ABORTED", "ALREADY_EXISTS"),
)
async def comings_and_goings(ground: Ground) -> None:
    """Registered, connected and gone again, as fast as it goes."""
    token = ground.token("setup")

    async def made() -> str:
        return str((await ground.detail("POST", "registration-tokens", token, {}))["token"])

    registration = await ground.once("registration", made)

    async def one(name: str) -> None:
        agent = FakeAgent(ground.grpc, name)
        try:
            rpc = agent.rpc("agent.v1.AgentService/Register")
            request = message("agent.v1.RegisterRequest", agent_id=name, registration_token=registration)
            answer = await ground.call(rpc(request))
            if answer is not None:
                agent.token = answer.auth_token
                await agent.connect()
                rpc = agent.rpc("agent.v1.AgentService/Unregister")
                gone = message("agent.v1.UnregisterRequest", agent_id=name, reason="r" * 5000)
                await ground.call(rpc(gone, metadata=agent.metadata))
        finally:
            await agent.vanish()

    await all_of((one(f"fleeting-{n}") for n in range(10)), 10)


@abuse("outputs that conditions read", "agent")
async def outputs_that_conditions_read(ground: Ground) -> None:
    """A run whose four hundred conditions read a large output of its first step, when that ends."""
    reads = " + ".join(["jobs.j0.outputs.big"] * 20)
    waiting = [
        {"name": f"w{n}", "dependsOn": ["j0"], "when": f"({reads}).contains('y{n}')",
         "steps": [payloads.step()]}
        for n in range(400)
    ]  # fmt: skip
    agent, steps = await ground.rogue(more_jobs=waiting)
    told = [(ground.name("e"), 1, steps[0], "arcentra.step.output", {"name": "big", "value": "v" * 60_000})]
    call = agent.rpc("gateway.v1.GatewayService/PushEvents")
    await ground.call(call(iter([events(*told)]), metadata=agent.metadata), 30)
    answer = await agent.report(steps[0], 4)
    ground.count("OK" if answer.success else "refused")
    await agent.vanish()


@abuse(
    "methods of others", "agent", ("UNIMPLEMENTED", "PERMISSION_DENIED", "UNAUTHENTICATED"), prepare=_an_agent
)
async def methods_of_others(ground: Ground) -> None:
    """Every RPC that is not an agent's, and those under another's name."""
    agent: FakeAgent = ground.kept["agent"]
    metadata = agent.metadata
    calls = []
    for name in ("Heartbeat", "Unregister", "UpdateLabels", "FetchStepRun", "CancelStepRun", "CancelJobRun",
                 "ReportJobRunStatus", "ReportStepRunStatus"):  # fmt: skip
        request = message(f"agent.v1.{name}Request")
        if "agent_id" in request.DESCRIPTOR.fields_by_name:
            request.agent_id = "neighbour"
        calls.append(agent.rpc(f"agent.v1.AgentService/{name}")(request, metadata=metadata))
    for method, (asks, _, many, _) in table().methods.items():
        if method.startswith(("pipeline.", "steprun.", "stream.")):
            request = message(asks)
            calls.append(agent.rpc(method)(iter([request]) if many else request, metadata=metadata))
    await all_of((ground.call(call) for call in calls), 20)
