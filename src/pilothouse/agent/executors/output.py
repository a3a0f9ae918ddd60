"""What one step writes, on its way to the reporter: decoded, obeyed, masked, cut into lines, in that order.

Commands are read before masking, else `::mask` could not name what contains another secret; what they carry
is masked before it is reported. Lines are cut after masking, else a cut could leave half a secret.
"""

from __future__ import annotations

import time
from typing import Any

from pilothouse.agent.commands import (
    MAX_OUTPUT_BYTES,
    AddMask,
    Command,
    CommandScanner,
    Malformed,
    SetOutput,
    SetProgress,
)
from pilothouse.agent.executors.base import StepReporter, StepTask, Stream
from pilothouse.agent.lines import MAX_LINE_BYTES, LineAssembler, TextDecoder
from pilothouse.wire.masking import MIN_LENGTH, Masker

NOTE_PREFIX = "pilot: "


class _Channel:
    def __init__(self, masker: Masker, max_line: int) -> None:
        self.decoder = TextDecoder()
        self.scanner = CommandScanner()
        self.masker = masker
        self.assembler = LineAssembler(max_line)


class StepOutput:
    """Serves every executor that has bytes of a step's stdout and stderr to report."""

    def __init__(self, task: StepTask, report: StepReporter, max_line: int = MAX_LINE_BYTES) -> None:
        self._report = report
        self._masker = Masker(task.mask)
        self._budget = MAX_OUTPUT_BYTES
        for name, value in task.secrets.items():
            if not self._masker.add(value) and value.strip():
                self.note(f"secret {name} has fewer than {MIN_LENGTH} characters and is not masked")
        self._channels: dict[Stream, _Channel] = {
            "stdout": _Channel(self._masker.sibling(), max_line),
            "stderr": _Channel(self._masker.sibling(), max_line),
        }

    def feed(self, stream: Stream, data: bytes) -> None:
        """Bytes as they were read."""
        self._take(stream, self._channels[stream].decoder.feed(data))

    def finish(self, stream: Stream) -> None:
        """The stream has ended: report what was held back."""
        channel = self._channels[stream]
        self._take(stream, channel.decoder.feed(b"", final=True))
        for part in channel.scanner.flush():
            self._handle(stream, part)
        self._show(stream, channel.assembler.feed(channel.masker.flush()) + channel.assembler.flush())

    def note(self, text: str) -> None:
        """A remark of the agent's own among the lines of the step."""
        self._show("stderr", [NOTE_PREFIX + self.mask(text)])

    def mask(self, text: str) -> str:
        return self._masker.mask(text)

    def mask_value(self, value: Any) -> Any:
        return self._masker.mask_value(value)

    def _take(self, stream: Stream, text: str) -> None:
        if stream == "stderr":
            self._handle(stream, text)
            return
        for part in self._channels[stream].scanner.feed(text):
            self._handle(stream, part)

    def _handle(self, stream: Stream, part: str | Command) -> None:
        if isinstance(part, str):
            channel = self._channels[stream]
            self._show(stream, channel.assembler.feed(channel.masker.feed(part)))
        else:
            self._obey(part)

    def _obey(self, command: Command) -> None:
        match command:
            case SetOutput():
                self._set_output(command)
            case SetProgress(percent, message):
                self._report.progress(percent, self.mask(message))
            case AddMask(value):
                if not self._masker.add(value):
                    self.note(f"::mask: a value of fewer than {MIN_LENGTH} characters is not masked")
            case Malformed(reason):
                self.note(f"warning: {reason}")

    def _set_output(self, command: SetOutput) -> None:
        if self.mask(command.name) != command.name:
            self.note("warning: an output whose name contains a secret is dropped")
        elif command.size > self._budget:
            self.note(f"warning: output {command.name} dropped: the step is over {MAX_OUTPUT_BYTES} bytes")
        else:
            self._budget -= command.size
            self._report.output(command.name, self.mask_value(command.value))

    def _show(self, stream: Stream, lines: list[str]) -> None:
        if lines:
            self._report.lines(stream, lines, time.time_ns() // 1_000_000)
