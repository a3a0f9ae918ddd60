"""Retention: old logs and checkouts are deleted, results of runs are kept, and expired cursors get an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilothouse.access.model import SYSTEM
from pilothouse.access.quotas import Quotas
from pilothouse.blobs.service import Blobs
from pilothouse.engine import store
from pilothouse.engine.checkouts import RepositoryCommit, remember, resolve
from pilothouse.engine.intake.ingest import Taken
from pilothouse.engine.intake.quotas import IntakeQuotas
from pilothouse.engine.retention import Retention
from pilothouse.engine.streams.framing import Framing
from pilothouse.engine.streams.stella import RunMessages
from pilothouse.journal import CursorExpired, Selection
from pilothouse.storage import Tx
from pilothouse.wire import entries
from support.kernel import PROJECT, Kernel
from support.waiting import eventually

SPEC = "jobs: [{name: j, steps: [{name: s, uses: dummy}]}]"
DAY = 86_400


async def finished(kernel: Kernel) -> str:
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    step = agent.last.id
    await kernel.ack(agent)
    await kernel.push("a1", 1, step, "one", "two")
    await kernel.report(agent)
    assert kernel.view(run_id)["status"] == "succeeded"
    return run_id


def intake(kernel: Kernel) -> IntakeQuotas:
    return IntakeQuotas(kernel.storage, kernel.journal, Quotas())


async def test_what_an_agent_sends_of_a_run_whose_log_was_deleted_is_not_stored(
    kernel: Kernel, tmp_path: Path
) -> None:
    run_id = await finished(kernel)
    step = kernel.view(run_id)["jobs"][0]["steps"][0]["attempts"][0]["step_run_id"]
    blobs = Blobs(tmp_path, 1000, kernel.identity, Quotas())
    kernel.clock.advance(31 * DAY)
    await kernel.write(Retention(kernel.storage, kernel.journal, blobs, intake(kernel), days=30).prune)
    before = len(kernel.entries(entries.run_stream(run_id)))
    assert (await kernel.push("a1", 2, step, "late")).taken is Taken.ACCEPTED  # its target is still known
    assert (await kernel.tell("a1", 1, step, "step.annotation", {"a": 1})).taken is Taken.REJECTED
    kernel.ingest._targets.clear()
    assert (await kernel.push("a1", 3, step, "later")).taken is Taken.REJECTED
    assert (await kernel.tell("a1", 2, step, "step.annotation", {"a": 1})).taken is Taken.REJECTED
    assert len(kernel.entries(entries.run_stream(run_id))) == before


async def test_old_logs_go_and_the_end_stays(kernel: Kernel, tmp_path: Path) -> None:
    run_id = await finished(kernel)
    retention = Retention(
        kernel.storage,
        kernel.journal,
        Blobs(tmp_path, 1000, kernel.identity, Quotas()),
        intake(kernel),
        days=30,
    )
    kernel.clock.advance(29 * DAY)
    assert await kernel.write(retention.prune) == 0
    kernel.clock.advance(2 * DAY)
    assert await kernel.write(retention.prune) == 1
    assert await kernel.write(retention.prune) == 0, "once is enough"

    left = [entry.type for entry in kernel.entries(entries.run_stream(run_id))]
    assert left == [entries.RUN_COMPLETED]
    assert kernel.view(run_id)["jobs"][0]["steps"][0]["attempts"][0]["lines"] == 2

    feed = kernel.journal.feed
    fmt = RunMessages(Framing("ws", feed.epoch))
    selection = Selection(entries.run_stream(run_id))
    with pytest.raises(CursorExpired):
        await feed.reader(selection, fmt, lambda _: True, f"{feed.epoch}.1.0")
    reader = await feed.reader(selection, fmt, lambda _: True, "start")
    subscription = feed.follow(reader)
    messages = [message async for message in _all(subscription)]
    assert len(messages) == 1
    assert b"workflow_completed" in messages[0]


async def _all(subscription):  # type: ignore[no-untyped-def]
    while batch := await subscription.next():
        for message in batch:
            yield message


async def test_without_a_limit_everything_is_kept(kernel: Kernel, tmp_path: Path) -> None:
    await finished(kernel)
    kernel.clock.advance(10_000 * DAY)
    assert (
        await kernel.write(
            Retention(
                kernel.storage,
                kernel.journal,
                Blobs(tmp_path, 1, kernel.identity, Quotas()),
                intake(kernel),
                0,
            ).prune
        )
        == 0
    )


async def test_a_checkout_goes_with_the_last_run_that_came_with_it(kernel: Kernel, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 1000, kernel.identity, Quotas())

    async def body():  # type: ignore[no-untyped-def]
        yield b"a tar, say"

    received = await blobs.receive(body(), "")
    blob = await kernel.write(lambda tx: blobs.record(tx, SYSTEM, PROJECT, received))
    first, second = await finished(kernel), None

    def attach(tx: Tx) -> None:
        run = kernel.runs.get(tx, first)
        run.checkout = blob
        store.save(tx.conn, run)

    await kernel.write(attach)
    retention = Retention(kernel.storage, kernel.journal, blobs, intake(kernel), days=1)
    kernel.clock.advance(1 * DAY - 10)
    second = await kernel.rerun(first, from_failed=False)
    kernel.clock.advance(20)
    assert await kernel.write(retention.prune) == 1
    assert await retention.sweep(kernel.clock()) == 0
    assert blobs.path(blob["id"]).exists(), "the rerun still needs it"
    await kernel.cancel(second)
    kernel.clock.advance(2 * DAY)
    assert await kernel.write(retention.prune) == 1
    assert await retention.sweep(kernel.clock()) == 1
    await eventually(lambda: not blobs.path(blob["id"]).exists())


async def test_uploads_that_nothing_needs_go_after_a_day(kernel: Kernel, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", 1000, kernel.identity, Quotas())

    async def upload() -> str:
        async def body():  # type: ignore[no-untyped-def]
            yield b"bytes"

        received = await blobs.receive(body(), "")
        return str((await kernel.write(lambda tx: blobs.record(tx, SYSTEM, PROJECT, received)))["id"])

    unused, archive, pack, old = [await upload() for _ in range(4)]
    run_id = await finished(kernel)
    first = RepositoryCommit("dir:x", "a" * 40, 1, (old,))

    def refer(tx: Tx) -> None:
        run = kernel.runs.get(tx, run_id)
        run.checkout = resolve(tx.conn, PROJECT, archive, (RepositoryCommit("k", "", 0, (pack,)),), False)
        store.save(tx.conn, run)
        remember(tx, PROJECT, [first])

    await kernel.write(refer)
    retention = Retention(kernel.storage, kernel.journal, blobs, intake(kernel), days=3)
    kernel.clock.advance(DAY - 10)
    assert await retention.sweep(kernel.clock()) == 0, "a client may still be about to name it"
    kernel.clock.advance(20)
    assert await retention.sweep(kernel.clock()) == 1
    await eventually(lambda: not blobs.path(unused).exists())
    assert all(blobs.path(blob).exists() for blob in (archive, pack, old))
    kernel.clock.advance(1)
    known = await upload()
    rest = [RepositoryCommit("dir:x", f"{number:040x}", 1, (known,)) for number in range(20)]
    await kernel.write(lambda tx: remember(tx, PROJECT, rest))
    kernel.clock.advance(2 * DAY)
    assert await retention.sweep(kernel.clock()) == 1, "the commit it held is no longer among the newest"
    await eventually(lambda: not blobs.path(old).exists())
    kernel.clock.advance(2 * DAY)
    await kernel.write(retention.prune)
    assert await retention.sweep(kernel.clock()) == 2
    await eventually(lambda: sorted(path.name for path in (tmp_path / "blobs").iterdir()) == [known])
    kernel.clock.advance(31 * DAY)
    assert await retention.sweep(kernel.clock()) == 1, "no run has used those commits for 30 days"
    await eventually(lambda: not list((tmp_path / "blobs").iterdir()))
