"""Processes the output of one step: decodes it, executes commands, masks secrets and splits lines, in that order.

Commands are parsed before masking, since a `::mask` value may contain another secret; their values are masked before
they are reported. Lines are cut after masking, since a cut could expose half of a secret.

All steps of an agent share one event loop, so output is processed in small slices (`take`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any

from pilothouse.agent.commands import (
    AddMask,
    Command,
    CommandScanner,
    Malformed,
    SetOutput,
    SetProgress,
    Unread,
    parse,
)
from pilothouse.agent.executors.base import StepReporter, StepTask, Stream
from pilothouse.agent.lines import MAX_LINE_BYTES, LineAssembler, TextDecoder
from pilothouse.wire import outputs
from pilothouse.wire.masking import MIN_LENGTH, Masker

NOTE_PREFIX = "pilot: "
SHOW_AFTER = 1.0  # seconds after which an incomplete line is shown
SLICE, MIN_SLICE = 4 << 10, 512  # bytes processed at once; adapted so that a slice takes at most TURN
TURN = 0.003  # seconds of processing before yielding to the event loop

MAX_MASKED = 2000  # values of an attempt
MAX_MASK_CHARS = 64 << 10  # of one value
MAX_MASKS_CHARS = 256 << 10  # of all values that the step itself names

Work = Generator[Callable[[], Any] | None, Any, None]
"""Pauses where others may have their turn; what it yields is to be called, in a thread, and the result sent back."""


class _StreamState:
    """Output of one stream that was read but not reported yet."""

    def __init__(self, masker: Masker, max_line: int) -> None:
        self.decoder = TextDecoder()
        self.scanner = CommandScanner()
        self.masker = masker
        self.assembler = LineAssembler(max_line)
        self.waited: float | None = None  # seconds spent waiting for the rest of an incomplete line
        self.unshown_at = 0.0  # when the current wait began


class StepOutput:
    """Reports the stdout and stderr of a step, for any executor that reads them as bytes.

    `refused` is set when the step must be ended, for the reason `refusal`; its further output is not shown.
    """

    def __init__(self, task: StepTask, report: StepReporter, max_line: int = MAX_LINE_BYTES) -> None:
        self._report = report
        self._masker = Masker((*task.mask, *task.secrets.values()))
        self._mask_chars = 0
        self._slice = MIN_SLICE
        self._outputs: dict[str, int] = {}  # bytes by name
        self.refused = asyncio.Event()
        self.refusal = ""
        self._states: dict[Stream, _StreamState] = {
            "stdout": _StreamState(self._masker.sibling(), max_line),
            "stderr": _StreamState(self._masker.sibling(), max_line),
        }
        for name, value in task.secrets.items():
            if value.strip() and len(value.strip()) < MIN_LENGTH:
                self._write_note(f"secret {name} has fewer than {MIN_LENGTH} characters and is not masked")

    async def take(self, stream: Stream, data: bytes) -> None:
        """Process bytes as they were read. Calls for one stream must not overlap."""
        start, turn_ends = 0, time.monotonic() + TURN
        while start < len(data):
            piece, answer = data[start : start + self._slice], None
            work = self._work(stream, piece)
            start += len(piece)
            longest, over = 0.0, False
            while not over:
                began = time.thread_time()
                try:
                    task = work.send(answer)
                except StopIteration:
                    task, over = None, True
                longest = max(longest, time.thread_time() - began)
                answer = None if task is None else await asyncio.to_thread(task)
                if time.monotonic() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.monotonic() + TURN
            self._measure(longest)

    def feed(self, stream: Stream, data: bytes) -> None:
        """Like :meth:`take`, but without yielding to the event loop."""
        _at_once(self._work(stream, data))

    def finish(self, stream: Stream) -> None:
        """End of the stream: report the output that was held back."""
        _at_once(self._work(stream, b"", final=True))

    async def until(self, stream: Stream, readable: asyncio.Event) -> None:
        """Wait for more to read; show an incomplete line after SHOW_AFTER seconds.

        Only time spent here counts: while reading is paused, the rest of the line may already be in the pipe.
        """
        state = self._states[stream]
        if state.waited is not None:
            began = time.monotonic()
            try:
                await asyncio.wait_for(readable.wait(), max(0.0, SHOW_AFTER - state.waited))
            except TimeoutError:
                self.show_unfinished(stream)
            else:
                if state.waited is not None:  # else the line has ended meanwhile
                    state.waited += time.monotonic() - began
        await readable.wait()

    def show_unfinished(self, stream: Stream) -> None:
        """Show an incomplete line."""
        state = self._states[stream]
        state.waited = None
        if not self.refused.is_set():
            self._show(stream, state.assembler.show())

    def note(self, text: str) -> None:
        """Add a message of the agent to the log of the step."""
        self._write_note(self.mask(text))

    def mask(self, text: str) -> str:
        return self._masker.mask(text)

    def set_output(self, name: str, text: str) -> None:
        """Set an output from JSON text; if it is invalid, log a warning."""
        try:
            command = SetOutput(name, outputs.read_json(text), len(text))
        except outputs.OutputRefused as refused:
            self.note(f"warning: output {name} dropped: {refused}")
        else:
            _at_once(self._set_output(command))

    def _measure(self, seconds: float) -> None:
        """Adapt the slice size: the longest part of the last slice took so many seconds."""
        if seconds > TURN:
            self._slice = max(MIN_SLICE, self._slice // 2)
        elif seconds < TURN / 4 and self._slice < SLICE:
            self._slice = min(SLICE, self._slice + 256)

    # -- the work ---------------------------------------------------------------------------------------

    def _work(self, stream: Stream, data: bytes, final: bool = False) -> Work:
        yield from self._masker.settle()
        if self.refused.is_set():
            return
        state = self._states[stream]
        text = state.decoder.feed(data, final)
        parts: list[str | Command] = [text] if stream == "stderr" else state.scanner.feed(text)
        for part in parts if not final else [*parts, *state.scanner.flush()]:
            if isinstance(part, str):
                yield from self._masker.settle()
                self._show(stream, state.assembler.feed(state.masker.feed(part)))
            else:
                yield from self._execute(part)
            if self.refused.is_set():
                return
            yield None
        if final:
            shown = state.assembler.feed(state.masker.flush())
            self._show(stream, shown + state.assembler.flush())
        self._watch(stream, state)

    def _watch(self, stream: Stream, state: _StreamState) -> None:
        """Check whether an incomplete line is waiting to be shown."""
        if not state.assembler.unshown:
            state.waited = None
            return
        if state.waited is None:
            state.waited, state.unshown_at = 0.0, time.monotonic()
        if state.assembler.rewritten and time.monotonic() > state.unshown_at + 2 * SHOW_AFTER:
            self.show_unfinished(stream)  # it is rewritten so fast that there is always more to read

    def _execute(self, command: Command) -> Work:
        match command:
            case Unread(line):
                read = yield lambda: parse(line)
                yield from self._execute(read)
            case SetOutput():
                yield from self._set_output(command)
            case SetProgress(percent, message):
                self._report.progress(percent, self.mask(message))
            case AddMask(value):
                self._add_mask(value)
            case Malformed(reason):
                self.note(f"warning: {reason}")

    def _add_mask(self, value: str) -> None:
        if len(value.strip()) < MIN_LENGTH:
            self._write_note(f"::mask: a value of fewer than {MIN_LENGTH} characters is not masked")
        elif self._masker.knows(value):
            return
        elif self._masker.count >= MAX_MASKED:
            self._refuse(f"::mask: an attempt has at most {MAX_MASKED} masked values")
        elif len(value) > MAX_MASK_CHARS:
            self._refuse(f"::mask: a value has at most {MAX_MASK_CHARS} characters")
        elif self._mask_chars + len(value) > MAX_MASKS_CHARS:
            self._refuse(
                f"::mask: the values of an attempt have at most {MAX_MASKS_CHARS} characters together"
            )
        else:
            self._mask_chars += len(value)
            self._masker.add(value)

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._write_note(f"error: {reason}; the step is ended, and its further output is not shown")
        self.refused.set()

    def _set_output(self, command: SetOutput) -> Work:
        name = command.name
        if self.mask(name) != name:
            self.note("warning: an output whose name contains a secret is dropped")
            return
        value = yield from self._masker.mask_steps(command.value)
        size = len(name) + len(outputs.write_json(value).encode()) + 4  # with its quotes, colon and comma
        sizes = {**self._outputs, name: size}
        if len(sizes) > outputs.MAX_COUNT:
            self.note(f"warning: output {name} dropped: a step has at most {outputs.MAX_COUNT} outputs")
        elif sum(sizes.values()) + 1 > outputs.MAX_BYTES:
            self.note(
                f"warning: output {name} dropped: the outputs of a step have at most {outputs.MAX_BYTES} bytes"
            )
        else:
            self._outputs = sizes
            if value != command.value:
                self.note(f"warning: output {name} contains a masked value and is stored masked")
            self._report.output(name, value)

    def _write_note(self, text: str) -> None:
        self._show("stderr", [NOTE_PREFIX + text])

    def _show(self, stream: Stream, lines: list[str]) -> None:
        if lines:
            self._report.lines(stream, lines, time.time_ns() // 1_000_000)


def _at_once(work: Work) -> None:
    answer = None
    while True:
        try:
            task = work.send(answer)
        except StopIteration:
            return
        answer = task() if task is not None else None
