"""Selects the executor of a step; contains `scm/checkout`, for which the workspace is already laid out."""

from __future__ import annotations

import asyncio
import time

from pilothouse.agent.builtin.artifacts import ArtifactActions
from pilothouse.agent.builtin.base import Builtin
from pilothouse.agent.builtin.http_request import http_request
from pilothouse.agent.builtin.reports import ReportActions
from pilothouse.agent.errors import StepImpossible
from pilothouse.agent.executors.base import Executor, Outcome, StepReporter, StepTask
from pilothouse.agent.executors.dummy import DummyExecutor
from pilothouse.agent.executors.process import ProcessExecutor
from pilothouse.wire.agent.v1 import agent_pb2 as pb


class CheckoutNote:
    """`scm/checkout` of a run with an uploaded checkout: the workspace already contains it, so it is only logged."""

    def __init__(self, checkout: pb.Checkout) -> None:
        self._checkout = checkout

    async def run(self, task: StepTask, report: StepReporter, cancel: asyncio.Event) -> Outcome:
        checkout = self._checkout
        line = f"in place: the uploaded checkout sha256:{checkout.sha256} ({checkout.size} bytes)"
        report.lines("stdout", [line], time.time_ns() // 1_000_000)
        return Outcome("succeeded", 0)


class ProcessActions:
    """The actions of an agent of platform `process`."""

    def __init__(self, process: ProcessExecutor, artifacts: ArtifactActions, reports: ReportActions) -> None:
        self._process = process
        self._dummy = DummyExecutor()
        self._builtin = {
            "artifacts/upload": Builtin(artifacts.upload),
            "artifacts/download": Builtin(artifacts.download),
            "reports/junit": Builtin(reports.junit),
            "reports/dotenv": Builtin(reports.dotenv),
            "http/request": Builtin(http_request),
        }

    def executor_for(self, message: pb.StepRun) -> Executor:
        """Raises StepImpossible."""
        action = f"{message.uses}/{message.action}" if message.action else message.uses
        if action.startswith("shell/"):
            return self._process
        if action == "dummy" or action.startswith("dummy/"):
            return self._dummy
        if action in self._builtin:
            return self._builtin[action]
        if action == "scm/checkout":
            if message.HasField("checkout"):
                return CheckoutNote(message.checkout)
            raise StepImpossible(
                "scm/checkout: this release checks out only what `pilot pipeline run` uploads"
            )
        raise StepImpossible(f"this agent cannot carry out {action or 'a step without an action'}")
