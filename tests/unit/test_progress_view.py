"""The state a viewer shows of a run, from any position of the stream, as a tree and as plain lines."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.cli.live import LiveView
from pilothouse.cli.narration import narrate
from pilothouse.cli.output import Output
from pilothouse.cli.progress import RunState, from_view
from pilothouse.cli.runview import described, details
from pilothouse.cli.text import ago, coloured, safe, size, span
from pilothouse.cli.tree import fitted, headline, rows
from pilothouse.wire import entries
from support.fake_api import job_view, step_view, summary

RUN = {"v": 1, "run_id": "r1", "kind": "pipeline", "name": "hello", "pipeline_id": "p1", "project": "x"}
BUILD = {**RUN, "job_id": "j1", "job": "build"}
DEPLOY = {**RUN, "job_id": "j2", "job": "deploy"}
COMPILE = {
    **BUILD,
    "step_id": "s1",
    "step": "compile",
    "node": "compile",
    "uses": "shell",
    "action": "command",
}
TEST = {**BUILD, "step_id": "s2", "step": "test", "node": "test", "uses": "shell", "action": "command"}
FIRST = {**COMPILE, "step_run_id": "a1", "attempt": 1}
SECOND = {**COMPILE, "step_run_id": "a2", "attempt": 2}
JOBS = [
    {
        "id": "j1",
        "name": "build",
        "needs": [],
        "steps": [{"id": "s1", "name": "compile"}, {"id": "s2", "name": "test"}],
    },
    {"id": "j2", "name": "deploy", "needs": ["build"], "steps": []},
]

STORY: list[tuple[str, dict[str, Any], float]] = [
    (entries.RUN_CREATED, {**RUN, "jobs": JOBS, "trigger": "manual", "by": "admin"}, 100.0),
    (entries.RUN_STARTED, {**RUN, "previous": "pending"}, 100.0),
    (entries.JOB_STARTED, {**BUILD, "previous": "pending", "counts": {}, "round": 1}, 100.0),
    (entries.STEP_QUEUED, {**FIRST, "previous": "pending", "reason": ""}, 100.0),
    (entries.STEP_WAITING, {**FIRST, "reason": "no agent is online"}, 101.0),
    (entries.STEP_STARTED, {**FIRST, "previous": "queued", "agent_id": "local"}, 102.0),
    (
        entries.STEP_LOGGED,
        {**FIRST, "first": 1, "lines": ["one", "\x1b[31mtwo\x1b[0m"], "agent_id": "local"},
        102.5,
    ),
    (entries.STEP_PROGRESSED, {**FIRST, "percent": 40, "message": "compiling"}, 103.0),
    (
        entries.ATTEMPT_COMPLETED,
        {
            **FIRST,
            "status": "failed",
            "exit_code": 2,
            "error": "exit code 2",
            "final": False,
            "retry_at": 109000,
        },
        104.0,
    ),
    (entries.STEP_QUEUED, {**SECOND, "previous": "pending", "reason": ""}, 109.0),
    (entries.STEP_STARTED, {**SECOND, "previous": "queued", "agent_id": "local"}, 109.5),
    (entries.STEP_LOGGED, {**SECOND, "first": 1, "lines": ["again"], "agent_id": "local"}, 110.0),
    (entries.STEP_OUTPUT, {**SECOND, "output": "version", "value": "1.2"}, 110.0),
    (
        entries.ATTEMPT_COMPLETED,
        {**SECOND, "status": "failed", "exit_code": 2, "final": True, "retry_at": 0},
        112.6,
    ),
    (
        entries.STEP_COMPLETED,
        {
            **SECOND,
            "status": "failed",
            "exit_code": 2,
            "reason": "exit code 2",
            "outputs": {"version": "1.2"},
            "duration": 3100,
        },
        112.6,
    ),
    (
        entries.STEP_COMPLETED,
        {
            **TEST,
            "status": "skipped",
            "exit_code": 0,
            "reason": "step compile failed",
            "outputs": {},
            "duration": 0,
        },
        112.6,
    ),
    (
        entries.JOB_COMPLETED,
        {**BUILD, "status": "failed", "reason": "compile failed", "duration": 12600},
        112.6,
    ),
    (
        entries.JOB_COMPLETED,
        {**DEPLOY, "status": "skipped", "reason": "job build failed", "duration": 0},
        112.6,
    ),
    (
        entries.RUN_COMPLETED,
        {**RUN, "status": "failed", "reason": "job build failed", "duration": 12600},
        112.6,
    ),
]


def told(story: list[tuple[str, dict[str, Any], float]]) -> RunState:
    run = RunState("r1")
    for type, body, at in story:
        run.apply(type, body, at)
    return run


def test_the_state_while_it_runs() -> None:
    run = told(STORY[:8])
    assert [job.name for job in run.jobs.values()] == ["build", "deploy"]
    compile, test = run.jobs["j1"].steps.values()
    assert (compile.status, compile.agent, compile.percent, compile.message) == (
        "running",
        "local",
        40,
        "compiling",
    )
    assert compile.reason == "", "it waits no longer"
    assert list(compile.tail) == ["one", "\x1b[31mtwo\x1b[0m"]
    assert (test.status, run.status, run.name) == ("pending", "running", "hello")


def test_a_waiting_step_has_a_reason() -> None:
    assert told(STORY[:5]).jobs["j1"].steps["s1"].reason == "no agent is online"


def test_a_new_attempt_begins_anew() -> None:
    between = told(STORY[:9]).jobs["j1"].steps["s1"]
    assert (between.status, between.reason) == ("pending", "attempt 1 failed: exit code 2")
    again = told(STORY[:12]).jobs["j1"].steps["s1"]
    assert (again.attempt, again.percent, list(again.tail), again.started_at) == (2, None, ["again"], 109.5)


def test_the_end() -> None:
    run = told(STORY)
    assert run.over
    assert (run.status, run.finished_at, run.started_at) == ("failed", 112.6, 100.0)
    assert [step.path for step in run.failed_steps()] == ["build/compile"]
    assert run.jobs["j1"].steps["s1"].outputs == {"version": "1.2"}
    assert [job.status for job in run.jobs.values()] == ["failed", "skipped"]


@given(st.integers(0, len(STORY)))
def test_joining_anywhere_ends_with_the_same_outcome(start: int) -> None:
    run = told(STORY[start:])
    whole = told(STORY)
    for job in run.jobs.values():
        assert job.status == whole.jobs[job.id].status
        for step in job.steps.values():
            assert step.status == whole.jobs[job.id].steps[step.id].status
            assert step.path == whole.jobs[job.id].steps[step.id].path
    if start < len(STORY):
        assert run.status == "failed"
        assert run.started_at == pytest.approx(100.0)  # known from the duration at least


@given(st.lists(st.sampled_from(STORY)), st.integers(1, 12))
def test_no_order_of_entries_breaks_the_view(
    story: list[tuple[str, dict[str, Any], float]], height: int
) -> None:
    run = told(story)
    shown = rows(run, 120.0, live=True)
    assert len(shown) == len(run.jobs) + sum(len(job.steps) for job in run.jobs.values())
    assert len(fitted(shown, height)) <= max(height, 1)
    headline(run, 120.0, live=False)


def test_entries_that_are_not_known_change_nothing() -> None:
    run = told(STORY)
    run.apply("step.transmogrified", {}, 1.0)
    assert run == told(STORY)
    assert narrate("step.transmogrified", {}, 1.0) == []


def test_the_story_in_plain_lines() -> None:
    lines = [line for type, body, at in STORY for line in narrate(type, body, at)]
    assert lines == [
        "run r1: created (hello)",
        "run r1: started",
        "job build: ready",
        "step build/compile: waiting: no agent is online",
        "step build/compile: started on agent local",
        "build/compile | one",
        "build/compile | two",
        "step build/compile: 40% compiling",
        "step build/compile: attempt 1 failed (exit code 2), trying again in 5.0s",
        "step build/compile: started on agent local (attempt 2)",
        "build/compile | again",
        "step build/compile: output version=1.2",
        "step build/compile: failed (exit code 2) in 3.1s",
        "step build/test: skipped (step compile failed)",
        "job build: failed (compile failed) in 12.6s",
        "job deploy: skipped (job build failed)",
        "run r1: failed (job build failed) in 12.6s",
    ]


def test_a_success_in_plain_lines() -> None:
    done = {**RUN, "status": "succeeded", "reason": "", "duration": 12_300}
    assert narrate(entries.RUN_COMPLETED, done, 1.0) == ["run r1: succeeded in 12.3s"]
    timed_out = {**FIRST, "status": "timed_out", "exit_code": 0, "reason": "timed out", "duration": 5000}
    assert narrate(entries.STEP_COMPLETED, timed_out, 1.0) == ["step build/compile: timed out in 5.0s"]


def test_the_rest_view_gives_the_same_tree() -> None:
    attempt = {"number": 2, "agent_id": "local", "exit_code": 2, "error": "exit code 2", "status": "failed"}
    step = {
        "id": "s1",
        "name": "compile",
        "status": "failed",
        "reason": "exit code 2",
        "outputs": {},
        "progress": 40,
        "kept": False,
        "started_at": "2026-01-10T14:23:45.000Z",
        "finished_at": None,
        "attempts": [attempt],
    }
    times = {"started_at": "2026-01-10T14:23:45.000Z", "finished_at": None}
    job = {"id": "j1", "name": "build", "status": "running", "reason": "", "steps": [step], **times}
    run = from_view({"id": "r1", "name": "hello", "status": "running", "reason": "", "jobs": [job], **times})
    shown = run.jobs["j1"].steps["s1"]
    assert (shown.attempt, shown.exit_code, shown.percent, shown.agent) == (2, 2, 40, "local")
    text = [row.text.plain for row in rows(run, shown.started_at or 0.0, live=False)]
    assert text == ["● build  0.0s", "  ✗ compile  attempt 2  failed  exit code 2  0.0s"]


def test_a_tall_tree_is_folded_and_keeps_what_matters() -> None:
    run = RunState("r1")
    for number in range(30):
        job = {**RUN, "job_id": f"j{number}", "job": f"job{number}"}
        step = {**job, "step_id": f"s{number}", "step": "work", "attempt": 1, "agent_id": "local"}
        run.apply(entries.JOB_STARTED, job, 1.0)
        run.apply(entries.STEP_STARTED, step, 1.0)
        if number != 17:
            run.apply(entries.STEP_COMPLETED, {**step, "status": "succeeded"}, 2.0)
            run.apply(entries.JOB_COMPLETED, {**job, "status": "succeeded"}, 2.0)
    shown = [line.plain for line in fitted(rows(run, 3.0, live=False), 10)]
    assert len(shown) <= 10
    assert any("job17" in line for line in shown)
    assert any("work" in line for line in shown)
    assert shown[-1] == "  … 29 succeeded"


@pytest.mark.parametrize(
    ("text", "plain", "kept"),
    [
        ("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m"),
        ("a\x1b[2J\x1b[Hb", "ab", "ab"),
        ("\x1b]0;title\x07x", "x", "x"),
        ("\x1b]8;;http://evil\x1b\\x", "x", "x"),
        ("cut short \x1b[3", "cut short ", "cut short "),
        ("\x1bc reset", " reset", " reset"),
        ("bell\x07 back\b", "bell␇ back␈", "bell␇ back␈"),
        ("10%\r20%", "10%␍20%", "10%␍20%"),
        ("\x9b31mred", "red", "red"),
        ("a\u202eb", "a<U+202E>b", "a<U+202E>b"),
        ("tab\tstays, ü and 🚢 too", "tab\tstays, ü and 🚢 too", "tab\tstays, ü and 🚢 too"),
    ],
)
def test_text_from_elsewhere_is_made_safe(text: str, plain: str, kept: str) -> None:
    assert safe(text) == plain
    assert coloured(text) == kept


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert not any((ord(c) < 32 and c != "\t") or 0x7F <= ord(c) <= 0x9F for c in safe(text))
    assert safe(coloured(text)) == safe(text)


def test_times_and_sizes() -> None:
    assert [span(s) for s in (0, 3.14, 59.94, 59.96, 125, 3720)] == [
        "0.0s",
        "3.1s",
        "59.9s",
        "1m00s",
        "2m05s",
        "1h02m",
    ]
    assert [size(n) for n in (812, 3500, 12 << 20)] == ["812 B", "3.4 KiB", "12.0 MiB"]
    assert (ago(None, 0), ago("1970-01-01T00:00:10Z", 22), ago("1970-01-01T00:00:00Z", 7200)) == (
        "never",
        "12s ago",
        "2h ago",
    )


def test_a_lost_connection_is_in_the_picture_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, errors = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", errors)
    view = LiveView(Output(colour=False), told(STORY[:8]))

    def shown() -> list[str]:
        return [str(line) for line in view.render()]

    whole = len(shown())
    view.lost("the server closed the connection")
    assert "connection lost; reconnecting for 0 s" in shown()[1]
    still = shown()[0]
    clock = time.time()
    monkeypatch.setattr("pilothouse.cli.live.time.time", lambda: clock + 60.05)
    assert shown()[0] == still, "nothing turns, no time passes"
    assert "reconnecting for 60 s" in shown()[1]
    assert errors.getvalue() == "", "on one terminal there is no second voice"
    view.back()
    assert len(shown()) == whole
    assert not any("reconnecting" in line for line in shown())


async def test_what_is_said_meanwhile_goes_through_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, errors = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", errors)
    out = Output(colour=False)
    async with LiveView(out, told(STORY[:8])):
        out.note("slow down")
    assert "slow down" in screen.getvalue()
    assert "slow down" not in errors.getvalue()
    out.note("done")
    assert "done" in errors.getvalue()


def ended(keys: dict[str, Any], status: str, **more: Any) -> tuple[str, dict[str, Any], float]:
    body = {
        **keys,
        "status": status,
        "exit_code": 0,
        "error": "",
        "reason": "",
        "outputs": {},
        "duration": 10,
    }
    return (entries.STEP_COMPLETED, {**body, **more}, 110.0)


@pytest.mark.parametrize(
    ("job", "reason", "shown"),
    [
        ("failed", "test failed", ["build/test"]),
        ("succeeded", "", []),
        ("timed_out", "timed out after 5 s", ["build/compile", "build/test"]),
    ],
)
def test_a_step_that_may_fail_is_not_to_blame(job: str, reason: str, shown: list[str]) -> None:
    over = (entries.JOB_COMPLETED, {**BUILD, "status": job, "reason": reason, "duration": 10}, 112.0)
    run = told([ended(FIRST, "failed"), ended({**TEST, "attempt": 1}, "failed"), over])
    assert [step.path for step in run.failed_steps()] == shown


@pytest.mark.parametrize(
    ("exit_code", "error", "shown"),
    [
        (1, "working directory nodir does not exist", "working directory nodir does not exist"),
        (137, "exit code 137 (SIGKILL)", "exit code 137 (SIGKILL)"),
        (2, "exit code 2", "exit code 2"),
        (2, "failed", "exit code 2"),
        (2, "", "exit code 2"),
        (0, "the agent was stopped", "the agent was stopped"),
    ],
)
def test_a_failure_has_a_reason(exit_code: int, error: str, shown: str) -> None:
    end = ended(FIRST, "failed", exit_code=exit_code, error=error, reason=error)
    run = told([*STORY[:6], end])
    assert rows(run, 120.0, live=False)[1].text.plain == f"  ✗ compile  failed  {shown}  8.0s"
    assert narrate(*end) == [f"step build/compile: failed ({shown}) in 0.0s"]


@pytest.mark.parametrize(
    ("status", "exit_code", "error", "reason", "said"),
    [
        ("failed", 137, "exit code 137 (SIGKILL)", "", ["exit code 137 (SIGKILL)"]),
        ("failed", 13, "exit code 137 (SIGKILL)", "", ["exit code 13", "exit code 137 (SIGKILL)"]),
        ("cancelled", 143, "cancelled", "", ["exit code 143"]),
        ("cancelled", 143, "cancelled", "wrong branch", ["exit code 143", "wrong branch"]),
        ("timed_out", 0, "timed out", "timed out", []),
        ("failed", 1, "no such directory", "", ["exit code 1", "no such directory"]),
    ],
)
def test_an_attempt_shows_each_fact_once(
    status: str, exit_code: int, error: str, reason: str, said: list[str]
) -> None:
    attempt = {"number": 1, "agent_id": "", "lines": 1, "status": status}
    attempt |= {"exit_code": exit_code, "error": error, "reason": reason}
    (line,) = details({"outputs": {}, "attempts": [attempt]})
    head = f"attempt 1: {status.replace('_', ' ')}"
    assert line.plain.strip() == ", ".join([head, *said, "1 line"])


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (
            {"branch": "main", "commit_sha": "9a00a52c6ecff077", "dirty": True},
            "  main 9a00a52c6ecf with uncommitted changes",
        ),
        ({"branch": "main", "commit_sha": "9a00a52c6ecff077"}, "  main 9a00a52c6ecf"),
        ({"tag": "v1", "commit_sha": "9a00a52c6ecff077"}, "  v1 9a00a52c6ecf"),
    ],
)
def test_the_view_says_what_the_run_is_of(more: dict[str, Any], fact: str) -> None:
    lines = [
        line.plain for line in described({**summary("r1", "succeeded"), "variables": {}, "jobs": [], **more})
    ]
    assert lines[2:] == [fact]


def test_an_end_is_reported_once() -> None:
    error = "cancelled: the job ran longer than its timeout of 2s"
    done = {**FIRST, "status": "timed_out", "exit_code": 143, "error": error, "duration": 5000}
    assert narrate(entries.STEP_COMPLETED, done, 1.0) == [
        "step build/compile: timed out (the job ran longer than its timeout of 2s) in 5.0s"
    ]
    attempt = {"number": 1, "agent_id": "a", "exit_code": 143, "error": "cancelled: wrong branch", "lines": 1}
    shown = details({"outputs": {}, "attempts": [{**attempt, "status": "cancelled", "reason": ""}]})
    assert [line.plain.strip() for line in shown] == [
        "attempt 1: cancelled, on a, exit code 143, wrong branch, 1 line"
    ]


def test_a_step_took_as_long_as_its_last_attempt() -> None:
    """As for who watched it: the time of earlier attempts and of the pause before a retry does not count."""
    times = [("10:00:00", "10:00:05"), ("10:01:00", "10:01:02")]
    attempts = [
        {
            "number": number,
            "status": "succeeded",
            "exit_code": 0,
            "agent_id": "local",
            "started_at": f"2026-01-10T{began}Z",
            "finished_at": f"2026-01-10T{ended}Z",
        }
        for number, (began, ended) in enumerate(times, 1)
    ]
    view = summary("r1", "succeeded")
    step = step_view("flaky", "succeeded")
    step |= {
        "attempts": attempts,
        "started_at": attempts[0]["started_at"],
        "finished_at": attempts[1]["finished_at"],
    }
    run = from_view({**view, "name": "hello", "jobs": [job_view("build", step, status="succeeded")]})
    assert [row.text.plain for row in rows(run, time.time(), live=False)][1].split() == [
        "✓",
        "flaky",
        "attempt",
        "2",
        "2.0s",
    ]
