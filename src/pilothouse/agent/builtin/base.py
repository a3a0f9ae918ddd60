"""What built-in actions have in common: how they run, read their arguments, and speak."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pilothouse.agent.executors.base import Outcome, StepReporter, StepTask, race
from pilothouse.agent.executors.output import StepOutput


class ActionFailed(Exception):
    """The step fails with this message, which is masked before it is shown."""

    code = "ACTION_FAILED"


class Voice:
    """The log, outputs, progress and reports of one step; everything is masked."""

    def __init__(self, output: StepOutput, report: StepReporter) -> None:
        self._output, self._report = output, report

    def say(self, text: str) -> None:
        """One line of the log. It is not read as a command, whatever it begins with."""
        line = self._output.mask(text).replace("\n", " ")
        self._report.lines("stdout", [line], time.time_ns() // 1_000_000)

    def warn(self, text: str) -> None:
        """A warning in the log."""
        self._output.note(f"warning: {text}".replace("\n", " "))

    def output(self, name: str, value: Any) -> None:
        """An output of the step: a JSON value."""
        self._output.set_output(name, json.dumps(value))

    def progress(self, percent: int, message: str) -> None:
        """Progress in percent."""
        self._report.progress(max(0, min(100, percent)), self._output.mask(message))

    def tests(self, name: str, report: Mapping[str, Any]) -> None:
        """A report of tests (``wire/test_reports.py``); the server masks it."""
        self._report.tests(name, report)


Perform = Callable[[StepTask, Voice], Awaitable[None]]


class Builtin:
    """An executor that awaits a function, within the step's timeout and until it is cancelled."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform

    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        """See ``Executor``."""
        if cancel.is_set():
            return Outcome("cancelled", 143, "cancelled before it started")
        output = StepOutput(task, report)
        work = asyncio.ensure_future(self._perform(task, Voice(output, report)))
        try:
            ending = await race(work, cancel, task.timeout)
        finally:
            work.cancel()
            await asyncio.wait({work})
        if ending == "cancelled":
            return Outcome("cancelled", 143, "cancelled")
        if ending == "timed_out":
            return Outcome("timed_out", 143, f"timed out after {task.timeout:g} s")
        try:
            work.result()
        except ActionFailed as failed:
            return Outcome("failed", 1, output.mask(str(failed)))
        return Outcome("succeeded", 0)


class Arguments:
    """The arguments of a step. Each method raises ActionFailed for a wrong value."""

    def __init__(self, task: StepTask) -> None:
        self._args, self._action = task.args, task.full_action

    def text(self, name: str, default: str | None = None) -> str:
        """A text; required without a default."""
        value = self._args.get(name)
        if value is None or value == "":
            if default is None:
                raise ActionFailed(f"{self._action} needs args.{name}")
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise ActionFailed(f"args.{name} must be a text")
        return value

    def lines(self, name: str) -> list[str]:
        """A list of texts, or the lines of a text; not empty."""
        value = self._args.get(name)
        texts = value.split("\n") if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ActionFailed(f"args.{name} must be a text or a list of texts")
        found = [text.strip() for text in texts if text.strip()]
        if not found:
            raise ActionFailed(f"{self._action} needs args.{name}")
        return found

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; also as text, as expressions give it."""
        value = self._args.get(name, default)
        if value in ("true", "false"):
            return bool(value == "true")
        if not isinstance(value, bool):
            raise ActionFailed(f"args.{name} must be true or false")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within bounds."""
        value = self._args.get(name, default)
        try:
            number = float(value) if not isinstance(value, bool) else least - 1
        except (TypeError, ValueError):
            number = least - 1
        if not least <= number <= most:
            raise ActionFailed(f"args.{name} must be a number from {least:g} to {most:g}")
        return number

    def choice(self, name: str, options: tuple[str, ...]) -> str:
        """One of these; the first one is the default."""
        value = self.text(name, options[0])
        if value not in options:
            raise ActionFailed(f"args.{name} must be one of {', '.join(options)}")
        return value
