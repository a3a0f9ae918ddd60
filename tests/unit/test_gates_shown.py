"""How gates, pauses and steps added to a run are shown: in the tree, in plain lines and by ``pilot run view``."""

from __future__ import annotations

from typing import Any

from pilothouse.cli.narration import narrate
from pilothouse.cli.progress import RunState, from_view
from pilothouse.cli.reference import short
from pilothouse.cli.runview import described
from pilothouse.cli.tree import headline, rows
from pilothouse.wire import entries
from support.fake_api import RUN, job_view, step_view, summary

BODY: dict[str, Any] = {"run_id": RUN, "name": "shop", "job_id": "ship", "job": "ship"}
ASK = {**BODY, "step_id": "ask", "step": "ask", "step_run_id": "ask-1", "attempt": 1}
OPENED = {**ASK, "agent_id": "", "gate": "hold", "waits_for": "ship it?"}
DECIDED = {**ASK, "decision": "approve", "by": "olga", "comment": "checked"}
APPROVE = f"pilot run approve {short(RUN)}"


def running(*more: tuple[str, dict[str, Any]]) -> RunState:
    run = RunState(RUN)
    for type, body in ((entries.RUN_STARTED, BODY), (entries.JOB_STARTED, BODY), *more):
        run.apply(type, body, 100.0)
    return run


def tree(run: RunState) -> list[str]:
    return [row.text.plain for row in rows(run, 105.0, live=True)]


def test_an_open_gate_says_what_it_waits_for_and_the_command() -> None:
    run = running((entries.STEP_STARTED, OPENED))
    assert tree(run)[1] == f"  ○ ask  waiting for approval ({APPROVE}): ship it?  5.0s"
    assert narrate(entries.STEP_STARTED, OPENED, 100.0) == [
        f"step ship/ask: waiting for approval ({APPROVE} --step ship/ask): ship it?"
    ]
    window = {**OPENED, "gate": "window", "waits_for": "opens 2027-01-15 09:00 UTC"}
    assert (
        tree(running((entries.STEP_STARTED, window)))[1]
        == "  ○ ask  waiting: opens 2027-01-15 09:00 UTC  5.0s"
    )


def test_two_open_approvals_are_told_apart() -> None:
    other = {**OPENED, "job_id": "pay", "job": "pay", "step_id": "sure", "step": "sure"}
    lines = tree(running((entries.STEP_STARTED, OPENED), (entries.STEP_STARTED, other)))
    assert f"({APPROVE} --step ship/ask)" in lines[1]
    assert f"({APPROVE} --step pay/sure)" in lines[3]


def test_who_decided() -> None:
    ended = {**ASK, "status": "succeeded", "reason": "", "outputs": {}, "duration": 4000}
    run = running(
        (entries.STEP_STARTED, OPENED), (entries.GATE_DECIDED, DECIDED), (entries.STEP_COMPLETED, ended)
    )
    assert tree(run)[1] == "  ✓ ask  approved by olga (checked)  0.0s"
    assert narrate(entries.GATE_DECIDED, DECIDED, 104.0) == ["step ship/ask: approved by olga (checked)"]
    rejected = {
        **ended,
        "status": "failed",
        "error": "rejected by olga: no",
        "reason": "rejected by olga: no",
    }
    run = running((entries.STEP_STARTED, OPENED), (entries.STEP_COMPLETED, rejected))
    assert tree(run)[1] == "  ✗ ask  failed  rejected by olga: no  0.0s"


def test_several_approvals_are_told_one_by_one() -> None:
    reason = "waits for 2 of 2 approvals: needs role operator: ship it?"
    left = "waits for 1 of 2 approvals: needs role operator: ship it?"
    opened = {**OPENED, "waits_for": reason}
    first = {**DECIDED, "approved_by": ["olga"], "waits_for": left}
    second = {**DECIDED, "by": "oscar", "comment": "", "approved_by": ["olga", "oscar"], "waits_for": ""}
    ended = {**ASK, "status": "succeeded", "reason": "", "outputs": {}, "duration": 4000}
    run = running((entries.STEP_STARTED, opened))
    assert tree(run)[1] == f"  ○ ask  {reason} ({APPROVE})  5.0s"
    run.apply(entries.GATE_DECIDED, first, 101.0)
    assert tree(run)[1] == f"  ○ ask  {left} ({APPROVE})  5.0s"
    assert narrate(entries.GATE_DECIDED, first, 101.0) == [
        f"step ship/ask: approved by olga (checked); {left}"
    ]
    assert narrate(entries.GATE_DECIDED, second, 102.0) == ["step ship/ask: approved by olga, oscar"]
    run.apply(entries.GATE_DECIDED, second, 102.0)
    run.apply(entries.STEP_COMPLETED, ended, 102.0)
    assert tree(run)[1] == "  ✓ ask  approved by olga, oscar  2.0s"


def test_a_job_that_is_tried_again_remains_approved() -> None:
    done = {**ASK, "status": "succeeded", "reason": "", "outputs": {}, "duration": 0}
    failed = {**done, "step_id": "push", "step": "push", "status": "failed"}
    run = running((entries.STEP_STARTED, OPENED), (entries.STEP_COMPLETED, done))
    run.apply(entries.STEP_COMPLETED, failed, 101.0)
    run.apply(entries.JOB_RESTARTED, {**BODY, "round": 2, "reason": "", "retry_at": 0, "from_step": 1}, 102.0)
    [job] = run.jobs.values()
    assert [step.status for step in job.steps.values()] == ["succeeded", "pending"]


def test_a_paused_run_says_so() -> None:
    paused = (entries.RUN_PAUSED, {**BODY, "by": "ann"})
    run = running(paused)
    assert headline(run, 105.0, live=True).plain == f"○ shop  run {RUN}  paused by ann  5.0s"
    assert narrate(*paused, 100.0) == [f"run {RUN}: paused by ann"]
    run.apply(entries.RUN_RESUMED, {**BODY, "by": "bob"}, 101.0)
    assert "paused" not in headline(run, 105.0, live=True).plain
    assert narrate(entries.RUN_RESUMED, {**BODY, "by": "bob"}, 101.0) == [f"run {RUN}: resumed by bob"]
    view = {
        **summary(RUN, "running"),
        "paused_at": "2026-01-10T14:24:00.000Z",
        "reason": "paused by ann",
        "jobs": [],
    }
    assert headline(from_view(view), 105.0, live=True).plain.startswith("○ ")


def test_added_jobs_and_steps_appear() -> None:
    jobs = [
        {"id": "ship", "name": "ship", "steps": [{"id": "ask", "name": "ask"}, {"id": "new", "name": "new"}]},
        {"id": "late", "name": "late", "steps": [{"id": "x", "name": "x"}]},
    ]
    body = {**BODY, "jobs": jobs}
    run = running((entries.STEP_STARTED, OPENED), (entries.RUN_EXTENDED, body))
    assert [line.split()[1] for line in tree(run)] == ["ship", "ask", "new", "late", "x"]
    assert run.open_gates("hold"), "what was there before is as it was"
    assert narrate(entries.RUN_EXTENDED, body, 100.0)[1] == f"run {RUN}: more steps: job late"


def test_a_step_run_that_never_began_is_no_news() -> None:
    body = {**ASK, "status": "skipped", "previous": "pending", "error": "build failed", "final": True}
    ended = {**ASK, "status": "skipped", "reason": "build failed", "error": "", "outputs": {}, "duration": 0}
    assert narrate(entries.ATTEMPT_COMPLETED, body, 100.0) == []
    run = running((entries.ATTEMPT_COMPLETED, body), (entries.STEP_COMPLETED, ended))
    assert tree(run)[1] == "  – ask  skipped  build failed"


def test_the_view_of_a_run_with_gates() -> None:
    times = {"queued_at": None, "started_at": None, "agent_id": None}
    never = step_view("never", "skipped", reason="a failed")
    never["attempts"] = [{**never["attempts"][0], **times, "lines": 0}]
    outputs = {"decision": "approve", "by": "olga", "comment": "checked"}
    ask = step_view("ask", gate="hold", outputs=outputs)
    sure = step_view("sure", "running", gate="hold", reason="really?")
    view = {
        **summary(RUN, "running"),
        "variables": {},
        "jobs": [job_view("ship", ask, sure, never, status="running")],
    }
    lines = [line.plain for line in described(view)]  # type: ignore[arg-type]
    assert lines[-3:] == [
        "  ✓ ask  approved by olga (checked)",
        f"  ○ sure  waiting for approval (pilot run approve {short(view['id'])}): really?",
        "  – never  skipped  a failed",
    ]
