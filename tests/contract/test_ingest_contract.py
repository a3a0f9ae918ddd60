"""What agents push, on both databases: sequence numbers, line numbers, gaps; and secrets, which leave no trace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection

from pilothouse.access.model import SYSTEM
from pilothouse.access.quotas import Quotas
from pilothouse.engine.grpc import LogCall, Tally
from pilothouse.engine.intake import quotas as quotas_module
from pilothouse.engine.intake.batches import MAX_RAW
from pilothouse.engine.intake.events import StepEvent
from pilothouse.engine.intake.ingest import EVENTS, LOGS, Receipt, Taken
from pilothouse.engine.intake.lines import LogLines
from pilothouse.engine.intake.quotas import IntakeQuotas
from pilothouse.fleet.model import AgentProfile, TaskStatus
from pilothouse.fleet.registry import Allowance
from pilothouse.journal import Entry
from pilothouse.journal import store as journal_store
from pilothouse.storage import Tx
from pilothouse.storage import writer as writer_module
from pilothouse.wire import entries
from pilothouse.wire.gateway.v1 import gateway_pb2 as pb
from support.journals import held_up
from support.kernel import Kernel, RecorderChannel
from support.waiting import eventually

ONE = "jobs: [{name: j, steps: [{name: a, uses: dummy}]}]"
FAILED = TaskStatus.FAILED


async def at_work(kernel: Kernel, spec: str = ONE) -> tuple[str, RecorderChannel, str]:
    """A run whose first step an agent has begun: run, agent, attempt."""
    agent = await kernel.agent("a1")
    run_id = await kernel.run(spec)
    await kernel.ack(agent)
    return run_id, agent, agent.last.id


# -- sequence numbers of logs -----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
async def test_batches_in_order_are_taken(kernel: Kernel, first: int) -> None:
    run_id, _, task = await at_work(kernel)
    for seq in range(first, first + 3):
        receipt = await kernel.push("a1", seq, task, f"line {seq}")
        assert (receipt.taken, receipt.expected) == (Taken.ACCEPTED, seq + 1)
    assert kernel.lines(run_id) == [f"line {seq}" for seq in range(first, first + 3)]
    assert kernel.told(run_id, entries.STEP_LOG_MISSED) == []
    assert await kernel.ingest.last_seq("a1", LOGS) == first + 2
    assert await kernel.ingest.last_seq("a1", EVENTS) == -1, "each RPC has its own numbers"


async def test_a_batch_that_comes_again_has_no_effect_again(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one")
    await kernel.push("a1", 2, task, "two")
    for seq in (1, 2):
        receipt = await kernel.push("a1", seq, task, "one")
        assert (receipt.taken, receipt.expected) == (Taken.REPEATED, 3)
    assert kernel.lines(run_id) == ["one", "two"]


async def test_what_was_on_its_way_behind_a_lost_batch_is_lost_with_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many batches of a call are under way at once. One is lost with its transaction; those behind it must not
    leave a gap where it was: the agent sends from there on again.
    """
    run_id, _, task = await at_work(kernel)
    store_entries = journal_store.append

    def lose_the_second(conn: Connection, batch: list[Entry]) -> None:
        if any("line 2" in entry.body.get("lines", ()) for entry in batch):
            raise OSError("the database hung up")
        store_entries(conn, batch)

    async def call(*seqs: int) -> pb.IngestAck:
        made = LogCall(kernel.ingest, "a1", Tally(await kernel.ingest.last_seq("a1", LOGS)))
        for seq in seqs:
            batch = pb.LogBatch(batch_id=f"batch-{seq}", data=b"line %d\n" % seq)
            batch.meta.seq, batch.meta.step_id = seq, task
            if seq == 4:
                batch.raw_size = 1  # this one is to be rejected
            await made.take(batch, False)
        await made.finish()
        return made.tally.ack()

    with monkeypatch.context() as broken:
        broken.setattr(writer_module, "MAX_GROUP", 1)
        broken.setattr(journal_store, "append", lose_the_second)
        async with held_up(kernel.writer):
            calling = asyncio.ensure_future(call(1, 2, 3, 4, 5))
            await eventually(lambda: kernel.writer.queued >= 6)
        with pytest.raises(OSError):
            await calling
        await eventually(lambda: kernel.writer.queued == 0)
    assert await kernel.ingest.last_seq("a1", LOGS) == 1
    ack = await call(2, 3, 4, 5)
    assert (ack.last_accepted_seq, list(ack.rejected_seqs)) == (5, [4])
    assert kernel.lines(run_id) == ["line 1", "line 2", "line 3", "line 5"]
    assert kernel.told(run_id, entries.STEP_LOG_MISSED) == []


async def test_another_batch_under_a_known_number_is_refused(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one")
    receipt = await kernel.push("a1", 1, task, "other", id="another id")
    assert (receipt.taken, receipt.expected) == (Taken.OUT_OF_ORDER, 2)
    assert kernel.lines(run_id) == ["one"]
    assert (await kernel.push("a1", 2, task, "two")).taken is Taken.ACCEPTED


@pytest.mark.parametrize(("seq", "words"), [(4, "3"), (7, "3 to 6")])
async def test_a_gap_in_the_log_is_marked(kernel: Kernel, seq: int, words: str) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one")
    await kernel.push("a1", 2, task, "two")
    assert (await kernel.push("a1", seq, task, "later")).taken is Taken.ACCEPTED
    [missed] = kernel.told(run_id, entries.STEP_LOG_MISSED)
    assert missed["message"] == f"log batches {words} of agent a1 never arrived"
    assert (missed["expected_seq"], missed["seq"], missed["step_run_id"]) == (3, seq, task)
    types = [e.type for e in kernel.entries(entries.run_stream(run_id)) if e.type.startswith("step.log")]
    assert types == [entries.STEP_LOGGED, entries.STEP_LOGGED, entries.STEP_LOG_MISSED, entries.STEP_LOGGED]
    assert kernel.told(run_id, entries.STEP_LOGGED)[-1]["first"] == 3


async def test_counting_begins_with_the_first_number(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 3, task, "three")
    assert kernel.told(run_id, entries.STEP_LOG_MISSED) == []
    receipt = await kernel.push("a1", 2, task, "two")
    assert (receipt.taken, receipt.expected) == (Taken.OUT_OF_ORDER, 4)
    assert kernel.lines(run_id) == ["three"]


async def test_counting_begins_where_the_agent_says(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    target = await kernel.ingest.target(task)

    async def push(seq: int, begins: int) -> Receipt:
        lines = LogLines(f"batch-{seq}", seq, task, [str(seq)])
        return await kernel.ingest.logs("a1", lines, target, begins=begins)

    assert (await push(4, 4)).taken is Taken.OUT_OF_ORDER
    assert (await push(7, 4)).taken is Taken.ACCEPTED
    [missed] = kernel.told(run_id, entries.STEP_LOG_MISSED)
    assert (missed["expected_seq"], missed["seq"]) == (5, 7)
    assert (await push(4, 4)).taken is Taken.OUT_OF_ORDER
    assert (await push(5, 4)).taken is Taken.REPEATED, "inside the marked gap"
    assert (await push(8, 99)).taken is Taken.ACCEPTED, "counting has begun before"
    assert kernel.lines(run_id) == ["7", "8"]


async def test_a_batch_from_inside_a_marked_gap_is_accepted_and_stores_nothing(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one")
    await kernel.push("a1", 5, task, "five")
    receipt = await kernel.push("a1", 3, task, "three")
    assert (receipt.taken, receipt.expected) == (Taken.REPEATED, 6)
    assert kernel.lines(run_id) == ["one", "five"]


async def test_what_was_pushed_before_a_registration_is_known_after_it(kernel: Kernel) -> None:
    """An agent that registers at every start and repeats what was not acknowledged."""
    run_id, _, task = await at_work(kernel)
    for seq in (1, 2, 3):
        await kernel.push("a1", seq, task, f"line {seq}", id=f"id-{seq}")
    await kernel.tell("a1", 1, task, "step.output", {"name": "n", "value": 1}, id="e1")
    for _ in range(2):
        kernel.clock.advance(1)
        await register_anew(kernel)
        for seq in (2, 3):
            again = await kernel.push("a1", seq, task, f"line {seq}", id=f"id-{seq}")
            assert again.taken is Taken.REPEATED
        assert (
            await kernel.tell("a1", 9, task, "step.output", {"name": "n", "value": 2}, id="e1")
        ).taken is (Taken.REPEATED)
    assert (await kernel.push("a1", 4, task, "line 4", id="id-4")).taken is Taken.ACCEPTED
    assert kernel.lines(run_id) == ["line 1", "line 2", "line 3", "line 4"]
    assert kernel.step(run_id, "a")["outputs"] == {"n": 1}


async def test_the_same_ids_in_a_later_step_are_new_lines(kernel: Kernel) -> None:
    """An agent whose ids start anew with each process loses nothing."""
    _, channel, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one", id="batch-1")
    await kernel.report(channel)
    kernel.clock.advance(1)
    await register_anew(kernel)
    kernel.clock.advance(1)
    channel = await kernel.connect("a1")
    later = await kernel.run("jobs: [{name: j, steps: [{name: a, uses: dummy}]}]")
    await kernel.ack(channel)
    assert (await kernel.push("a1", 1, channel.last.id, "one", id="batch-1")).taken is Taken.ACCEPTED
    assert kernel.lines(later) == ["one"]


async def register_anew(kernel: Kernel) -> None:
    def use_case(tx: Tx) -> None:
        made = kernel.fleet.registry.create_registration_token(
            tx, SYSTEM, description="", max_uses=None, expires_in=60, allows=Allowance(agents=("a1",))
        )
        token = str(made["token"])
        kernel.fleet.registry.register(tx, AgentProfile("a1"), registration_token=token, own_token="")

    await kernel.write(use_case)


async def test_registering_anew_starts_the_numbers_anew(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one")
    await kernel.tell("a1", 1, task, "step.progress", {"percent": 1})

    def register(tx: Tx, own: str = "") -> str | None:
        token = ""
        if not own:
            made = kernel.fleet.registry.create_registration_token(
                tx, SYSTEM, description="", max_uses=None, expires_in=60, allows=Allowance(agents=("a1",))
            )
            token = str(made["token"])
        profile = AgentProfile("a1")
        return kernel.fleet.registry.register(tx, profile, registration_token=token, own_token=own).token

    own = await kernel.write(register)
    assert own
    assert await kernel.ingest.last_seq("a1", LOGS) == -1
    assert (await kernel.push("a1", 1, task, "again", id="a new spool")).taken is Taken.ACCEPTED
    assert (await kernel.tell("a1", 1, task, "step.progress", {}, id="new")).taken is Taken.ACCEPTED
    await kernel.write(lambda tx: register(tx, own))
    assert await kernel.ingest.last_seq("a1", LOGS) == 1, "its own token changes nothing"
    assert kernel.lines(run_id) == ["one", "again"]


async def test_numbers_are_known_after_a_restart(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, "one")
    again = await kernel.restart()
    assert (await again.push("a1", 1, task, "one")).taken is Taken.REPEATED
    assert (await again.push("a1", 2, task, "two")).taken is Taken.ACCEPTED
    assert again.lines(run_id) == ["one", "two"]


async def test_lines_of_work_that_is_not_ones_own_are_refused(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.agent("a2")
    for step_run in (task, "nothing", ""):
        seq = await kernel.ingest.last_seq("a2", LOGS) + 1
        receipt = await kernel.push("a2", max(seq, 1), step_run, "forged")
        assert receipt.taken is Taken.REJECTED
        assert "not this agent's" in receipt.message
    assert kernel.lines(run_id) == []
    assert (await kernel.push("a2", 4, task, "x")).expected == 5, "a refused number is used up"
    assert kernel.told(run_id, entries.STEP_LOG_MISSED) == []


# -- lines ------------------------------------------------------------------------------------------------


async def test_the_server_numbers_lines(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.push("a1", 1, task, *(f"{n}" for n in range(1, 451)))
    await kernel.push("a1", 2, task)
    await kernel.push("a1", 3, task, "451", "452")
    told = kernel.told(run_id, entries.STEP_LOGGED)
    assert [(body["first"], len(body["lines"])) for body in told] == [
        (1, 200),
        (201, 200),
        (401, 50),
        (451, 2),
    ]
    assert kernel.lines(run_id) == [f"{n}" for n in range(1, 453)]
    assert kernel.attempt(task).lines == 452
    assert {body["agent_id"] for body in told} == {"a1"}


async def test_a_step_that_has_ended_still_shows_how_far_it_came(kernel: Kernel) -> None:
    run_id, agent, task = await at_work(kernel)
    name = kernel.view(run_id)["jobs"][0]["steps"][0]["name"]
    await kernel.tell("a1", 1, task, "step.progress", {"percent": 60})
    assert kernel.step(run_id, name)["progress"] == 60
    await kernel.report(agent, FAILED)
    assert kernel.step(run_id, name)["progress"] == 60


async def test_every_attempt_counts_from_one(kernel: Kernel) -> None:
    run_id, agent, first = await at_work(
        kernel, "jobs: [{name: j, steps: [{name: a, uses: dummy, retry: {maxAttempts: 2}}]}]"
    )
    await kernel.push("a1", 1, first, "a", "b")
    await kernel.tell("a1", 1, first, "step.progress", {"percent": 60})
    await kernel.report(agent, FAILED)
    await kernel.ack(agent)
    await kernel.push("a1", 2, agent.last.id, "c")
    await kernel.push("a1", 3, first, "late")
    told = [(b["attempt"], b["first"], b["lines"]) for b in kernel.told(run_id, entries.STEP_LOGGED)]
    assert told == [(1, 1, ["a", "b"]), (2, 1, ["c"]), (1, 3, ["late"])], (
        "no line is ever lost, not even a late one"
    )
    assert [kernel.attempt(id).lines for id in (first, agent.last.id)] == [3, 1]


async def test_streams_and_levels_follow_their_lines_into_chunks(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    lines = [f"{n}" for n in range(300)]
    batch = LogLines("b", 1, task, lines, stderr=[0, 199, 200, 299], levels={199: "warn", 200: "error"})
    await kernel.ingest.logs("a1", batch, await kernel.ingest.target(task))
    one, two = kernel.told(run_id, entries.STEP_LOGGED)
    assert (one["stderr"], one["levels"]) == ([0, 199], {"199": "warn"})
    assert (two["stderr"], two["levels"]) == ([0, 99], {"0": "error"})


async def test_no_entry_is_larger_than_the_design_allows(kernel: Kernel) -> None:
    """About 64 KiB of lines plus JSON overhead: the size for which readers' buffers are made."""
    run_id, _, task = await at_work(kernel)
    long = "x" * (MAX_RAW - 1)
    await kernel.push("a1", 1, task, "before", long, "after")
    sizes = [len(e.data) for e in kernel.entries(entries.run_stream(run_id), entries.STEP_LOGGED)]
    assert max(sizes) <= 2 * entries.CHUNK_BYTES
    shown = kernel.lines(run_id)
    assert (shown[0], shown[-1]) == ("before", "after")
    assert long.startswith(shown[1][:1000])


# -- events -----------------------------------------------------------------------------------------------


async def test_events_follow_one_another_without_a_gap(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    assert (await kernel.tell("a1", 1, task, "step.progress", {"percent": 10})).taken is Taken.ACCEPTED
    gap = await kernel.tell("a1", 3, task, "step.progress", {"percent": 30})
    assert (gap.taken, gap.expected) == (Taken.OUT_OF_ORDER, 2)
    assert (await kernel.tell("a1", 1, task, "step.progress", {"percent": 10})).taken is Taken.REPEATED
    other = await kernel.tell("a1", 1, task, "step.progress", {"percent": 99}, id="another")
    assert (other.taken, other.expected) == (Taken.OUT_OF_ORDER, 2)
    assert (await kernel.tell("a1", 2, task, "step.progress", {"percent": 20})).taken is Taken.ACCEPTED
    assert [told["percent"] for told in kernel.told(run_id, entries.STEP_PROGRESSED)] == [10, 20]


async def test_the_first_event_begins_the_count(kernel: Kernel) -> None:
    _, _, task = await at_work(kernel)
    assert (await kernel.tell("a1", 2, task, "step.progress", {})).taken is Taken.ACCEPTED
    gap = await kernel.tell("a1", 4, task, "step.progress", {})
    assert (gap.taken, gap.expected) == (Taken.OUT_OF_ORDER, 3)
    before = await kernel.tell("a1", 1, task, "step.progress", {})
    assert (before.taken, before.expected) == (Taken.OUT_OF_ORDER, 3)


async def test_events_begin_where_the_agent_says(kernel: Kernel) -> None:
    _, _, task = await at_work(kernel)

    async def tell(seq: int) -> Receipt:
        event = StepEvent(f"event-{seq}", seq, task, "arcentra.step.progress", {"percent": 1})
        return await kernel.ingest.event("a1", event, begins=6)

    gap = await tell(8)
    assert (gap.taken, gap.expected) == (Taken.OUT_OF_ORDER, 7)
    assert [(await tell(seq)).taken for seq in (7, 8)] == [Taken.ACCEPTED, Taken.ACCEPTED]


async def test_progress_is_between_0_and_100_and_never_falls(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    given = [5.9, 50, 20, -3, 250, "70", None, True]
    for seq, percent in enumerate(given, start=1):
        receipt = await kernel.tell(
            "a1", seq, task, "step.progress", {"percent": percent, "message": "m" * 5000}
        )
        assert receipt.taken is Taken.ACCEPTED
    told = kernel.told(run_id, entries.STEP_PROGRESSED)
    shown = [body["percent"] for body in told]
    assert shown == sorted(shown)
    assert shown[:5] == [5, 50, 50, 50, 100]
    assert all(len(body["message"]) <= 1000 for body in told)
    assert kernel.step(run_id, "a")["progress"] == 100


@pytest.mark.parametrize("percent", [float("inf"), float("-inf"), float("nan"), 1e300])
async def test_no_number_breaks_the_stream_of_events(kernel: Kernel, percent: float) -> None:
    """An event that raises would come again for ever, and everything behind it would wait."""
    run_id, _, task = await at_work(kernel)
    await kernel.tell("a1", 1, task, "step.progress", {"percent": percent})
    await kernel.tell("a1", 2, task, "step.progress", {"percent": 100})
    assert kernel.told(run_id, entries.STEP_PROGRESSED)[-1]["percent"] == 100


async def test_outputs_are_there_for_what_follows(kernel: Kernel) -> None:
    spec = """
    jobs:
      - {name: one, steps: [{name: a, uses: dummy}]}
      - name: two
        dependsOn: [one]
        when: jobs.one.outputs.go == true
        steps: [{name: b, uses: dummy, args: {tag: '${{ jobs.one.outputs.tag }}'}}]
    """
    run_id, agent, task = await at_work(kernel, spec)
    for seq, (name, value) in enumerate([("tag", "v1"), ("go", True), ("tag", "v2")], start=1):
        await kernel.tell("a1", seq, task, "step.output", {"name": name, "value": value})
    await kernel.report(agent)
    assert agent.last.args == {"tag": "v2"}
    assert kernel.told(run_id, entries.STEP_COMPLETED)[0]["outputs"] == {"tag": "v2", "go": True}
    assert len(kernel.told(run_id, entries.STEP_OUTPUT)) == 3


@pytest.mark.parametrize(
    "payload", [{"name": "no good!", "value": 1}, {"value": 1}, {"name": "x", "value": "y" * (1 << 20)}]
)
async def test_an_output_that_is_not_taken_is_not_acknowledged_as_if_it_were(
    kernel: Kernel, payload: dict[str, Any]
) -> None:
    """decisions.md: some bad: ``STATUS_PARTIAL_ACCEPTED`` with ``rejected_seqs``."""
    run_id, _, task = await at_work(kernel)
    receipt = await kernel.tell("a1", 1, task, "step.output", payload)
    assert receipt.taken is Taken.REJECTED
    assert kernel.step(run_id, "a")["outputs"] == {}
    assert (
        await kernel.tell("a1", 2, task, "step.output", {"name": "x", "value": 1})
    ).taken is Taken.ACCEPTED


async def test_other_events_are_journalled_as_they_are(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.tell("a1", 1, task, "step.annotation", {"title": "t", "line": 5.0})
    await kernel.tell("a1", 2, "", "agent.disk", {"free": 5.0})
    [told] = kernel.told(run_id, entries.AGENT_EVENT)
    assert (told["event_type"], told["event_id"]) == ("arcentra.step.annotation", "event-1")
    assert told["payload"] == {"title": "t", "line": 5.0}
    [own] = kernel.entries(entries.agent_stream("a1"), entries.AGENT_EVENT)
    assert own.body["payload"] == {"free": 5.0}


async def test_events_of_work_that_is_not_ones_own_are_refused(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    await kernel.agent("a2")
    assert (await kernel.tell("a2", 1, task, "step.progress", {"percent": 50})).taken is Taken.REJECTED
    assert (await kernel.tell("a2", 2, "nothing", "step.progress", {})).taken is Taken.REJECTED
    assert kernel.told(run_id, entries.STEP_PROGRESSED) == []


# -- how much is stored ------------------------------------------------------------------------------------


def limit(kernel: Kernel, **quotas: int) -> IntakeQuotas:
    """Lower quotas."""
    kernel.ingest._quotas = IntakeQuotas(kernel.storage, kernel.journal, Quotas(**quotas))
    return kernel.ingest._quotas


async def presence(kernel: Kernel) -> None:
    """An entry of the agent's state: the kernel looks for the last one at the end of each test."""
    await kernel.write(lambda tx: kernel.fleet.drain(tx, SYSTEM, "a1", True))


async def test_the_log_of_a_run_has_a_bound_and_says_so_once(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    limit(kernel, run_log=10_000)
    for seq in range(1, 30):
        assert (await kernel.push("a1", seq, task, "x" * 500)).taken is Taken.ACCEPTED
    assert (await kernel.push("a1", 40, task, "behind a gap")).taken is Taken.ACCEPTED
    lines = kernel.lines(run_id)
    assert lines == ["x" * 500] * 9, "nine entries of 500 bytes, a newline, and 512 bytes besides"
    [marked] = kernel.told(run_id, entries.STEP_LOG_MISSED)
    why = "the log of the run may have 10000 bytes (PILOT_QUOTA_RUN_LOG)"
    assert marked["message"] == f"lines from here on are not stored: {why}"
    assert kernel.view(run_id)["jobs"][0]["steps"][0]["attempts"][0]["lines"] == 9


async def test_events_of_a_run_have_a_bound(kernel: Kernel) -> None:
    run_id, _, task = await at_work(kernel)
    limit(kernel, run_events=3000)
    taken = [await kernel.tell("a1", seq, task, "step.progress", {"percent": seq}) for seq in range(1, 9)]
    assert [receipt.taken for receipt in taken] == [Taken.ACCEPTED] * 5 + [Taken.REJECTED] * 3
    assert "PILOT_QUOTA_RUN_EVENTS" in taken[-1].message
    assert len(kernel.told(run_id, entries.STEP_PROGRESSED)) == 5


async def test_an_agents_own_stream_has_a_bound(kernel: Kernel) -> None:
    await at_work(kernel)
    quotas, stream = limit(kernel, agent_events=5000), entries.agent_stream("a1")
    for _ in range(3):
        first = await kernel.ingest.last_seq("a1", EVENTS) + 1
        taken = [
            (await kernel.tell("a1", max(first, 1) + n, "", "agent.disk", {"free": "x" * 400})).taken
            for n in range(8)
        ]
        assert taken == [Taken.ACCEPTED] * 5 + [Taken.REJECTED] * 3
        await quotas.prune_agents()
        left = kernel.entries(stream)
        assert sum(len(entry.data) for entry in left) <= 5000
        assert len(left) >= 5
        assert left[-1].type == entries.AGENT_EVENT
    await presence(kernel)


async def test_an_agents_own_stream_keeps_so_many_entries(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at_work(kernel)
    monkeypatch.setattr(quotas_module, "MAX_AGENT_ENTRIES", 4)
    stream = entries.agent_stream("a1")
    for seq in range(1, 8):
        await kernel.tell("a1", seq, "", "agent.disk", {"free": seq})
    await limit(kernel).prune_agents()
    assert [entry.body["payload"]["free"] for entry in kernel.entries(stream)] == [4, 5, 6, 7]
    await presence(kernel)
