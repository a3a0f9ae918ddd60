"""What one step writes: commands, outputs, masks, lines that do not end, and how it is worked on in slices."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.agent.executors import output as module
from pilothouse.agent.executors.base import StepTask, Stream
from pilothouse.agent.executors.output import MAX_MASK_CHARS, MAX_MASKED, MIN_SLICE, SLICE, TURN, StepOutput
from pilothouse.agent.lines import TextDecoder
from support.waiting import eventually


@dataclass
class Recorder:
    seen: list[tuple[Stream, str]] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        self.seen += [(stream, text) for text in texts]

    def output(self, name: str, value: Any) -> None:
        self.told.append((name, value))

    def progress(self, percent: int, message: str) -> None:
        self.told.append((percent, message))

    async def drain(self) -> None:
        """Never full."""

    def of(self, stream: Stream) -> list[str]:
        return [text for where, text in self.seen if where == stream]


def task(*mask: str, **secrets: str) -> StepTask:
    return StepTask("s", "r", "j", "j", "s", "shell", "script", {}, {}, secrets, mask, Path("/"), None, 1)


QUOTED = 'it\\\'s a "quoted" one'


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


# -- lines that do not end --------------------------------------------------------------------------------


async def test_an_unfinished_line_is_shown_when_more_was_awaited_for_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHOW_AFTER", 0.05)
    report, readable = Recorder(), asyncio.Event()
    output = StepOutput(task(), report)
    output.feed("stdout", b"whole\nPassword: ")
    output.feed("stdout", b"really? ")
    await asyncio.sleep(0.1)
    assert report.of("stdout") == ["whole"], "nobody has waited for more yet"
    waiting = asyncio.ensure_future(output.until("stdout", readable))
    await eventually(lambda: report.of("stdout") == ["whole", "Password: really? "])
    await asyncio.sleep(0.1)
    assert not waiting.done()
    readable.set()
    await waiting
    output.feed("stdout", b"\nnext\n")
    output.finish("stdout")
    assert report.of("stdout") == ["whole", "Password: really? ", "next"], "its end is no further line"


async def test_dots_that_come_again_and_again_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No single wait is long enough."""
    monkeypatch.setattr(module, "SHOW_AFTER", 0.2)
    report = Recorder()
    output = StepOutput(task(), report)
    dots = 0
    while not report.seen and dots < 1000:
        dots += 1
        output.feed("stdout", b".")
        readable = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, readable.set)
        await output.until("stdout", readable)
    assert 1 < dots < 1000
    assert report.of("stdout") == ["." * dots]


def test_what_may_be_a_secret_or_a_command_waits_longer() -> None:
    report = Recorder()
    output = StepOutput(task("hunter2"), report)
    output.feed("stdout", b"it is hunt")
    output.show_unfinished("stdout")
    output.show_unfinished("stdout")
    assert report.of("stdout") == ["it is "]
    output.feed("stdout", b"er2!")
    output.show_unfinished("stdout")
    output.feed("stdout", b"\n::mask val")
    output.show_unfinished("stdout")
    output.feed("stdout", b"ue\nvalue\n")
    assert report.of("stdout") == ["it is ", "***!", "***"]


def test_a_bar_that_leaves_no_moment_to_show_it_is_shown_all_the_same(clock: Clock) -> None:
    report = Recorder()
    output = StepOutput(task(), report)
    for percent in range(100):
        output.feed("stdout", b"\r%d%%" % percent)
        clock.now += 0.1
    output.finish("stdout")
    assert 4 <= len(report.seen) <= 7
    assert report.of("stdout")[-1] == "99%"


pieces = st.lists(
    st.sampled_from(
        ["hunter2", "hunt", "er2", "a", " ", "\n", "\r", "\r\n", "aHVudGVyMg==", "\x1b[K", "ter2", "::", "é"]
    ),
    max_size=12,
)


@settings(deadline=None)
@given(
    text=pieces.map("".join),
    cuts=st.lists(st.integers(0, 60), max_size=12),
    shown=st.sets(st.integers(0, 12)),
)
def test_no_secret_and_all_text_whatever_the_cut_and_the_time(
    text: str, cuts: list[int], shown: set[int]
) -> None:
    data = text.encode()
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    report, whole = Recorder(), Recorder()
    output, once = StepOutput(task("hunter2"), report), StepOutput(task("hunter2"), whole)
    for index, (start, end) in enumerate(pairwise(edges)):
        output.feed("stdout", data[start:end])
        if index in shown:
            output.show_unfinished("stdout")
    output.finish("stdout")
    once.feed("stdout", data)
    once.finish("stdout")
    lines, expected = report.of("stdout"), whole.of("stdout")
    # Where the text itself has half of it at the end of a line, the halves are no secret.
    apart = any(part.endswith("hunt") for part in re.split(r"[\r\n]|\x1b\[K", text)[:-1])
    for joint in ("\n",) if apart else ("", "\n"):
        assert "hunter2" not in joint.join(lines)
        assert "aHVudGVyMg" not in joint.join(lines)
    if not re.search("\r(?!\n)", text):
        assert "".join(lines) == "".join(expected), "the same text, in more lines"
        assert len(lines) >= len(expected)
    if not shown:
        assert lines == expected


# -- outputs ----------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_taken_costs_one_line_and_no_step() -> None:
    report = Recorder()
    output = StepOutput(task(), report)
    deep = "[" * 1000 + "]" * 1000
    for value in (
        deep,
        "1e400",
        "18446744073709551616",
        "NaN",
        '"\\ud800"',
        '{"a":1,"a":2}',
        "x",
        "[" * 100_000,
    ):
        output.feed("stdout", f"::output-json bad={value}\n".encode())
    output.feed("stdout", b"::output-json n=18446744073709551615\n::output-json f=0.1\nstill here\n")
    assert report.told == [("n", 18446744073709551615), ("f", 0.1)]
    assert report.of("stdout") == ["still here"]
    notes = report.of("stderr")
    assert len(notes) == 8
    assert all(note.startswith("pilot: warning: ::output-json bad: ") for note in notes)
    assert len(set(notes)) == 7


def test_outputs_are_bounded_as_they_are_stored() -> None:
    """A control character takes six characters in JSON; what is set again is counted once."""
    report = Recorder()
    output = StepOutput(task(), report)
    output.feed("stdout", b"::output a=" + b"\x01" * 170_000 + b"\n")
    output.feed("stdout", b"::output b=" + b"\x01" * 10_000 + b"\n")
    output.feed("stdout", b"::output a=x\n::output b=" + b"\x01" * 10_000 + b"\n")
    assert [name for name, _ in report.told] == ["a", "a", "b"]
    assert report.of("stderr") == [
        "pilot: warning: output b dropped: the outputs of a step have at most 1048576 bytes"
    ]
    output.feed("stdout", b"".join(b"::output n%d=1\n" % n for n in range(1000)))
    assert len(report.told) == 3 + 998
    assert report.of("stderr")[-1] == "pilot: warning: output n999 dropped: a step has at most 1000 outputs"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("::output x=a hunter2", "a ***"),
        ('::output-json x={"k": ["hunt\\u0065r2"]}', {"k": ["***"]}),
        ('::output-json x={"hunter2": 1}', {"***": 1}),
        ("::output-json x=[12345678]", ["***"]),
        ("::output-json x=" + json.dumps([QUOTED]), ["***"]),
    ],
)
def test_an_output_with_a_secret_is_masked_and_reported(line: str, value: Any) -> None:
    report = Recorder()
    output = StepOutput(task("hunter2", "12345678", QUOTED), report)
    output.feed("stdout", line.encode() + b"\n::output y=plain\n")
    assert report.told == [("x", value), ("y", "plain")]
    assert report.of("stderr") == ["pilot: warning: output x contains a masked value and is stored masked"]


# -- bounds of masks --------------------------------------------------------------------------------------


def test_one_mask_too_many_ends_the_step_and_hides_the_rest() -> None:
    report = Recorder()
    output = StepOutput(task("one value", TOKEN="two value"), report)
    for _ in range(2):  # a value that is known is not one more
        output.feed("stdout", b"".join(b"::mask value-%04d\n" % n for n in range(MAX_MASKED - 2)))
    output.feed("stdout", b"shown value-0000 value-1997\n")
    assert not output.refused.is_set()
    output.feed("stdout", b"before\n::mask the-last-straw\nthe-last-straw\n")
    output.feed("stderr", b"the-last-straw\n")
    output.finish("stdout")
    output.finish("stderr")
    assert output.refused.is_set()
    assert output.refusal == "::mask: an attempt has at most 2000 masked values"
    assert report.of("stdout") == ["shown *** ***", "before"]
    assert report.of("stderr") == [
        "pilot: error: ::mask: an attempt has at most 2000 masked values; the step is ended, "
        "and its further output is not shown"
    ]


@pytest.mark.parametrize(("size", "taken"), [(MAX_MASK_CHARS + 1, 0), (MAX_MASK_CHARS, 4)])
def test_masks_that_are_too_large_end_the_step(size: int, taken: int) -> None:
    report = Recorder()
    output = StepOutput(task(), report)
    for n in range(taken + 1):
        assert not output.refused.is_set()
        output.feed("stdout", f"::mask {n}{'-' * (size - 1)}\n".encode())
    assert output.refused.is_set()
    assert re.search("at most [0-9]+ characters", output.refusal)


# -- fairness ---------------------------------------------------------------------------------------------


class Paced(Clock):
    """Each byte of output takes so many seconds, from a number of bytes on as many as `later`; else nothing does."""

    def __init__(self, per_byte: float, later: float, change: int) -> None:
        self.per_byte, self.later, self.change = per_byte, later, change
        self.slices: list[int] = []

    def work(self, size: int) -> None:
        self.now += size * (self.per_byte if sum(self.slices) < self.change else self.later)
        self.slices.append(size)

    def thread_time(self) -> float:
        return self.now


async def paced(monkeypatch: pytest.MonkeyPatch, clock: Paced) -> list[float]:
    """Work on a megabyte of output beside a neighbour; how long it waited between two of its turns."""

    class Decoder(TextDecoder):
        def feed(self, data: bytes, final: bool = False) -> str:
            clock.work(len(data))
            return super().feed(data, final)

    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "TextDecoder", Decoder)
    turns, done = [clock.now], asyncio.Event()

    async def neighbour() -> None:
        while not done.is_set():
            turns.append(clock.now)
            await asyncio.sleep(0)

    output = StepOutput(task(), Recorder())
    beside = asyncio.ensure_future(neighbour())
    await output.take("stdout", b"a line of output\n" * 60_000)
    done.set()
    await beside
    return [later - earlier for earlier, later in pairwise([*turns, clock.now])]


@pytest.mark.parametrize("per_byte", [1e-8, 1e-6, 2e-5])
async def test_others_have_their_turn_after_every_few_milliseconds(
    per_byte: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds are counted, not measured: what is tried is when the work pauses, and how large slices become."""
    clock = Paced(per_byte, per_byte, 0)
    assert max(await paced(monkeypatch, clock)) <= 2 * TURN + MIN_SLICE * per_byte
    assert max(clock.slices) == SLICE or max(clock.slices) * per_byte > TURN / 4, "no smaller than need be"


async def test_slices_become_small_again_at_once_when_they_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    dear = 2e-5
    clock = Paced(1e-8, dear, 500_000)
    waits = await paced(monkeypatch, clock)
    assert max(clock.slices) == SLICE
    assert max(waits) <= TURN + SLICE * dear
    assert sum(wait > 2 * TURN + MIN_SLICE * dear for wait in waits) <= SLICE // MIN_SLICE


class Meter(Clock):
    """Whatever is done seems to take no time, so slices become as large as they can; notes what it really takes."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def thread_time(self) -> float:
        self.seen.append(time.thread_time())
        return 0.0


@pytest.fixture
def no_collections() -> Iterator[None]:
    """A garbage collection looks at everything that the tests before have left, in the midst of some step."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "data",
    [
        b"".join(b"::mask value-%04d with some more to it\n" % n for n in range(12_000)),
        b"a" * 100_000,
        b"aaaaaaab" * 25_000,
        b"::output-json x=[" + b'"hunter2",' * 40_000 + b"1]\n",
        b"::output-json x=[" + b"1e1," * 100_000 + b"1]\n",
        b"\r" * 200_000,
        b"\r\x1b[K1" * 50_000,
        b"\n" * 200_000,
    ],
    ids=["masks", "nested", "nearly nested", "masked output", "numbers", "returns", "bar", "empty lines"],
)
async def test_no_step_of_the_work_is_long(
    data: bytes, no_collections: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None takes a considerable part of the whole, however much there is.

    All runs do the same steps. Of each the shortest of several runs counts: what else the machine does then does
    not hit the same step every time.
    """
    nested = ["a" * length for length in range(4, 300)]
    again = Recorder()
    StepOutput(task("hunter2", *nested), again).feed("stdout", data)
    runs: list[list[float]] = []
    for _ in range(3):
        meter, report = Meter(), Recorder()
        monkeypatch.setattr(module, "time", meter)
        output = StepOutput(task("hunter2", *nested), report)
        for start in range(0, len(data), 1 << 16):
            await output.take("stdout", data[start : start + (1 << 16)])
        assert report == again, "the same as in one go"
        runs.append([later - earlier for earlier, later in pairwise(meter.seen)])
    steps = [min(each) for each in zip(*runs, strict=True)]
    assert max(steps) < sum(steps) / 8
