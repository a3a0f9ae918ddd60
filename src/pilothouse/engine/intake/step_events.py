"""Events that agents push about their steps: progress, outputs, artifacts, reports, and custom events."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson

from pilothouse.engine import store
from pilothouse.engine.artifacts.model import MAX_FILE_NAME, MAX_LINK
from pilothouse.engine.artifacts.service import Announced, Artifacts
from pilothouse.engine.intake.events import ARTIFACT, OUTPUT, PROGRESS, REPORT, StepEvent
from pilothouse.engine.reports.service import TestReports
from pilothouse.engine.runs import Place, RunCache
from pilothouse.engine.transitions import Transitions
from pilothouse.journal import Journal
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.outputs import MAX_BYTES, MAX_COUNT

_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
MAX_MESSAGE = 1000


class StepEvents:
    """Applies events that change a step; journals all others unchanged."""

    def __init__(
        self, journal: Journal, runs: RunCache, transitions: Transitions, artifacts: Artifacts
    ) -> None:
        self._journal = journal
        self._runs = runs
        self._transitions = transitions
        self._artifacts = artifacts
        self._reports = TestReports(transitions)

    def take(self, tx: Tx, agent_id: str, event: StepEvent) -> str:
        """Apply or journal an event returned by `read_event`; returns the reason for refusal (empty if accepted)."""
        payload = event.payload
        at = None
        if event.step_run_id:
            at = self._runs.place(tx, event.step_run_id, changes=event.type == OUTPUT)
        if at is not None and event.type == OUTPUT:
            return self._output(tx, at, payload)
        if at is not None and event.type == REPORT:
            return self._reports.take(tx, at, payload["name"], payload["report"])
        if at is not None and event.type == ARTIFACT:
            return self._artifact(tx, at, payload)
        if at is not None and event.type == PROGRESS:
            self._progress(tx, at, payload)
        else:
            self._journal_it(tx, agent_id, at, event, payload)
        return ""

    def _progress(self, tx: Tx, at: Place, payload: dict[str, Any]) -> None:
        if at.step.current != at.attempt.id or at.attempt.status.over:
            return  # a word of an attempt that no longer counts
        percent = payload.get("percent", payload.get("progress", 0))
        number = int(percent) if isinstance(percent, int | float) and math.isfinite(percent) else 0
        at.attempt.percent = max(at.attempt.percent, min(100, max(0, number)))
        store.save(tx.conn, at.attempt)
        message = str(payload.get("message", ""))[:MAX_MESSAGE]
        self._transitions.records.append(
            tx,
            at.run,
            entries.STEP_PROGRESSED,
            at.job,
            at.step,
            at.attempt,
            percent=at.attempt.percent,
            message=message,
        )

    def _output(self, tx: Tx, at: Place, payload: dict[str, Any]) -> str:
        name, value = payload.get("name"), payload.get("value")
        if not isinstance(name, str) or not _OUTPUT_NAME.fullmatch(name):
            return "an output's name is a letter or underscore, then letters, digits, dots, _ or -"
        if at.step.current != at.attempt.id or at.attempt.status.over:
            return ""  # a word of an attempt that no longer counts
        outputs = {**at.step.outputs, name: value}
        if len(outputs) > MAX_COUNT:
            return f"a step has at most {MAX_COUNT} outputs"
        if len(orjson.dumps(outputs)) > MAX_BYTES:
            return f"the outputs of a step have at most {MAX_BYTES} bytes"
        at.job.set_outputs(at.step, outputs)
        store.save_part(tx.conn, at.run.id, at.step)
        self._transitions.records.append(
            tx, at.run, entries.STEP_OUTPUT, at.job, at.step, at.attempt, output=name, value=value
        )
        return ""

    def _artifact(self, tx: Tx, at: Place, payload: dict[str, Any]) -> str:
        """An artifact that an agent keeps elsewhere: ``name``, ``url`` (or ``uri``), ``path``, ``size``."""
        name, url = payload.get("name"), payload.get("url", payload.get("uri"))
        path, size = payload.get("path", name), payload.get("size", 0)
        if not isinstance(name, str) or not isinstance(url, str) or not isinstance(path, str):
            return "an artifact has a name, and the url where it is"
        if len(url) > MAX_LINK or not re.fullmatch(r"https?://[!-~]+", url):
            return (
                f"the url of an artifact begins with http:// or https://, with at most {MAX_LINK} characters"
            )
        if at.step.current != at.attempt.id or at.attempt.status.over:
            return ""  # a word of an attempt that no longer counts
        known = size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**53 else 0
        file_name = path.rpartition("/")[2][:MAX_FILE_NAME] or name
        wanted = Announced(name=name, file_name=file_name, format="link", size=known, sha256="")
        return self._artifacts.link(tx, at, wanted, url)

    def _journal_it(
        self, tx: Tx, agent_id: str, at: Place | None, event: StepEvent, payload: dict[str, Any]
    ) -> None:
        more = {
            "event_type": event.type,
            "event_id": event.event_id,
            "payload": payload,
            "agent_id": agent_id,
        }
        if at is not None:
            self._transitions.records.append(
                tx, at.run, entries.AGENT_EVENT, at.job, at.step, at.attempt, **more
            )
            return
        body = {"v": entries.VERSION, **more}
        self._journal.append(
            tx, entries.agent_stream(agent_id), entries.AGENT_EVENT, entries.FLEET_SCOPE, body
        )
