"""Events that agents push, as they are read before they are stored; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pilothouse.wire.masking import Masker
from pilothouse.wire.outputs import OutputRefused, read_json
from pilothouse.wire.test_reports import TEXTS, ReportRefused, read_report

PROGRESS = "arcentra.step.progress"
OUTPUT = "arcentra.step.output"
ARTIFACT = "arcentra.step.artifact"
REPORT = "arcentra.step.report"


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One event as an agent pushed it; ``step_run_id`` is empty for events of the agent itself."""

    event_id: str
    seq: int
    step_run_id: str
    type: str
    payload: dict[str, Any]


def read_event(event: StepEvent, masker: Masker | None) -> tuple[StepEvent, str]:
    """The event with its output parsed and secrets masked, and the reason for refusal (empty if accepted).

    Can be slow: must not be called in a transaction, nor on the event loop with a large payload. Raises TooDense.
    """
    payload, refused = event.payload, ""
    if event.type == OUTPUT and isinstance(payload.get("json"), str):
        try:
            payload = {"name": payload.get("name"), "value": read_json(payload["json"])}
        except OutputRefused as error:
            refused = f"an output is refused: {error}"
    if event.type == REPORT:
        payload, refused = _report(payload, masker)
    elif masker is not None:
        payload = {} if refused else masker.mask_value(payload)
    if masker is not None:
        event = replace(event, type=masker.mask(event.type), event_id=masker.mask(event.event_id))
    return replace(event, payload=payload), refused


def _report(payload: dict[str, Any], masker: Masker | None) -> tuple[dict[str, Any], str]:
    """A report of tests, and the reason for refusal. Only its texts are masked, so that it keeps its keys."""
    name, text = payload.get("name"), payload.get("json")
    if payload.get("kind") != "junit" or not isinstance(name, str) or not isinstance(text, str):
        return {}, "a report has kind junit, a name, and json"
    try:
        report = read_report(text)
    except ReportRefused as error:
        return {}, f"a report of tests is refused: {error}"
    if masker is not None:
        name = masker.mask(name)
        report["problems"] = [masker.mask(problem) for problem in report["problems"]]
        for test in (*report["failing"], *report["flaky"]):
            test.update((key, masker.mask(test[key])) for key in TEXTS if key in test)
    return {"name": name, "report": report}, ""
