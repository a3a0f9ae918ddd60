"""What agents push: log lines and events, by the rules of decisions.md (Arcentra)."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import zstandard

from support.agent_work import ACCEPTED, OUT_OF_ORDER, PARTIAL, REJECTED, Work, begin
from support.fake_agent import (
    GZIP,
    ZSTD,
    batch,
    events,
)
from support.server import Server
from support.waiting import eventually
from support.wire_table import table


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Server:
    return shared_server


@pytest.fixture
async def work(server: Server) -> AsyncIterator[Work]:
    work = await begin(server)
    yield work
    await work.agent.vanish()


async def test_logs_in_every_compression(work: Work) -> None:
    plain = b"one\ntwo\n"
    acks = await work.agent.push(
        batch(work.step, 1, plain),
        batch(work.step, 2, gzip.compress(b"three\n"), compression=GZIP, raw_size=6),
        batch(work.step, 3, zstandard.compress(b"four\n"), compression=ZSTD, raw_size=5),
        batch(work.step, 4, b"five", compression=0),  # no newline at the end
    )
    assert (acks.status, acks.last_accepted_seq, list(acks.rejected_seqs)) == (ACCEPTED, 4, [])
    assert acks.expected_seq == 5
    assert work.logged() == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"one\n", {"raw_size": 99}),
        (gzip.compress(b"one\n"), {"compression": GZIP, "raw_size": 5}),
        (zstandard.compress(b"one\n"), {"compression": ZSTD, "raw_size": 3}),
        (b"not gzip", {"compression": GZIP, "raw_size": 8}),
        (b"not zstd", {"compression": ZSTD, "raw_size": 8}),
        (gzip.compress(b"one\n" * 1000)[:-12], {"compression": GZIP, "raw_size": 4000}),
        (gzip.compress(bytes(range(256)))[:20] + b"\xff" * 50, {"compression": GZIP, "raw_size": 256}),
        (gzip.compress(b"one\n")[:-8] + bytes(8), {"compression": GZIP, "raw_size": 4}),
        (zstandard.compress(b"one\n" * 1000)[:-3], {"compression": ZSTD, "raw_size": 4000}),
        (zstandard.compress(b"one\n" * 1000)[:-3], {"compression": ZSTD, "raw_size": 0}),
        (gzip.compress(bytes(64 << 20)), {"compression": GZIP, "raw_size": 64 << 20}),
        (zstandard.compress(bytes(64 << 20)), {"compression": ZSTD, "raw_size": 64 << 20}),
        (b"one\n", {"compression": 9, "raw_size": 4}),
    ],
    ids=["raw-size", "gzip-raw-size", "zstd-raw-size", "no-gzip", "no-zstd", "cut-gzip", "corrupt-gzip",
         "gzip-checksum", "cut-zstd", "cut-zstd-of-unknown-size", "gzip-bomb", "zstd-bomb",
         "unknown-compression"],
)  # fmt: skip
async def test_a_batch_that_cannot_be_read_is_rejected_alone(
    work: Work, data: bytes, fields: dict[str, Any]
) -> None:
    ack = await work.agent.push(
        batch(work.step, 1, ["before"]), batch(work.step, 2, data, **fields), batch(work.step, 3, ["after"])
    )
    assert (ack.status, list(ack.rejected_seqs)) == (PARTIAL, [2])
    assert ack.message
    assert work.logged() == ["before", "after"]
    only = await work.push(4, data, **fields)
    assert (only.status, list(only.rejected_seqs)) == (REJECTED, [4])


async def test_sequence_numbers_of_logs(work: Work) -> None:
    assert (await work.push(1, ["a"], id="A")).status == ACCEPTED
    again = await work.push(1, ["a"], id="A")
    assert (again.status, again.last_accepted_seq) == (ACCEPTED, 1)  # without effect
    other = await work.push(1, ["z"], id="B")
    assert (other.status, other.expected_seq) == (OUT_OF_ORDER, 2)
    assert (await work.push(5, ["b"], id="C")).status == ACCEPTED  # a gap is allowed, but shows
    assert (await work.push(3, ["late"], id="D")).last_accepted_seq == 5
    assert work.logged() == ["a", "b"]
    messages = _run_messages(work)
    assert next(m["line"] for m in messages if m["type"] == "step_log") == "a"
    marker = [m for m in messages if m["type"] == "step_log" and m["level"] == "warn"]
    assert len(marker) == 1
    assert "2 to 4" in marker[0]["line"]


def _run_messages(work: Work) -> list[Any]:
    """What the run's SSE shows until the workflow ends, which this brings about."""
    work.server.ask("POST", f"/workflow-runs/{work.run_id}/cancel", json={})
    assert work.agent.channel is not None
    done = work.server.call("DELETE", f"/agents/{work.agent.agent_id}")
    assert done.status_code == 204
    text = work.server.call("GET", f"/workflow-runs/{work.run_id}/stream").text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("seq", [2**63 - 1, 2**63, 2**64 - 1])
async def test_sequence_numbers_beyond_the_database(work: Work, seq: int) -> None:
    first = await work.agent.push_events(events(("first", 1, work.step, "arcentra.step.progress", {})))
    assert (first.status, first.expected_seq) == (ACCEPTED, 2)
    told = await work.agent.push_events(events(("e", seq, work.step, "arcentra.step.progress", {})))
    assert (told.status, told.expected_seq) == (OUT_OF_ORDER, 2)
    ack = await work.push(seq, ["far"])
    assert ack.status in (ACCEPTED, REJECTED, OUT_OF_ORDER)
    assert (await work.agent.call("agent.v1.AgentService/Heartbeat")).success


async def test_a_registration_starts_the_numbers_anew(work: Work) -> None:
    await work.push(40, ["a"])
    await work.agent.register(work.server.registration_token(agents=[work.agent.agent_id]))
    ack = await work.push(1, ["b"], id="other")
    assert (ack.status, ack.last_accepted_seq) == (ACCEPTED, 1)


async def test_ndjson_lines(work: Work) -> None:
    log = [
        {"content": "out", "line_number": 999},
        {"content": "err", "stream": "stderr", "level": "error"},
        {"content": "warned", "level": "warn", "timestamp": 5},
        {},
    ]
    data = "".join(json.dumps(line) + "\n" for line in log).encode()
    metadata = [("pilot-log-format", "ndjson")]
    ack = await work.agent.push(batch(work.step, 1, data), metadata=metadata)
    assert ack.status == ACCEPTED
    assert work.logged() == ["out", "err", "warned", ""]
    for number, bad in enumerate([b"not json\n", b"[1]\n", b'{"content":\n', b'"text"\n', b"\xff\xfe\n"], 2):
        ack = await work.agent.push(batch(work.step, number, bad), metadata=metadata)
        assert (ack.status, list(ack.rejected_seqs)) == (REJECTED, [number]), bad
    # Hostile types inside an object must not end the call either.
    strange = (
        b'{"content": null, "stream": 7, "level": ["x"]}\n{"content": {"a": 1}}\n{"content": "a\\u0000b"}\n'
    )
    ack = await work.agent.push(batch(work.step, 9, strange), metadata=metadata)
    assert ack.status in (ACCEPTED, REJECTED)


async def test_lines_as_they_are(work: Work) -> None:
    data = "crlf\r\n\ntab\there\nunicode ü €\x85nel\u2028\nbroken \ud83d\n".encode("utf-8", "surrogatepass")
    ack = await work.agent.push(batch(work.step, 1, data + b"\x00\x1b[31mred\xff\n"))
    assert ack.status == ACCEPTED
    lines = work.server.call("GET", f"/workflow-runs/{work.run_id}/logs").text.split("\n")
    assert lines[:3] == ["crlf", "", "tab\there"]
    assert lines[3] == "unicode ü €\x85nel\u2028"  # only \n ends a line
    assert lines[4].startswith("broken ")
    assert lines[5].endswith("\x1b[31mred\ufffd")


async def test_many_lines_are_cut_into_chunks(work: Work) -> None:
    """One entry carries at most 200 lines or about 64 KiB; nothing is lost at the cuts."""
    lines = [f"{n:06} " + "x" * (n % 700) for n in range(3000)]
    await work.agent.lines(work.step, lines)
    assert work.logged() == lines
    assert work.step_view()["attempts"][0]["lines"] == 3000
    long = "y" * 3_000_000
    await work.agent.lines(work.step, [long, "end"])
    shown = "".join(work.logged()[3000:-1])
    cut = re.fullmatch(r"(y{30000,}) … \[line cut: (\d+) characters dropped\]", shown)
    assert shown == long or (cut and len(cut[1]) + int(cut[2]) == len(long)), shown[-80:]  # never in silence
    assert work.logged()[-1] == "end"


async def test_an_open_push_shows_its_lines_before_it_ends(work: Work) -> None:
    """Batches are committed and shown as they arrive; the ack comes at half-close."""
    open_end: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        while (request := await open_end.get()) is not None:
            yield request

    call = work.agent.rpc("gateway.v1.GatewayService/PushLogs")(requests(), metadata=work.agent.metadata)
    handshake = {"agent_id": work.agent.agent_id, "last_known_seq": 0}
    await open_end.put(table().message("gateway.v1.PushLogsRequest")(handshake=handshake))
    for number in (1, 2, 3):
        await open_end.put(batch(work.step, number, [f"line {number}"]))
        await eventually(lambda n=number: len(work.logged()) == n)
    assert not call.done()
    await open_end.put(None)
    answer = await call
    assert (answer.ack.status, answer.ack.last_accepted_seq) == (ACCEPTED, 3)


@pytest.mark.parametrize("what", ["logs", "events"])
async def test_a_removed_agent_is_refused(work: Work, what: str) -> None:
    """Not in a call either that it had open before."""
    said: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        while True:
            yield await said.get()

    name = "PushLogs" if what == "logs" else "PushEvents"
    call = work.agent.rpc(f"gateway.v1.GatewayService/{name}")(requests(), metadata=work.agent.metadata)
    numbers = itertools.count(1)

    async def ended() -> bool:
        number = next(numbers)
        if what == "logs":
            await said.put(batch(work.step, number, [f"line {number}"]))
        else:
            await said.put(events((f"e{number}", number, work.step, "note", {})))
        return bool(call.done())

    assert not await ended()
    assert work.server.call("DELETE", f"/agents/{work.agent.agent_id}").status_code == 204
    await eventually(ended)
    code, details = await call.code(), await call.details()
    # If a message is in flight while the call ends, the client may only report that it could not be sent.
    unsent = code is grpc.StatusCode.INTERNAL and details.startswith(
        ('Failed "execute_batch"', "Internal error from Core")
    )
    assert code is grpc.StatusCode.UNAUTHENTICATED or unsent, details


async def test_a_rejected_number_is_used_up(work: Work) -> None:
    good, bad = batch(work.step, 1, ["x"]), batch(work.step, 2, ["y"], raw_size=999)
    ack = await work.agent.push(good, bad)
    assert (ack.status, list(ack.rejected_seqs), ack.expected_seq) == (PARTIAL, [2], 3)
    ack = await work.agent.push(batch(work.step, ack.expected_seq, ["z"]))
    assert (ack.status, work.logged()) == (ACCEPTED, ["x", "z"])


async def test_an_empty_push_returns_the_position(work: Work) -> None:
    await work.push(3, ["x"])
    ack = await work.agent.push()
    assert (ack.status, ack.last_accepted_seq, ack.expected_seq) == (ACCEPTED, 3, 4)


async def test_late_lines_of_an_ended_step_do_not_follow_the_end(work: Work) -> None:
    """Kept in the log, but workflow_completed stays the last message of the run stream (docs/decisions/0005)."""
    await work.agent.lines(work.step, ["in time"])
    await work.agent.finish(work.task)
    await eventually(lambda: work.view()["status"] == "succeeded")
    ack = await work.push(2, ["too late"])
    stream = work.server.call("GET", f"/workflow-runs/{work.run_id}/stream").text
    assert (ack.status, work.logged()) == (ACCEPTED, ["in time", "too late"])
    assert "too late" not in stream
    assert "workflow_completed" in stream.strip().split("\n\n")[-1]


async def test_events_act_on_the_step(work: Work) -> None:
    ack = await work.agent.push_events(
        events(
            ("e1", 1, work.step, "arcentra.step.progress", {"percent": 40, "message": "half way"}),
            ("e2", 2, work.step, "arcentra.step.output", {"name": "version", "value": "1.2"}),
            ("e3", 3, work.step, "arcentra.step.progress", {"percent": 30, "message": "back?"}),
            ("e4", 4, work.step, "arcentra.step.annotation", {"level": "warning", "text": "look"}),
        )
    )
    assert (ack.status, ack.last_accepted_seq, ack.expected_seq) == (ACCEPTED, 4, 5)
    step = work.step_view()
    assert step["outputs"] == {"version": "1.2"}
    assert step["progress"] == 40  # it never falls


async def test_sequence_numbers_of_events(work: Work) -> None:
    def told(*numbered: tuple[str, int]) -> Any:
        payload = {"name": "n", "value": 1}
        return events(*[(id, seq, work.step, "arcentra.step.output", payload) for id, seq in numbered])

    assert (await work.agent.push_events(told(("a", 1), ("b", 2)))).status == ACCEPTED
    assert (await work.agent.push_events(told(("b", 2)))).status == ACCEPTED
    gap = await work.agent.push_events(told(("d", 4)))
    assert (gap.status, gap.expected_seq, gap.last_accepted_seq) == (OUT_OF_ORDER, 3, 2)
    other = await work.agent.push_events(told(("z", 2)))
    assert (other.status, other.expected_seq) == (OUT_OF_ORDER, 3)
    mixed = await work.agent.push_events(told(("c", 3), ("e", 5), ("d", 4)))
    assert (mixed.status, mixed.expected_seq, mixed.last_accepted_seq) == (OUT_OF_ORDER, 4, 3)
    foreign = events(("d", 4, "no-such-step", "arcentra.step.output", {}), ("e", 5, "", "my.own.event", {}))
    ack = await work.agent.push_events(foreign)
    assert (ack.status, list(ack.rejected_seqs), ack.last_accepted_seq) == (PARTIAL, [4], 5)


async def test_hostile_events(work: Work) -> None:
    hostile: list[dict[str, Any]] = [
        {"percent": "many"},
        {"percent": 1e308},
        {"percent": -5, "message": {"deep": [None]}},
        {"percent": 101, "message": "m" * 100_000},
        {"progress": True},
    ]
    outputs: list[dict[str, Any]] = [
        {},
        {"name": "../x", "value": 1},
        {"name": "ok", "value": {"nested": [1, "two", None]}},
        {"name": "big", "value": "v" * 2_000_000},
        {"name": 5, "value": "v"},
    ]
    sent = [("arcentra.step.progress", p) for p in hostile] + [("arcentra.step.output", p) for p in outputs]
    sent += [("", {}), ("x" * 100_000, {"a": 1}), ("arcentra.step.artifact", {"name": None})]
    for seq, (type, payload) in enumerate(sent, 1):
        ack = await work.agent.push_events(events((f"e{seq}", seq, work.step, type, payload)))
        assert ack.status in (ACCEPTED, REJECTED), (type, str(payload)[:80])
    step = work.step_view()
    assert 0 <= step["progress"] <= 100
    assert step["outputs"]["ok"] == {"nested": [1, "two", None]}
    assert "../x" not in step["outputs"]


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
async def test_numbers_that_json_does_not_know(work: Work, number: float) -> None:
    """A call that fails would be repeated for ever: an event is reliable. It must be answered."""
    payload = {"name": "n", "value": number}
    ack = await work.agent.push_events(events(("e", 1, work.step, "arcentra.step.output", payload)))
    assert ack.status in (ACCEPTED, REJECTED)


def test_nothing_unforeseen_was_logged(server: Server) -> None:
    assert server.failures() == []
