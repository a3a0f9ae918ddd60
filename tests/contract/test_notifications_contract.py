"""Notifications on both databases: each is decided once, delivered by one server, tried again within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sqlalchemy import select

from pilothouse.access.model import SYSTEM
from pilothouse.engine.problems import SpecError
from pilothouse.fleet.model import TaskStatus
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.notifications import sender as sender_module
from pilothouse.pipelines.notifications import service as service_module
from pilothouse.pipelines.notifications import store
from pilothouse.pipelines.notifications.errors import NotificationNotFound, StillWaiting
from pilothouse.pipelines.notifications.model import CLAIM, MAX_AGE, Delivery, Outcome, Retries
from pilothouse.pipelines.notifications.rounds import NotificationRounds
from pilothouse.pipelines.notifications.sender import OF_PROJECT, OF_QUEUE, Sender
from pilothouse.pipelines.notifications.service import Notifications
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from pilothouse.storage import Tx
from support.kernel import PROJECT, Kernel
from support.waiting import eventually

OK, FAIL = Outcome(delivered=True, code=200), Outcome(code=500, reason="the receiver answered 500")


def hook(url: str) -> dict[str, Any]:
    return {"plugin": "webhook", "params": {"url": url, "secret": "KEY"}}


def spec_of(
    *, job: bool = False, on: str = "onSuccess", url: str = "https://a.example", ends: bool = True
) -> Any:
    """Without an agent a run of it has succeeded at once, or, with a job that does not end by itself, waits."""
    step = {"name": "s", "uses": "shell", "args": {"command": "true"}}
    one: dict[str, Any] = {"name": "j", "steps": [step]}
    if ends:
        one["when"] = "false"
    if job:
        return {"jobs": [{**one, "notify": {on: hook(url)}}]}
    return {"jobs": [one], "notify": {on: hook(url)}}


async def made(kernel: Kernel, name: str, spec: Any) -> str:
    pipelines = kernel.graph.service(Pipelines)
    compiled = compile_source(spec)
    pipeline_id = (await kernel.write(lambda tx: pipelines.create(tx, SYSTEM, PROJECT, name))).id
    await kernel.write(
        lambda tx: pipelines.save_spec(tx, SYSTEM, pipeline_id, compiled, expected_head="", message="")
    )
    await kernel.write(lambda tx: kernel.secrets.put(tx, SYSTEM, PROJECT, "KEY", "whsec_x"))
    return pipeline_id


async def run(kernel: Kernel, pipeline_id: str) -> str:
    pipelines = kernel.graph.service(Pipelines)
    request = TriggerRequest(variables={})
    found = await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, pipeline_id, request))
    await kernel.pump()
    return found.id


async def found(kernel: Kernel) -> list[Delivery]:
    """All deliveries, after a round."""
    await kernel.graph.service(NotificationRounds).round()
    return stored(kernel)


def stored(kernel: Kernel) -> list[Delivery]:
    with kernel.database.read() as conn:
        rows = conn.execute(
            select(store.deliveries).order_by(store.deliveries.c.offset, store.deliveries.c.number)
        )
        return [store._delivery(row) for row in rows]


def server(kernel: Kernel, name: str, retries: Retries = Retries(first=10, attempts=3)) -> Notifications:
    return Notifications(kernel.identity, kernel.journal, name, retries, lambda: None)


async def claimed(kernel: Kernel, by: Notifications, *due: Delivery) -> list[str]:
    return [one.id for one in await kernel.write(lambda tx: by.claim(tx, due))]


async def test_an_end_is_noticed_once_whatever_is_killed(kernel: Kernel) -> None:
    pipeline = await made(kernel, "p", spec_of())
    first = await run(kernel, pipeline)
    [one] = await found(kernel)
    assert (one.run_id, one.event, one.target, one.attempts) == (
        first,
        "run.succeeded",
        "https://a.example",
        0,
    )
    body = orjson.loads(one.body)
    assert (body["type"], body["data"]["pipeline"], body["data"]["status"]) == (
        "run.succeeded",
        "p",
        "succeeded",
    )
    second = await run(kernel, pipeline)
    kernel = await kernel.restart()
    for _ in range(3):
        assert [each.run_id for each in await found(kernel)] == [first, second]
    stale = NotificationRounds(kernel.storage, kernel.graph.service(Notifications), kernel.clock)
    page = stale._page
    with kernel.database.read() as conn:
        again, read = page(conn)  # from the start, as a server whose lease has ended would
    assert len(again) == 2
    notifications = kernel.graph.service(Notifications)
    assert await kernel.write(lambda tx: notifications.decide(tx, again, read)) == 0
    assert len(stored(kernel)) == 2
    await kernel.write(lambda tx: store.delete_of_pipeline(tx.conn, pipeline))
    assert await kernel.write(lambda tx: notifications.decide(tx, again, read)) == 0, (
        "nor when it is forgotten"
    )


async def test_jobs_failures_and_reruns_notify_and_cancelled_runs_do_not(kernel: Kernel) -> None:
    pipeline = await made(kernel, "p", spec_of(job=True, on="onFailure", ends=False))
    agent = await kernel.agent()
    await run(kernel, pipeline)
    await kernel.do(agent)
    assert await found(kernel) == []
    failed = await run(kernel, pipeline)
    await kernel.do(agent, TaskStatus.FAILED)
    [one] = await found(kernel)
    assert (one.run_id, one.event, one.job) == (failed, "job.failed", "j")
    data = orjson.loads(one.body)["data"]
    assert data["failed_steps"] == [{"job": "j", "step": "s", "status": "failed"}]
    again = await kernel.write(lambda tx: kernel.engine.rerun(tx, SYSTEM, failed, from_failed=True))
    await kernel.pump()
    await kernel.do(agent, TaskStatus.FAILED)
    assert [each.run_id for each in await found(kernel)] == [failed, again.id]
    cancelled = await run(kernel, pipeline)
    await kernel.write(lambda tx: kernel.engine.cancel(tx, SYSTEM, cancelled, "no", force=True))
    await kernel.pump()
    assert len(await found(kernel)) == 2


async def test_what_counts_is_the_spec_of_the_run(kernel: Kernel) -> None:
    pipelines = kernel.graph.service(Pipelines)
    pipeline = await made(kernel, "p", spec_of(url="https://old.example", ends=False))
    agent = await kernel.agent()
    await run(kernel, pipeline)
    new = compile_source(spec_of(url="https://new.example", ends=False))
    await kernel.write(
        lambda tx: pipelines.save_spec(tx, SYSTEM, pipeline, new, expected_head="", message="")
    )
    await kernel.do(agent)
    assert [one.target for one in await found(kernel)] == ["https://old.example"]
    await kernel.write(lambda tx: kernel.secrets.delete(tx, SYSTEM, PROJECT, "KEY"))
    with pytest.raises(SpecError, match="KEY"):
        await run(kernel, pipeline)
    await kernel.write(lambda tx: pipelines.delete(tx, SYSTEM, pipeline))
    assert stored(kernel) == []


async def test_one_server_delivers_and_another_takes_over_when_it_is_gone(kernel: Kernel) -> None:
    await run(kernel, await made(kernel, "p", spec_of()))
    [one] = await found(kernel)
    here, there = server(kernel, "here"), server(kernel, "there")
    assert await claimed(kernel, here, one) == [one.id]
    assert await claimed(kernel, there, one) == []
    [held] = stored(kernel)
    assert await claimed(kernel, there, held) == [], "it is not due"
    kernel.clock.advance(CLAIM / 1000)
    assert await claimed(kernel, there, held) == [one.id]
    await kernel.write(lambda tx: here.settle(tx, one, 1, OK))
    assert stored(kernel)[0].status == "waiting", "the first server has lost it"
    await kernel.write(lambda tx: there.settle(tx, one, 2, OK))
    [over] = stored(kernel)
    assert (over.status, over.attempts, over.next_at) == ("delivered", 2, 0)
    [told] = kernel.entries(f"notification/{one.id}")
    assert (told.type, told.body["attempts"], told.body["event"]) == ("notification.sent", 2, "run.succeeded")


async def test_attempts_are_further_apart_each_time_and_bounded(kernel: Kernel) -> None:
    await run(kernel, await made(kernel, "p", spec_of()))
    [one] = await found(kernel)
    by, delays = server(kernel, "s"), []
    for attempt in (1, 2, 3):
        [one] = stored(kernel)
        assert await claimed(kernel, by, one) == [one.id]
        await kernel.write(lambda tx, one=one, attempt=attempt: by.settle(tx, one, attempt, FAIL))
        [one] = stored(kernel)
        delays.append(one.next_at - kernel.clock.now if one.next_at else 0)
        kernel.clock.now = one.next_at or kernel.clock.now
    assert 10_000 <= delays[0] <= 12_000
    assert 20_000 <= delays[1] <= 24_000
    assert (one.status, one.attempts, one.next_at, one.code) == ("failed", 3, 0, 500)
    assert kernel.entries(f"notification/{one.id}")[-1].type == "notification.failed"
    again = await kernel.write(lambda tx: by.redeliver(tx, SYSTEM, one.pipeline_id, one.id))
    assert (again.status, again.attempts, again.reason) == ("waiting", 0, "")
    with pytest.raises(StillWaiting):
        await kernel.write(lambda tx: by.redeliver(tx, SYSTEM, one.pipeline_id, one.id))
    with pytest.raises(NotificationNotFound):
        await kernel.write(lambda tx: by.redeliver(tx, SYSTEM, "another", one.id))
    kernel.clock.now = again.since + MAX_AGE - 5000
    [one] = stored(kernel)
    assert await claimed(kernel, by, one) == [one.id]
    await kernel.write(lambda tx: by.settle(tx, one, 1, FAIL))
    assert stored(kernel)[0].status == "failed", "it would be too late"


async def test_so_many_wait_and_so_many_are_kept(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_WAITING", 2)
    pipeline = await made(kernel, "p", spec_of())
    for _ in range(3):
        await run(kernel, pipeline)
    assert [one.status for one in await found(kernel)] == ["waiting", "waiting", "failed"]
    assert stored(kernel)[2].reason == "2 deliveries of this pipeline wait already"
    monkeypatch.setattr(store, "KEPT", 1)
    await run(kernel, pipeline)
    statuses = [one.status for one in await found(kernel)]
    assert statuses == ["waiting", "waiting", "failed"], "the older one of those that have ended is gone"


async def test_what_is_slow_holds_its_own_share_alone(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "AT_ONCE", {"webhook": 3, "email": 1, "chat": 1})
    slow = await made(kernel, "slow", spec_of(url="https://slow.example/x"))
    quick = await made(kernel, "quick", spec_of(url="https://quick.example"))
    for _ in range(OF_PROJECT["webhook"] + 2):
        await run(kernel, slow)
    await run(kernel, quick)
    release, begun = asyncio.Event(), []

    async def deliver(one: Delivery) -> Outcome:
        begun.append(one.target)
        if "slow" in one.target:
            await release.wait()
        return OK

    await found(kernel)
    notifications = kernel.graph.service(Notifications)
    sender = Sender(kernel.storage, notifications, kernel.clock, deliver, asyncio.Event())
    for _ in range(3):
        await sender.round()
    await eventually(lambda: "https://quick.example" in begun)
    assert begun.count("https://slow.example") == OF_QUEUE
    release.set()

    async def rest() -> bool:
        await sender.round()
        return all(one.status == "delivered" for one in stored(kernel))

    await eventually(rest)
    assert len(begun) == OF_PROJECT["webhook"] + 3


async def test_a_project_with_slow_chats_leaves_room_for_those_of_others(kernel: Kernel) -> None:
    await run(kernel, await made(kernel, "p", spec_of()))
    [like] = await found(kernel)
    begun, release = [], asyncio.Event()

    async def deliver(one: Delivery) -> Outcome:
        begun.append(one.target)
        if one.project == "greedy":
            await release.wait()
        return OK

    def store_all(tx: Tx) -> None:
        for number in range(1, 8):  # the greedy one is first, and has an address of its own for each
            project = "greedy" if number < 6 else "modest"
            name = f"{project}-{number}"
            one = replace(
                like, id=name, number=number, project=project, plugin="chat", target=name, queue=name
            )
            store.add_delivery(tx.conn, one)

    await kernel.write(store_all)
    notifications = kernel.graph.service(Notifications)
    sender = Sender(kernel.storage, notifications, kernel.clock, deliver, asyncio.Event())
    for _ in range(3):
        await sender.round()
    await eventually(lambda: {"modest-6", "modest-7"} <= set(begun))
    assert sum(target.startswith("greedy") for target in begun) == OF_PROJECT["chat"]
    release.set()


async def test_a_server_that_stops_gives_back_what_it_was_delivering(kernel: Kernel) -> None:
    await run(kernel, await made(kernel, "p", spec_of()))
    begun = asyncio.Event()

    async def deliver(one: Delivery) -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        return OK

    await found(kernel)
    notifications = kernel.graph.service(Notifications)
    sender = Sender(kernel.storage, notifications, kernel.clock, deliver, asyncio.Event())
    await sender.round()
    await begun.wait()
    assert stored(kernel)[0].next_at > kernel.clock.now
    sender.stop()
    await kernel.write(lambda tx: None)  # after what was submitted
    await sender.round()
    [one] = stored(kernel)
    assert (one.claimed_by, one.next_at, one.status) == ("", kernel.clock.now, "waiting")


async def test_without_notifications_the_journal_is_not_read(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = spec_of()
    del plain["notify"]
    await run(kernel, await made(kernel, "plain", plain))
    seen: list[Any] = []
    ended: Callable[[Any], Any] = store._ended
    monkeypatch.setattr(store, "_ended", lambda row: seen.append(row) or ended(row))
    assert await found(kernel) == []
    assert seen == []
    await run(kernel, await made(kernel, "told", spec_of()))
    assert len(await found(kernel)) == 1
