"""Formats a run as text: jobs, steps, attempts with agent, status and reason, and outputs. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pilothouse.cli.documents import json_line
from pilothouse.cli.progress import from_view, without_status, words
from pilothouse.cli.text import safe
from pilothouse.cli.tree import headline, rows
from pilothouse.cli.waits import HOLD

if TYPE_CHECKING:
    from pilothouse.client.types import Run, RunTests


def described(run: Run) -> Iterator[Text]:
    """The lines of the view."""
    state, now = from_view(run), time.time()
    yield headline(state, now, live=False)
    yield from (Text(f"  {safe(fact)}", "dim") for fact in _facts(run))
    steps = {step["id"]: step for job in run["jobs"] for step in job["steps"]}
    for row in rows(state, now, live=False):
        yield row.text
        if row.step is not None:
            yield from details(steps[row.step.id])


def _facts(run: Run) -> Iterator[str]:
    yield f"{run['kind']}, {run['trigger']} by {run['triggered_by']}, created {run['created_at']}"
    of = [
        run["branch"],
        run["tag"],
        run["commit_sha"][:12],
        "with uncommitted changes" if run["dirty"] else "",
    ]
    if any(of):
        yield " ".join(filter(None, of))
    if count := run.get("artifacts"):
        yield f"{count} {'artifact' if count == 1 else 'artifacts'}: pilot artifact list --run {run['id'][-8:]}"
    if run["rerun_of"]:
        yield f"repeats run {run['rerun_of']}"
    yield from (f"{name}={_plain(value)}" for name, value in run["variables"].items())


def details(step: Any) -> Iterator[Text]:
    """A step's outputs and attempts; those kept from the original run are marked."""
    outputs = step["outputs"]
    if step.get("gate") == HOLD and "decision" in outputs:
        outputs = {}  # the line of the step says who decided, and why
    for name, value in outputs.items():
        yield Text.assemble(("      output ", "dim"), safe(f"{name}={_plain(value)}"))
    attempts = [attempt for attempt in step["attempts"] if _begun(attempt)]
    if step.get("gate") and len(attempts) == 1:
        return  # nothing more is known of it
    for attempt in attempts:
        earlier = " of the earlier run" if attempt.get("earlier_run") else ""
        said = [f"attempt {attempt['number']}{earlier}: {words(attempt['status'])}"]
        if attempt["agent_id"]:
            said.append(f"on {attempt['agent_id']}")
        said += _why(attempt)
        if not step.get("gate"):
            said.append("1 line" if attempt["lines"] == 1 else f"{attempt['lines']} lines")
        yield Text(f"      {safe(', '.join(said))}", "dim")


MAX_TESTS = 20
"""Failing, flaky and fixed tests that are shown."""


def tested(tests: RunTests) -> Iterator[Text]:
    """The tests of a run: counts, what fails, what is flaky, and what has changed since the last run."""
    summary = tests["summary"]
    counts = [f"{summary['passed']} passed"]
    counts += [f"{summary[key]} {key}" for key in ("failed", "errors", "skipped", "flaky") if summary[key]]
    yield Text(f"{summary['tests']} tests: {', '.join(counts)}")
    last = tests["compared_with"]
    if last is not None:
        changed = f"{tests['new_failures']} new failures, {len(tests['fixed'])} fixed"
        yield Text(f"  {changed} since run {last['run_id'][-8:]}", "dim")
    for report in tests["reports"]:
        for problem in report["problems"]:
            yield Text(f"  {safe(report['name'])}: {safe(problem)}", "yellow")
    listed = [
        *((test, f"{test['kind']}{', new' if test['new'] else ''}") for test in tests["failing"]),
        *((test, "flaky") for test in tests["flaky"]),
        *((test, "fixed") for test in tests["fixed"]),
    ]
    for test, how in listed[:MAX_TESTS]:
        where = test["class"] or test["suite"]
        name = f"{where} {test['name']}".strip()
        message = "" if how == "fixed" else test["message"].split("\n")[0]
        yield Text(f"  {how}: {safe(name)}{': ' * bool(message)}{safe(message)}")
    if len(listed) > MAX_TESTS:
        yield Text(f"  and {len(listed) - MAX_TESTS} more", "dim")


def _begun(attempt: Any) -> bool:
    """Whether it was queued at least: each step has an attempt from the beginning, also one that is skipped."""
    return any(attempt.get(key, True) for key in ("queued_at", "started_at", "agent_id"))


def _plain(value: Any) -> str:
    """Strings unchanged, other values as JSON."""
    return value if isinstance(value, str) else json_line(value).rstrip("\n")


def _why(attempt: Any) -> list[str]:
    """Reasons of an attempt's end, without duplicates."""
    said = dict.fromkeys(
        without_status(attempt["status"], attempt[key]) for key in ("error", "reason") if attempt[key]
    )
    telling = [each for each in said if each not in (attempt["status"], words(attempt["status"]))]
    code = f"exit code {attempt['exit_code']}"
    told = not attempt["exit_code"] or any(re.match(rf"{code}\b", each) for each in telling)
    return telling if told else [code, *telling]
