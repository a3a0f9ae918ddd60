"""Formats the plan of a run as text: one line for each job and step, jobs by level. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from pilothouse.cli.documents import json_line
from pilothouse.cli.text import safe
from pilothouse.wire.durations import duration_text

_MARKS = {"run": ("●", "green"), "skip": ("–", "dim"), "fail": ("✗", "red"), "depends": ("?", "yellow")}
_AFTER = {
    ("success",): "",
    ("success", "failure"): "also after a failure",
    ("success", "cancelled"): "also after a cancel",
    ("success", "failure", "cancelled"): "always",
    ("failure",): "only after a failure",
    ("cancelled",): "only after a cancel",
    ("failure", "cancelled"): "only after a failure or cancel",
}
_CUT = 60
"""Characters of an argument of a gate that are shown."""

Body = Mapping[str, Any]


def lines(plan: Body) -> Iterator[Text]:
    """The lines of a plan, as ``pilot pipeline plan -o json`` prints it."""
    jobs = plan["jobs"]
    steps = sum(len(job["steps"]) for job in jobs)
    head = Text(f"{safe(plan['pipeline'])} ({safe(plan['file'])})", "bold")
    yield Text.assemble(head, f": {_count(len(jobs), 'job')}, {_count(steps, 'step')}")
    yield from (Text(f"  {safe(fact)}", "dim") for fact in _facts(plan))
    level = 0
    for job in jobs:
        if job["level"] != level:
            level = job["level"]
            yield Text(f"level {level}", "bold")
        yield _line("  ", job, [*_needs(job), *_of_job(job)])
        for step in job["steps"]:
            yield _line("    ", step, [*_what(step), *_of_step(step)])


def _facts(plan: Body) -> Iterator[str]:
    started = [f"started by: {plan['trigger']}"]
    started += [f"{key} {plan[key]}" for key in ("branch", "tag") if plan[key]]
    started += [f"commit {plan['commit'][:12]}"] if plan["commit"] else []
    yield ", ".join(started)
    if plan["variables"]:
        yield "variables: " + " ".join(f"{name}={value}" for name, value in plan["variables"].items())
    if plan["secrets"]:
        yield f"needs secrets: {', '.join(plan['secrets'])}"
    if plan["optional_secrets"]:
        yield f"uses secrets if they are set: {', '.join(plan['optional_secrets'])}"
    if plan["concurrency"]:
        instead = (
            "cancels the run in progress" if plan["cancel_in_progress"] else "waits for the run in progress"
        )
        yield f"concurrency group {plan['concurrency']}: {instead}"


def _line(indent: str, part: Body, facts: list[str]) -> Text:
    mark, style = _MARKS[part["plan"]]
    name = Text(safe(part["name"]), "dim" if part["plan"] == "skip" else "")
    told = "; ".join([*_verdict(part), *facts])
    return Text.assemble(indent, (mark, style), " ", name, (f"  {safe(told)}" if told else "", "dim"))


def _verdict(part: Body) -> Iterator[str]:
    """Whether it runs, and why not."""
    after = _AFTER.get(tuple(part["runs_after"]), "")
    match part["plan"]:
        case "run":
            if after:
                yield after
        case "skip" if after.startswith("only"):
            yield f"{after}: {part['when']}"
        case "skip":
            yield f"skipped: {part['reason']}"
        case "fail":
            yield f"fails: {part['reason']}"
        case "depends" if part["when"]:
            yield f"decided at run time ({part['reason']}): {part['when']}"
        case "depends":
            yield f"decided at run time: {part['reason']}"


def _needs(job: Body) -> Iterator[str]:
    if job["depends_on"]:
        yield f"after {', '.join(job['depends_on'])}"


def _of_job(job: Body) -> Iterator[str]:
    if job["source"]:
        branch = f" at {job['source']['branch']}" if job["source"]["branch"] else ""
        yield f"files of {job['source']['repo']}{branch}"
    if job["concurrency"]:
        yield f"concurrency group {job['concurrency']}"
    if job["queue_timeout"]:
        yield f"waits at most {duration_text(job['queue_timeout'])}"
    yield from _limits(job)
    if job["on_lost"] == "rerun":
        yield "starts again if its agent is lost"


def _what(step: Body) -> Iterator[str]:
    if step["gate"]:
        yield f"gate: {step['uses']}{_args(step['gate']['args'])}"
    else:
        yield f"{step['uses']}/{step['action']}" if step["action"] else str(step["uses"])


def _args(args: Body) -> str:
    given = (f"{name}={_plain(value)[:_CUT]}" for name, value in args.items())
    return f" ({', '.join(given)})" if args else ""


def _of_step(step: Body) -> Iterator[str]:
    if step["selector"]:
        yield f"agent {', '.join(step['selector'])}"
    yield from _limits(step)
    if step["continue_on_error"]:
        yield "may fail"
    if step["background"]:
        yield "in the background"


def _limits(part: Body) -> Iterator[str]:
    if part["timeout"]:
        yield f"timeout {duration_text(part['timeout'])}"
    if part["retry"]:
        delay = f", {duration_text(part['retry']['delay'])} apart" if part["retry"]["delay"] else ""
        yield f"at most {part['retry']['max_attempts']} tries{delay}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json_line(value).rstrip("\n")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
