"""Readers over a window that forgets and a store that does not: each gets all of its own, once, in order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engine.streams.arcentra import StepLog
from pilothouse.engine.streams.framing import Framing
from pilothouse.engine.streams.stella import RunMessages
from pilothouse.journal import Cursor, CursorExpired, CursorInvalid, Entry, Selection, WireFormat
from pilothouse.journal.reader import Reader
from pilothouse.journal.window import Window
from pilothouse.server.events import CloudEvents
from pilothouse.wire import entries

EPOCH = "0a1b2c3d"
STREAMS = ["run/a", "run/b", "agent/x"]
SCOPES = ["project/one", "project/two"]
ATTEMPTS = ["s1", "s2"]

RUN_WS = RunMessages(Framing("ws+cursor", EPOCH))
RUN_SSE = RunMessages(Framing("sse", EPOCH))
LOG_LIVE = StepLog(Framing("ws+cursor", EPOCH), batched=False)
LOG_BATCHED = StepLog(Framing("ws+cursor", EPOCH), batched=True)
CLOUD = CloudEvents(EPOCH)
FORMATS: list[WireFormat] = [RUN_WS, RUN_SSE, LOG_LIVE, LOG_BATCHED, CLOUD]


def entry(offset: int, stream: str, subject: str, type: str, scope: str, body: dict[str, Any]) -> Entry:
    return Entry(offset, stream, subject, type, 1_700_000_000_000 + offset, scope, orjson.dumps(body))


def keys(subject: str) -> dict[str, Any]:
    ids = {
        "run_id": "a",
        "pipeline_id": "p",
        "job_id": "j",
        "job": "job",
        "step": "step",
        "step_run_id": subject,
    }
    return {**ids, "node": "step", "uses": "shell", "agent_id": "a1"}


@dataclass
class Follower:
    """A reader, where it began, what it got, and the page that is being loaded for it."""

    reader: Reader
    start: Cursor
    scopes: frozenset[str]
    got: list[bytes] = field(default_factory=list)
    loading: tuple[list[Entry], bool, int] | None = None


class World:
    """One journal: everything on disk, the newest in the window."""

    def __init__(self, max_entries: int, max_bytes: int, page_rows: int) -> None:
        self.window = Window(1, max_entries=max_entries, max_bytes=max_bytes)
        self.disk: list[Entry] = []
        self.page_rows = page_rows
        self.followers: list[Follower] = []
        self.lines = 0

    def publish(self, batch: list[tuple[int, int, int, int]]) -> None:
        """Commit entries, as the feed does; each is (stream, attempt, scope, what)."""
        made = [self._make(len(self.disk) + 1 + index, *told) for index, told in enumerate(batch)]
        self.disk += made
        self.window.extend([fresh(one) for one in made])
        for follower in self.followers:
            wanted = follower.reader.selection.stream
            first = next((one.offset for one in made if wanted in (None, one.stream)), None)
            if first is not None:
                follower.reader.published(first)

    def _make(self, offset: int, stream: int, attempt: int, scope: int, what: int) -> Entry:
        subject = ATTEMPTS[attempt]
        if what == 0:
            type, body = entries.STEP_PROGRESSED, {"percent": 5, "message": f"m{offset}"}
        elif what == 1:
            type, body = entries.AGENT_EVENT, {"payload": {}}
        else:
            lines = [f"line {self.lines + n}" for n in range(what - 1)]
            type, body = entries.STEP_LOGGED, {"first": self.lines + 1, "lines": lines}
            self.lines += len(lines)
        return entry(offset, STREAMS[stream], subject, type, SCOPES[scope], {**keys(subject), **body})

    def follow(
        self, selection: Selection, fmt: WireFormat, scopes: frozenset[str], start: Cursor
    ) -> Follower:
        reader = Reader(self.window, selection, fmt, scopes.__contains__, start)
        self.followers.append(Follower(reader, start, scopes))
        return self.followers[-1]

    def begin(self, follower: Follower) -> None:
        """A loader takes its snapshot of the disk."""
        if follower.reader.behind and follower.loading is None:
            wanted, start = follower.reader.selection, follower.reader.position.offset
            page = [
                fresh(one)
                for one in self.disk
                if one.offset >= start
                and wanted.stream in (None, one.stream)
                and wanted.subject in (None, one.subject)
            ][: self.page_rows]
            follower.loading = (page, len(page) == self.page_rows, self.window.head)

    def finish(self, follower: Follower) -> None:
        """The page arrives."""
        if follower.loading is not None:
            follower.got += follower.reader.accept(*follower.loading)
            follower.loading = None

    def take(self, follower: Follower, budget: int) -> None:
        """As a subscription does: from memory, or from disk."""
        if follower.loading is not None or follower.reader.behind:
            self.begin(follower)
            self.finish(follower)
        else:
            follower.got += follower.reader.take(budget)

    def drain(self, follower: Follower) -> None:
        """Until there is nothing more."""
        for _ in range(10 * len(self.disk) + 10):
            before, from_memory = len(follower.got), not follower.reader.behind
            self.take(follower, 1 << 20)
            if from_memory and len(follower.got) == before:
                return
        raise AssertionError("a reader that never arrives")

    def expected(self, follower: Follower) -> list[bytes]:
        """All messages from its start on, straight from the disk."""
        out: list[bytes] = []
        reader, start = follower.reader, follower.start
        for one in map(fresh, self.disk):
            if one.offset < start.offset or one.scope not in follower.scopes:
                continue
            if reader.selection.stream not in (None, one.stream) or not reader.selection.wants(one):
                continue
            out += after(one, start.k if one.offset == start.offset else 0, reader.fmt)
        return out


def after(one: Entry, k: int, fmt: WireFormat) -> list[bytes]:
    """The messages of an entry behind its first ``k`` parts, by an independent rule."""
    body = one.body
    if k and "lines" in body:
        if k >= len(body["lines"]):
            return []
        rest = {**body, "lines": body["lines"][k:], "first": body["first"] + k}
        cut = Entry(
            one.offset, one.stream, one.subject, one.type, one.at, one.scope, orjson.dumps(rest), rest, k
        )
        return [frame.data for frame in fmt.encode(cut)]
    return [frame.data for frame in fmt.encode(one)][k:]


def fresh(one: Entry) -> Entry:
    """The same entry without anything remembered, as from disk."""
    return Entry(one.offset, one.stream, one.subject, one.type, one.at, one.scope, one.data)


def cursor_of(message: bytes) -> Cursor:
    """The cursor that a message carries."""
    if message.startswith(b"id: "):
        return Cursor.parse(message[4 : message.index(b"\n")].decode(), EPOCH)
    return Cursor.parse(json.loads(message)["cursor"], EPOCH)


def lines_in(messages: list[bytes]) -> list[str]:
    """The log lines that messages of any format show."""
    found: list[str] = []
    for message in messages:
        data = message.split(b"data: ", 1)[-1] if message.startswith(b"id: ") else message
        told = json.loads(data)
        if told.get("type") == "step_log":
            found.append(told["line"])
        elif told.get("type") == entries.STEP_LOGGED:
            found += told["data"]["lines"]
        elif told.get("type") in ("log", "log_chunk"):
            logs = told["data"] if told["type"] == "log_chunk" else [told["data"]]
            found += [log["content"] for log in logs]
    return found


one_entry = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.integers(0, 6))
worlds = st.builds(
    World,
    max_entries=st.sampled_from([1, 66, 10_000]),
    max_bytes=st.sampled_from([1, 700, 2500, 1 << 20]),
    page_rows=st.integers(1, 4),
)
selections = st.sampled_from(
    [
        Selection("run/a"),
        Selection("run/b"),
        Selection(None),
        Selection("run/a", subject="s1"),
        Selection(None, type="step.*"),
        Selection("run/b", type=entries.STEP_PROGRESSED),
    ]
)
scopes = st.sampled_from([frozenset(SCOPES), frozenset(SCOPES[:1]), frozenset[str]()])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.lists(one_entry, min_size=1, max_size=12)),
        st.tuples(st.just("take"), st.integers(0, 9), st.sampled_from([1, 200, 5000])),
        st.tuples(st.just("begin"), st.integers(0, 9)),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("open"), selections, st.sampled_from(FORMATS), scopes, st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 9), st.integers(0, 50)),
    ),
    max_size=40,
)


@settings(max_examples=250, deadline=None)
@given(worlds, operations)
def test_every_reader_gets_all_of_its_own_once_and_in_order(world: World, ops: list[tuple[Any, ...]]) -> None:
    for op, *given_ in ops:
        if op == "publish":
            world.publish(given_[0])
        elif op == "open":
            selection, fmt, seen, from_start = given_
            world.follow(selection, fmt, seen, Cursor(0 if from_start else world.window.head))
        elif world.followers:
            follower = world.followers[given_[0] % len(world.followers)]
            if op == "take":
                world.take(follower, given_[1])
            elif op == "begin":
                world.begin(follower)
            elif op == "finish":
                world.finish(follower)
            elif follower.got:
                start = cursor_of(follower.got[given_[1] % len(follower.got)])
                reader = follower.reader
                world.follow(reader.selection, reader.fmt, follower.scopes, start)
    for follower in world.followers:
        world.finish(follower)
        world.drain(follower)
        assert follower.got == world.expected(follower)


@settings(max_examples=150, deadline=None)
@given(worlds, st.lists(one_entry, min_size=1, max_size=30), st.data())
def test_a_cursor_taken_on_one_stream_is_good_on_another(
    world: World, batch: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    """Cut off anywhere, and come back in any format, as often as one likes: every line once."""
    for one in batch:
        world.publish([one])
    selection, everything = Selection("run/a"), frozenset(SCOPES)
    whole = world.follow(selection, CLOUD, everything, Cursor(0))
    world.drain(whole)
    seen: list[str] = []
    start = Cursor(0)
    for _ in range(4):
        part = world.follow(selection, data.draw(st.sampled_from(FORMATS)), everything, start)
        world.drain(part)
        if not part.got:
            break
        cut = data.draw(st.integers(1, len(part.got)))
        seen += lines_in(part.got[:cut])
        start = cursor_of(part.got[cut - 1])
    rest = world.follow(selection, CLOUD, everything, start)
    world.drain(rest)
    assert seen + lines_in(rest.got) == lines_in(whole.got)


def test_a_cut_chunk_keeps_its_numbers_levels_and_streams() -> None:
    body = {
        **keys("s1"),
        "first": 11,
        "lines": ["a", "b", "c", "d"],
        "stderr": [0, 2],
        "levels": {"2": "warn"},
    }
    chunk = entry(7, "run/a", "s1", entries.STEP_LOGGED, SCOPES[0], body)
    window = Window(7)
    window.extend([chunk])
    cut = Reader(window, Selection("run/a"), LOG_LIVE, lambda scope: True, Cursor(7, 1)).take()
    logs = [json.loads(message)["data"] for message in cut]
    assert [(log["line_number"], log["content"], log["stream"], log["level"]) for log in logs] == [
        (12, "b", "stdout", "info"),
        (13, "c", "stderr", "warn"),
        (14, "d", "stdout", "info"),
    ]
    assert [cursor_of(message) for message in cut] == [Cursor(7, 2), Cursor(7, 3), Cursor(8)]
    twice = chunk.tail(1).tail(3)
    assert (twice.body["lines"], twice.body["first"], twice.base) == (["d"], 14, 3)
    assert twice.body["stderr"] == []
    assert twice.body["levels"] == {}
    assert chunk.body == body, "what all readers share is not changed"


def test_a_cursor_behind_all_lines_of_a_chunk_gives_nothing_of_it() -> None:
    chunk = entry(
        7, "run/a", "s1", entries.STEP_LOGGED, SCOPES[0], {**keys("s1"), "first": 1, "lines": ["a", "b"]}
    )
    window = Window(7)
    window.extend([chunk])
    for k in (2, 3, 1000):
        for fmt in FORMATS:
            assert Reader(window, Selection("run/a"), fmt, lambda scope: True, Cursor(7, k)).take() == []


def test_a_reader_stops_at_the_end_of_its_stream() -> None:
    done = {**keys(""), "status": "succeeded", "duration": 5, "outputs": {}}
    world = World(10_000, 1 << 20, 4)
    first = world.follow(Selection("run/a"), RUN_WS, frozenset(SCOPES), Cursor(1))
    blind = world.follow(Selection("run/a"), RUN_WS, frozenset(), Cursor(1))
    late = {**keys("s1"), "percent": 1, "message": ""}
    world.window.extend(
        [
            entry(1, "run/a", "", entries.RUN_COMPLETED, SCOPES[0], done),
            entry(2, "run/a", "s1", entries.STEP_PROGRESSED, SCOPES[0], late),
        ]
    )
    assert len(first.reader.take()) == 1
    assert first.reader.ended
    assert first.reader.take() == []
    assert blind.reader.take() == []
    assert not blind.reader.ended, "what it may not see does not tell it anything, not even by ending"


def test_what_is_published_during_a_load_is_not_skipped() -> None:
    """The page was read before, and is at its end; what came since is still to be read."""
    world = World(max_entries=10_000, max_bytes=1, page_rows=4)
    world.publish([(1, 0, 0, 0)])
    follower = world.follow(Selection("run/a"), RUN_WS, frozenset(SCOPES), Cursor(0))
    world.begin(follower)
    world.publish([(0, 0, 0, 2)])
    world.finish(follower)
    world.drain(follower)
    assert len(follower.got) == 1
    assert follower.got == world.expected(follower)


def test_a_small_budget_is_one_entry_at_a_time() -> None:
    world = World(10_000, 1 << 20, 4)
    world.publish([(0, 0, 0, 4), (1, 0, 0, 4), (0, 0, 0, 3)])
    follower = world.follow(Selection("run/a"), RUN_WS, frozenset(SCOPES), Cursor(0))
    follower.reader.position = Cursor(1)
    assert [len(follower.reader.take(1)) for _ in range(3)] == [3, 2, 0]


def test_scopes_are_asked_anew_for_every_entry() -> None:
    """What its user may no longer see a stream stops carrying at once (decisions.md)."""
    world = World(10_000, 1 << 20, 4)
    seen = set(SCOPES)
    reader = Reader(world.window, Selection("run/a"), RUN_WS, seen.__contains__, Cursor(1))
    world.publish([(0, 0, 0, 0)])
    assert len(reader.take()) == 1
    seen.remove(SCOPES[0])
    reader.published(2)
    world.publish([(0, 0, 0, 0), (0, 0, 1, 0)])
    assert len(reader.take()) == 1


def test_an_entry_is_encoded_once_for_all_readers_of_a_format() -> None:
    encoded: list[int] = []

    class Counting(RunMessages):
        def encode(self, entry: Entry) -> Any:
            encoded.append(entry.offset)
            return super().encode(entry)

    world = World(10_000, 1 << 20, 4)
    fmt = Counting(Framing("ws", EPOCH))
    readers = [
        Reader(world.window, Selection("run/a"), fmt, lambda scope: True, Cursor(1)) for _ in range(20)
    ]
    world.publish([(0, 0, 0, 3), (0, 0, 0, 0)])
    assert len({tuple(reader.take()) for reader in readers}) == 1
    assert encoded == [1, 2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), min_size=1, max_size=30), max_size=12
    ),
    st.sampled_from([1, 66, 80, 10_000]),
    st.sampled_from([1, 900, 3000, 1 << 20]),
)
def test_the_window_is_bounded_and_whole_from_its_start(
    batches: list[list[tuple[int, int]]], max_entries: int, max_bytes: int
) -> None:
    window, all_of_them = Window(1, max_entries=max_entries, max_bytes=max_bytes), list[Entry]()
    for batch in batches:
        base = len(all_of_them) + 1
        made = [Entry(base + n, STREAMS[s], "", "t", 0, "", b" " * size) for n, (s, size) in enumerate(batch)]
        all_of_them += made
        window.extend(made)
        kept = [one for one in all_of_them if one.offset >= window.start]
        assert window.head == len(all_of_them) + 1
        assert window.since(None, window.start, 1 << 20) == kept
        for stream in STREAMS:
            assert window.since(stream, window.start, 1 << 20) == [
                one for one in kept if one.stream == stream
            ]
        assert len(kept) <= max_entries
        assert sum(one.size for one in kept) <= max_bytes
        if len(all_of_them) < max_entries - 64 and sum(one.size for one in all_of_them) <= max_bytes:
            assert kept == all_of_them, "nothing is forgotten without need"


def test_the_window_does_not_claim_what_it_was_never_given() -> None:
    """Offsets 2 and 3 were committed by another server: they are on disk, and not here."""
    window = Window(1)
    window.extend([entry(1, "run/a", "s1", "t", SCOPES[0], keys("s1"))])
    window.extend([entry(4, "run/a", "s1", "t", SCOPES[0], keys("s1"))])
    here = {one.offset for one in window.since(None, window.start, 100)}
    assert here == set(range(window.start, window.head)), "every entry from start up to head is here"


@pytest.mark.parametrize(
    "text",
    ["", "x", "0a1b2c3d", "0a1b2c3d.1", "0a1b2c3d.1.2.3", "0a1b2c3d.-1.0", "0A1B2C3D.1.0", f"{EPOCH}.1.0\n"],
)
def test_garbage_is_no_cursor(text: str) -> None:
    with pytest.raises(CursorInvalid):
        Cursor.parse(text, EPOCH)


def test_a_cursor_of_another_epoch_has_expired() -> None:
    with pytest.raises(CursorExpired):
        Cursor.parse("ffffffff.1.0", EPOCH)


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**9 - 1))
def test_cursors_survive_their_text(offset: int, k: int) -> None:
    assert Cursor.parse(Cursor(offset, k).text(EPOCH), EPOCH) == Cursor(offset, k)
