"""What agents push is read and masked in worker processes unless that is short work, on both databases."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from pilothouse.edge.problems import translate
from pilothouse.engine.grpc import LogCall, Tally
from pilothouse.engine.intake import reading
from pilothouse.engine.intake.ingest import LOGS, Taken
from pilothouse.engine.intake.maskers import HIDDEN
from pilothouse.engine.intake.reading import JOBS
from pilothouse.fleet.model import TaskReport, TaskStatus
from pilothouse.wire import entries
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from pilothouse.workers.errors import QueueFull
from pilothouse.workers.limits import Limits
from pilothouse.workers.pool import Pool
from pilothouse.workers.turns import Bounds
from support.kernel import Kernel, RecorderChannel

SPEC = "jobs: [{name: j, steps: [{name: s, uses: dummy, env: {T: '${{ secrets.TOKEN }}'}}]}]"
SHORT_SECRET = "hunter2-hunter2"


def long_secret() -> str:
    """A value of 300 lines, which is searched for in workers only."""
    return "\n".join(f"{n:03d}-{secrets.token_hex(20)}" for n in range(300))


async def begun(kernel: Kernel, value: str) -> tuple[str, RecorderChannel, str]:
    await kernel.secret("TOKEN", value)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    await kernel.ack(agent)
    return run_id, agent, agent.last.id


async def call(kernel: Kernel, task: str, *told: tuple[int, bytes], packed: bool = False) -> pb.IngestAck:
    made = LogCall(kernel.ingest, "a1", Tally(await kernel.ingest.last_seq("a1", LOGS)))
    for seq, data in told:
        batch = pb.LogBatch(batch_id=f"b{seq}", data=data, raw_size=len(data))
        if packed:
            batch.data = zstandard.ZstdCompressor().compress(data)
            batch.compression = pb.LogBatch.COMPRESSION_ZSTD
        batch.meta.step_id, batch.meta.seq = task, seq
        await made.take(batch, False)
    await made.finish()
    return made.tally.ack()


def jobs_done(kernel: Kernel) -> int:
    return kernel.graph.core.pool.state().ended.get("done", 0)


@pytest.mark.parametrize("packed", [False, True])
async def test_a_long_batch_is_read_in_a_worker(kernel: Kernel, packed: bool) -> None:
    run_id, _, task = await begun(kernel, SHORT_SECRET)
    await call(kernel, task, (1, b"short\n"), packed=packed)
    assert jobs_done(kernel) == 0
    lines = [f"{n} {SHORT_SECRET}\r" for n in range(15_000)]
    await call(kernel, task, (2, ("\n".join(lines) + "\n").encode()), packed=packed)
    assert jobs_done(kernel) == 1
    assert kernel.lines(run_id) == ["short", *(f"{n} ***" for n in range(15_000))]


async def test_long_secrets_are_masked_in_a_worker_everywhere(kernel: Kernel) -> None:
    value = long_secret()
    one, two = value.split("\n")[7:9]
    run_id, _, task = await begun(kernel, value)
    # Cut within a secret: the worker joins the batches, as the event loop does with short secrets.
    await call(kernel, task, (1, f"a {one[:9]}".encode()), (2, f"{one[9:]} b\n{two}\n".encode()), (3, b"c\n"))
    await kernel.tell("a1", 1, task, "step.output", {"name": "x", "value": {"deep": [two]}})
    await kernel.tell("a1", 2, task, "step.progress", {"percent": 5, "message": f"at {two}"})
    error = TaskReport(task, TaskStatus.FAILED, 1, f"bad {one}", {f"m-{one}": two, "fine": "1"})
    shown = await kernel.fleet.screened("a1", error)
    assert shown.metrics == {"m-***": "***", "fine": "1"}
    await kernel.write(lambda tx: kernel.fleet.report(tx, "a1", shown))
    assert kernel.lines(run_id) == ["a *** b", "***", "c"]
    assert kernel.step(run_id, "s")["outputs"] == {"x": {"deep": ["***"]}}
    assert kernel.told(run_id, entries.STEP_PROGRESSED)[0]["message"] == "at ***"
    assert kernel.told(run_id, entries.ATTEMPT_COMPLETED)[0]["error"] == "bad ***"


async def test_dense_occurrences_are_masked_in_a_worker(kernel: Kernel) -> None:
    """Some ten occurrences for each character, of few short values: 64 KiB of it take 0.15 s."""
    await kernel.secret("TOKEN", "\n".join("a" * n for n in range(4, 50)))
    agent = await kernel.agent("a1")
    run_id = await kernel.run(SPEC)
    await kernel.ack(agent)
    await call(kernel, agent.last.id, (1, b"b aaaa\n"))
    assert jobs_done(kernel) == 0
    await call(kernel, agent.last.id, (2, b"a" * 30_000 + b"\nc\n"))
    assert jobs_done(kernel) == 1
    assert kernel.lines(run_id) == ["b ***", "***", "c"]


@pytest.mark.parametrize("kind", ["batch", "event", "report"])
async def test_what_costs_too_much_is_refused_alone(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    value = long_secret()
    run_id, agent, task = await begun(kernel, value)
    with monkeypatch.context() as lowered:
        lowered.setattr(reading, "LIMITS", Limits(cpu=0.001, wall=20))
        match kind:
            case "batch":
                ack = await call(kernel, task, (1, b"x" * 1000 + b"\n"))
                assert list(ack.rejected_seqs) == [1]
                assert "it cannot be read and masked: the job took more than" in ack.message
            case "event":
                receipt = await kernel.tell("a1", 1, task, "step.annotation", {"x": "y"})
                assert receipt.taken is Taken.REJECTED
            case "report":
                await kernel.report(agent, TaskStatus.FAILED, error=f"bad {value}")
                assert kernel.told(run_id, entries.ATTEMPT_COMPLETED)[0]["error"] == HIDDEN
    assert (await call(kernel, task, (2, b"fine\n"))).last_accepted_seq == 2
    assert kernel.lines(run_id)[-1] == "fine"


async def test_a_full_queue_loses_nothing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call fails with a code, and the agent sends its batches again."""
    run_id, _, task = await begun(kernel, long_secret())
    full = Pool(JOBS, workers=1, bounds=Bounds(per_caller=0))
    turns: Any = full._turns
    await turns.take("somebody", 0)
    with monkeypatch.context() as busy:
        busy.setattr(kernel.ingest._reading, "_pool", full)
        with pytest.raises(QueueFull) as refused:
            await call(kernel, task, (1, b"one\n"), (2, b"two\n"))
    assert translate(refused.value).code == "CALLER_QUEUE_FULL"
    assert kernel.lines(run_id) == []
    ack = await call(kernel, task, (1, b"one\n"), (2, b"two\n"))
    assert (ack.status, ack.last_accepted_seq) == (pb.IngestAck.STATUS_ACCEPTED, 2)
    assert kernel.lines(run_id) == ["one", "two"]
    assert kernel.told(run_id, entries.STEP_LOG_MISSED) == []


async def test_the_event_loop_runs_on_while_secrets_are_masked(kernel: Kernel) -> None:
    """The costliest legal values: 256 Ki characters in lines of four. Their automata take seconds to build."""
    names = [f"S{n}" for n in range(50)]
    for name in names:
        await kernel.secret(name, "\n".join(secrets.token_hex(2) for _ in range(1000)))
    env = ", ".join(f"{name}: '${{{{ secrets.{name} }}}}'" for name in names)
    agent = await kernel.agent("a1")
    run_id = await kernel.run(f"jobs: [{{name: j, steps: [{{name: s, uses: dummy, env: {{{env}}}}}]}}]")
    await kernel.ack(agent)
    longest = await longest_pause(lambda: call(kernel, agent.last.id, (1, b"zzzz no secret\n" * 1000)))
    assert longest < 0.1 + 0.2, "seconds, with room for a busy machine; it took 4 s in the server before"
    assert kernel.lines(run_id)[-1] == "zzzz no secret"


async def longest_pause(work: Callable[[], Any]) -> float:
    """The longest time in which the event loop did nothing else while this work was done."""
    loop, longest = asyncio.get_running_loop(), 0.0
    working = asyncio.ensure_future(work())
    before = loop.time()
    while not working.done():
        await asyncio.sleep(0.001)
        longest, before = max(longest, loop.time() - before), loop.time()
    await working
    return longest


async def test_many_rejected_batches_end_the_call(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilothouse.engine import grpc

    monkeypatch.setattr(grpc, "MAX_REJECTED", 3)
    tally = Tally(-1)
    made = LogCall(kernel.ingest, "a1", tally)
    await kernel.agent("a1")
    for seq in range(1, 4):
        batch = pb.LogBatch(batch_id="x" * 10_000, data=b"x\n")
        batch.meta.seq = seq
        await made.take(batch, False)
    await made.finish()
    assert tally.over
    assert len(tally.ack().message) < 500
