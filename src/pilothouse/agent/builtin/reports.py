"""`reports/junit` and `reports/dotenv` (docs/artifacts.md)."""

from __future__ import annotations

from pilothouse.agent.builtin.artifacts import no_files
from pilothouse.agent.builtin.base import ActionFailed, Arguments, Voice
from pilothouse.agent.builtin.workfiles import Workfiles
from pilothouse.agent.executors.base import StepTask

SHOWN = 20
"""Failing tests in the log."""


class ReportActions:
    """Reads reports in the workspace."""

    def __init__(self, workfiles: Workfiles) -> None:
        self._workfiles = workfiles

    async def junit(self, task: StepTask, voice: Voice) -> None:
        """`reports/junit`."""
        args = Arguments(task)
        patterns = args.lines("path")
        found = await self._workfiles.read(task, "junit", patterns, args.flag("includeHidden"))
        report = found["report"]
        for note in (*found["notes"], *report["problems"]):
            voice.warn(note)
        if no_files(found["files"], args, patterns, voice):
            return
        voice.tests(args.text("name", task.step_name), report)
        counts = {key: report[key] for key in ("tests", "passed", "failed", "errors", "skipped")}
        counts["flaky"] = len(report["flaky"])
        voice.say(", ".join(f"{count} {name}" for name, count in counts.items()))
        for test in report["failing"][:SHOWN]:
            where = test["class"] or test["suite"]
            voice.say(f"{test['kind']}: {where}{' ' * bool(where)}{test['name']}: {test['message']}")
        for name, count in counts.items():
            voice.output(name, count)
        if not found["read"]:
            raise ActionFailed(f"none of the {found['files']} files is a report that can be read")
        bad = report["failed"] + report["errors"]
        if bad and args.flag("failOnFailure"):
            raise ActionFailed(f"{bad} tests failed")

    async def dotenv(self, task: StepTask, voice: Voice) -> None:
        """`reports/dotenv`."""
        args = Arguments(task)
        patterns = args.lines("path")
        found = await self._workfiles.read(task, "dotenv", patterns, True)
        for note in found["notes"]:
            voice.warn(note)
        if no_files(found["files"], args, patterns, voice):
            return
        for name, value in found["variables"].items():
            voice.output(name, value)
        voice.say(f"outputs: {', '.join(found['variables'])}")
