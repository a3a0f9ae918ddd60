"""What notifications say: the JSON document, and the texts of e-mails and chat messages; pure.

Names come from users: texts have no control characters, headers no line breaks, and chat messages mention nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pilothouse.pipelines.notifications.model import Ended, one_line
from pilothouse.wire.times import rfc3339_ms

MAX_FAILED_STEPS = 20
"""So many failed steps are named."""

_SHORT, _LONG = 200, 1000


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A step that has failed or timed out."""

    job: str
    step: str
    status: str


@dataclass(frozen=True, slots=True)
class About:
    """What the stored run adds to an entry. ``failed``: the first failed steps, of the job or the whole run."""

    project: str
    branch: str = ""
    commit: str = ""
    tag: str = ""
    trigger: str = ""
    triggered_by: str = ""
    failed: Sequence[FailedStep] = ()


def document(ended: Ended, about: About) -> str:
    """The JSON text of a notification (docs/notifications.md)."""
    data = {
        "run_id": ended.run_id,
        "pipeline_id": ended.pipeline_id,
        "pipeline": one_line(ended.pipeline, _SHORT),
        "project_id": ended.project,
        "project": one_line(about.project, _SHORT),
        "job": ended.job or None,
        "status": ended.status,
        "reason": one_line(ended.reason, _LONG),
        "ended_at": rfc3339_ms(ended.at),
        "duration": round(ended.duration / 1000, 3),
        "branch": one_line(about.branch, _SHORT),
        "commit": one_line(about.commit, 64),
        "tag": one_line(about.tag, _SHORT),
        "trigger": about.trigger,
        "triggered_by": one_line(about.triggered_by, _SHORT),
        "failed_steps": [
            {"job": step.job, "step": step.step, "status": step.status} for step in about.failed
        ],
    }
    return orjson.dumps({"type": ended.event, "timestamp": rfc3339_ms(ended.at), "data": data}).decode()


def title(body: Mapping[str, Any]) -> str:
    """One line that says what has ended, and how: the subject of an e-mail."""
    data = body["data"]
    what = f"job {data['job']} of {data['pipeline']}" if data["job"] else data["pipeline"]
    where = f" on {data['branch']}" if data["branch"] else ""
    return one_line(f"{what}{where}: {_outcome(data['status'])}", _SHORT)


def text(body: Mapping[str, Any]) -> str:
    """Some lines with everything else."""
    data = body["data"]
    lines = [
        f"{'Job' if data['job'] else 'Run'} {_outcome(data['status'])} after {_duration(data['duration'])}."
    ]
    if data["reason"]:
        lines.append(f"Reason: {data['reason']}")
    lines += [f"Failed step: {one['job']} / {one['step']} ({one['status']})" for one in data["failed_steps"]]
    lines += ["", f"Project: {data['project']}", f"Pipeline: {data['pipeline']}"]
    for label, key in (("Job", "job"), ("Branch", "branch"), ("Tag", "tag"), ("Commit", "commit")):
        if data[key]:
            lines.append(f"{label}: {data[key]}")
    started = f" ({data['trigger']})" if data["trigger"] else ""
    lines += [f"Started by: {data['triggered_by']}{started}", f"Run: {data['run_id']}"]
    return "\n".join(one_line(line, _LONG) for line in lines)


def without_mentions(line: str) -> str:
    """A text in which chat services find neither mentions nor links that a name contains."""
    return line.replace("@", "@\u200b").replace("<", "‹").replace(">", "›")


def _outcome(status: str) -> str:
    return {"timed_out": "timed out"}.get(status, status)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
