"""Events that agents push, as they are read before they are stored; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pilothouse.wire.masking import Masker
from pilothouse.wire.outputs import OutputRefused, read_json

PROGRESS = "arcentra.step.progress"
OUTPUT = "arcentra.step.output"


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
    if masker is not None:
        payload = {} if refused else masker.mask_value(payload)
        event = replace(event, type=masker.mask(event.type), event_id=masker.mask(event.event_id))
    return replace(event, payload=payload), refused
