"""Users: all that changes something."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from google.protobuf import json_format

from faults.neighbours import payloads
from faults.neighbours.ground import Ground, all_of
from faults.neighbours.table import abuse
from support.wire_table import table

BINARY = "application/octet-stream"

WAITING = 200.0
"""MiB of heavy specs that wait for a worker."""


async def _a_pipeline(ground: Ground) -> None:
    ground.kept["pipeline"] = await ground.pipeline(payloads.job(payloads.step()))


@abuse("heavy saves", "user", prepare=_a_pipeline, room=WAITING)
async def heavy_saves(ground: Ground) -> None:
    """A heavy spec saved and triggered by several users at once."""
    path = f"pipelines/{ground.kept['pipeline']}"
    body = {"spec": payloads.heavy_spec()}
    given = body | {"variables": {"A": "a", "B": "b"}}
    calls = [("spec/save", body), ("spec/validate", body), ("trigger", given)] * 3
    await all_of((ground.ask("POST", f"{path}/{to}", ground.token("user"), sent) for to, sent in calls), 24)


@abuse(
    "calls of users", "user", ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"), prepare=_a_pipeline, room=WAITING
)
async def calls_of_users(ground: Ground) -> None:
    """Every RPC of pipelines and step runs: empty, of a pipeline, with a heavy spec, and for the largest pages."""
    channel = ground.kept.setdefault("channel", ground.channel())
    token = (("authorization", f"Bearer {ground.token('user')}"),)
    calls = []
    for method, (asks, _, _, _) in table().methods.items():
        if not method.startswith(("pipeline.", "steprun.")):
            continue
        full = table().message(asks)()
        known = full.DESCRIPTOR.fields_by_name
        for name, value in {"pipeline_id": ground.kept["pipeline"], "page_size": 100}.items():
            if name in known:
                setattr(full, name, value)
        if "spec" in known:
            step = {"name": "s", "uses": "shell", "args": {"command": "x" * 100}}
            jobs = [{"name": f"j{n}", "steps": [step] * 48} for n in range(100)]
            json_format.ParseDict({"spec": {"jobs": jobs}}, full)
        calls += [
            table().rpc(channel, method)(request, metadata=token)
            for request in (table().message(asks)(), full)
        ]
    await all_of((ground.call(call) for call in calls), 8)


@abuse("costly conditions", "user", prepare=_a_pipeline)
async def costly_conditions(ground: Ground) -> None:
    """Runs whose conditions are evaluated while the run moves on: as many and as heavy as a spec may have."""
    token = ground.token("user")
    path = f"pipelines/{ground.kept['pipeline']}/trigger"
    await all_of((ground.ask("POST", path, token, {"spec": payloads.costly_spec()}) for _ in range(4)), 4)
    ground.count("200")
    runs = await ground.client.ask("GET", "workflow-runs?status=running&limit=20", token)
    ground.count(runs.outcome)


@abuse("runs of 5,000 steps", "user", prepare=_a_pipeline, room=100.0)
async def many_steps(ground: Ground) -> None:
    """Created, listed, cancelled; the last ones are kept in memory."""
    token = ground.token("user")
    path = f"pipelines/{ground.kept['pipeline']}/trigger"
    answer = await ground.ask("POST", path, token, {"spec": payloads.many_steps()})
    if answer.status in (200, 201):
        run = answer.outcome and _detail(answer.body)["runId"]
        await all_of(ground.ask("GET", f"workflow-runs/{run}", ground.token("user")) for _ in range(4))
        await ground.ask("POST", f"workflow-runs/{run}/cancel", token, {"force": True})


def _detail(body: bytes) -> Any:
    found = json.loads(body)
    return found.get("detail", found)


@abuse("metadata", "user", ("400", "413", "429", "409"), cut=True)
async def metadata(ground: Ground) -> None:
    """1.9 MB of it in each of twenty pipelines, which are then listed."""
    body = {"projectId": ground.given["project"], "metadata": {f"k{n}": "m" * 9500 for n in range(200)}}
    token = ground.token("user")
    await all_of(
        (ground.ask("POST", "pipelines", token, {**body, "name": ground.name()}) for _ in range(20)), 10
    )
    small = {**body, "metadata": {f"k{n}": "m" * 900 for n in range(4)}}
    await all_of(
        (ground.ask("POST", "pipelines", token, {**small, "name": ground.name()}) for _ in range(10)), 10
    )
    lists = (ground.ask("GET", "pipelines?pageSize=100", ground.token("user")) for _ in range(20))
    await all_of(lists, 10)


@abuse("long fields", "user", ("400", "403", "404", "413", "429"), cut=True)
async def long_fields(ground: Ground) -> None:
    """A MB in each field of each body that the document describes."""
    from faults.neighbours.abuses import fields

    waves = (
        ground.ask(method, path, ground.token("user"), {name: "x" * 900_000})
        for method, path, name in await fields(ground)
    )
    await all_of(waves, 10)


@abuse("blobs", "user", cut=True)
async def blobs(ground: Ground) -> None:
    """As many and as large as they are let in."""
    path = f"blobs?project={ground.given['project']}"
    sizes = (8 << 20, 1 << 20, 1000)
    waves = (
        ground.ask("POST", path, ground.token("user"), payloads.noise(size), kind=BINARY)
        for size in sizes
        for _ in range(12)
    )
    await all_of(waves, 8)


@abuse("forms", "user", ("400", "404", "409", "413", "429"), cut=True)
async def forms(ground: Ground) -> None:
    """Uploads whose content nearly ends at every byte, of many parts, and with heads without end."""
    path = f"uploads?name=x&projectId={ground.given['project']}"
    head = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n\r\n'
    boundary = b"b" * 60
    bodies = (
        (head % b"file").replace(b"--b", b"--" + boundary) + (b"\r\n--" + boundary[:-1]) * 60_000,
        (head % b"name") * 50_000,
        b"--b\r\n" + b"X: y\r\n" * 500_000,
        b"--b\r\nX: " + b"x" * (4 << 20),
        b"\r\n" * (2 << 20),
    )
    kinds = [f"multipart/form-data; boundary={boundary.decode()}", *["multipart/form-data; boundary=b"] * 4]
    waves = [
        ground.ask("POST", path, ground.token("user"), body, kind=kind)
        for body, kind in zip(bodies, kinds, strict=True)
        for _ in range(4)
    ]
    waves += [
        ground.ask("PATCH", f"uploads/{payloads.UNKNOWN}", ground.token("user"), payloads.noise(1 << 20))
    ]
    await all_of(waves, 8)


@abuse("secrets", "user", ("400", "409", "413", "429"))
async def secrets(ground: Ground) -> None:
    """Of many short lines, and many of them."""
    project = ground.given["project"]
    for value in (payloads.short_lines(16_000), payloads.short_lines(), "x" * (70 << 10), "v"):
        waves = (
            ground.ask("PUT", f"secrets/{ground.name('S').replace('-', '_')}", ground.token("user"),
                       {"value": value, "projectId": project})
            for _ in range(25)
        )  # fmt: skip
        await all_of(waves, 25)
    await all_of(
        ground.ask("POST", "secrets", ground.token("user"),
                   {"name": ground.name("S").replace("-", "_"), "value": "v", "projectId": project})
        for _ in range(25)
    )  # fmt: skip
    await all_of(
        ground.ask("GET", f"secrets?projectId={project}&pageSize=100", ground.token("user")) for _ in range(5)
    )


@abuse("repetitions", "user", ("400", "409", "429"), prepare=_a_pipeline)
async def repetitions(ground: Ground) -> None:
    """Idempotency keys that are long, many, and used for other bodies."""
    path = f"pipelines/{ground.kept['pipeline']}/trigger"
    keys = [ground.name("key") for _ in range(20)] + ["same"] * 20 + ["k" * 8000] * 5
    waves = (
        ground.ask(
            "POST", path, ground.token("user"), {"requestId": str(n)}, more=f"Idempotency-Key: {key}\r\n"
        )
        for n, key in enumerate(keys)
    )
    await all_of(waves, 20)


@abuse("to and fro", "user", ("400", "409", "429"), prepare=_a_pipeline)
async def to_and_fro(ground: Ground) -> None:
    """Runs that are started, paused, resumed, cancelled and started again, as fast as it goes."""
    pipeline = ground.kept["pipeline"]

    async def one() -> None:
        token = ground.token("user")
        answer = await ground.ask("POST", f"pipelines/{pipeline}/trigger", token, {})
        if answer.status not in (200, 201):
            return
        run = _detail(answer.body)["runId"]
        long = {"reason": "r" * 500}
        for path, body in (
            (f"workflow-runs/{run}/pause", None), (f"workflow-runs/{run}/resume", None),
            (f"pipelines/{pipeline}/runs/{run}/pause", None), (f"pipelines/{pipeline}/runs/{run}/resume", None),
            (f"workflow-runs/{run}/cancel", {**long, "force": True}), (f"pipelines/{pipeline}/runs/{run}/stop", long),
            (f"workflow-runs/{run}/rerun", {}),
        ):  # fmt: skip
            await ground.ask("POST", path, token, body)

    await all_of((one() for _ in range(12)), 12)


@abuse("gates", "user", ("400", "404", "409", "413", "429"))
async def gates(ground: Ground) -> None:
    """Many open gates, decided with long words by many at once."""
    step = {"name": "ask", "uses": "approval", "args": {"roles": ["user"]}}
    jobs = [{"name": f"j{n}", "steps": [step]} for n in range(100)]
    pipeline = await ground.once("gated", lambda: ground.pipeline({"jobs": jobs}))
    token = ground.token("user")
    answer = await ground.ask("POST", f"pipelines/{pipeline}/trigger", token, {})
    if answer.status not in (200, 201):
        return
    run = _detail(answer.body)["runId"]
    for _ in range(20):  # they open after the run has begun
        found = await ground.client.ask("GET", f"gates?run={run}&limit=20", token)
        if found.status != 200 or _detail(found.body).get("gates"):
            break
        await asyncio.sleep(0.1)
    ground.count(found.outcome)
    for gate in _detail(found.body).get("gates", ()) if found.status == 200 else ():
        for body in (
            {"decision": "approve", "comment": "c" * 900_000},
            {"decision": "reject"},
            {"decision": "approve"},
        ):
            await ground.ask("POST", f"gates/{gate['id']}", ground.token("user"), body)


@abuse("triggers", "user", ("400", "404", "409", "429"))
async def triggers(ground: Ground) -> None:
    """Twenty triggers that start runs of each other's events, enabled, disabled and run as fast as it goes."""
    nothing = {"name": "j", "when": "false", "steps": [{"name": "s", "uses": "dummy"}]}
    event = {"events": ["run.created", "run.completed"]}
    spec = {
        "jobs": [nothing],
        "triggers": [{"type": "event", "name": f"t{n}", "options": event} for n in range(20)],
    }
    token = ground.token("user")
    for name in ("ping", "pong"):
        await ground.once(name, lambda: ground.pipeline(spec))
    found = await ground.client.ask("GET", f"triggers?pipeline={ground.kept['ping']}&limit=100", token)
    ground.count(found.outcome)
    ids = [one["id"] for one in _detail(found.body).get("triggers", ())] if found.status == 200 else []
    asked = (f"triggers/{id}/{word}" for id in ids[:10] for word in ("disable", "enable", "run"))
    await all_of((ground.ask("POST", path, ground.token("user")) for path in asked), 6)


@abuse("what is for others", "user", ("403", "429", "400", "404"))
async def what_is_for_others(ground: Ground) -> None:
    """Every route that a user may not use, with a body of a MB."""
    from faults.neighbours.abuses import paths

    body = payloads.noise(1 << 19).hex()[: 1 << 20].encode()
    waves = (ground.ask(method, path, ground.token("user"), body) for method, path in paths("admin"))
    await all_of(waves, 10)


@abuse("passwords", "user", ("400", "401", "429"))
async def passwords(ground: Ground) -> None:
    """Their own password changed with a wrong one, over and over: each costs a hash."""
    body = {"current_password": "wrong but long", "new_password": "x" * 1024}
    token = ground.token("user")
    await all_of((ground.ask("POST", "auth/password", token, body) for _ in range(30)), 15)


@abuse("tokens", "user", ("400", "409", "413", "429"))
async def tokens(ground: Ground) -> None:
    """As many tokens as they are given, with long names, listed and revoked."""
    token = ground.token("user")
    waves = (
        ground.ask("POST", "tokens", token, {"name": name}) for name in ("t", "n" * 100, "n" * 900_000) * 10
    )
    await all_of(waves, 10)
    await ground.ask("GET", "tokens?limit=100", token)
    await ground.ask("DELETE", f"tokens/{payloads.UNKNOWN}", token)


async def _bomb(ground: Ground) -> None:
    token = ground.token("setup")
    data = payloads.pack_bomb()
    sent = await ground.client.ask(
        "POST", f"blobs?project={ground.given['project']}", token, data, kind=BINARY
    )
    ground.kept["blob"] = _detail(sent.body)["id"]
    only = {"agentSelector": {"matchLabels": {"only": "real"}}}
    ground.kept["pipeline"] = await ground.pipeline(payloads.job({"name": "s", "run": "true", **only}))


async def _all_refused(ground: Ground) -> None:
    for run in ground.kept.get("runs", ()):
        shown = await ground.detail("GET", f"workflow-runs/{run}", ground.token("setup"))
        ground.count(f"run {shown['status']}")


@abuse("checkout bombs", "user", ("run failed", "run running", "429"), prepare=_bomb, after=_all_refused)
async def checkout_bombs(ground: Ground) -> None:
    """Work trees whose pack of some hundred KB unpacks to gigabytes, laid out by an agent."""
    blob, token = ground.kept["blob"], ground.token("user")
    repository = {"key": "git://bomb", "commit": "a" * 40, "depth": 1, "packs": [blob]}
    body = {"checkout": blob, "repositories": [repository], "commitSha": "a" * 40}
    answer = await ground.ask("POST", f"pipelines/{ground.kept['pipeline']}/trigger", token, body)
    if answer.status in (200, 201):
        ground.kept.setdefault("runs", []).append(_detail(answer.body)["runId"])
    await ground.ask(
        "GET", f"checkouts/known?repository={'r' * 1000}&project={ground.given['project']}", token
    )
    await ground.ask("GET", f"checkouts/known?repository={'r' * 9000}", token)
