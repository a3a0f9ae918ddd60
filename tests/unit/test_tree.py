"""The tree on small terminals: running steps and times stay visible, names are elided in the middle."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pilothouse.cli.advice import last_lines, next_commands
from pilothouse.cli.progress import JobState, RunState, StepState, from_view
from pilothouse.cli.tree import elided, fitted, headline, rows
from pilothouse.wire import entries
from support.fake_api import RUN, job_view, step_view, summary

STATUSES = ["pending", "queued", "running", "succeeded", "failed", "timed_out", "cancelled", "skipped"]


def run_of(*jobs: tuple[str, str, dict[str, str]]) -> RunState:
    """Jobs as (name, status, {step: status})."""
    run = RunState(RUN, "shop", "running", started_at=0.0)
    for name, status, steps in jobs:
        job = run.jobs[name] = JobState(name, name, status, started_at=1.0)
        for step, its in steps.items():
            job.steps[step] = StepState(step, name, step, its, started_at=1.0)
    return run


def shown(run: RunState, height: int, width: int = 100) -> list[str]:
    return [line.plain for line in fitted(rows(run, 10.0, live=False), height, width)]


def thirty(status: str = "running") -> RunState:
    many = [(f"job{n}", "succeeded", {"a": "succeeded", "b": "succeeded"}) for n in range(10)]
    many += [(f"job{n}", "pending", {"a": "pending", "b": "pending"}) for n in range(10, 27)]
    return run_of(*many, *[(f"job{n}", status, {"a": "succeeded", "b": status}) for n in range(27, 30)])


@pytest.mark.parametrize("status", ["running", "failed", "timed_out"])
@pytest.mark.parametrize("height", [5, 8, 12, 20])
def test_what_runs_or_failed_is_seen_among_thirty_jobs(status: str, height: int) -> None:
    lines = shown(thirty(status), height)
    assert len(lines) <= height
    for name in ("job27", "job28", "job29"):
        assert any(name in line for line in lines), lines
    if height < 20:
        assert lines[-1].strip() == "… 17 pending, 10 succeeded"


def test_running_jobs_come_before_failed_ones() -> None:
    jobs = [(f"bad{n}", "failed", {"a": "failed"}) for n in range(10)]
    lines = shown(run_of(*jobs, ("live", "running", {"a": "running"})), 4)
    assert any("live › a" in line for line in lines)
    assert "8 failed" in lines[-1]


def test_thirty_running_jobs_take_a_line_each_as_far_as_there_is_room() -> None:
    run = run_of(*[(f"job{n}", "running", {"first": "succeeded", "second": "running"}) for n in range(30)])
    lines = shown(run, 20)
    assert len(lines) == 20
    assert all(" › second" in line for line in lines[:-1])
    assert lines[-1].strip() == "… 11 running"


def test_a_job_that_waits_for_a_slot_does_not_look_as_if_it_ran() -> None:
    run = run_of(("build", "running", {"a": "queued", "b": "pending"}))
    run.jobs["build"].steps["a"].reason = "all 4 slots of agent local are taken"
    job, first, _second = (row.text.plain for row in rows(run, 10.0, live=True))
    assert job == "○ build  waiting  all 4 slots of agent local are taken  9.0s"
    assert first == "  ○ a"
    run.jobs["build"].steps["a"].status = "running"
    assert rows(run, 10.0, live=False)[0].text.plain == "● build  9.0s"


def test_what_the_server_says_of_waiting_counts() -> None:
    job = job_view(
        "build", step_view("a", "pending", attempts=[]), status="running", waiting_for="no agent is online"
    )
    run = from_view({**summary(RUN, "running"), "jobs": [job]})
    assert rows(run, 10.0, live=False)[0].text.plain == "○ build  waiting  no agent is online"


def test_between_two_steps_a_job_does_not_wait() -> None:
    run = run_of(("build", "running", {"a": "succeeded", "b": "queued"}))
    assert run.jobs["build"].waiting is None
    run.jobs["build"].steps["b"].reason = "waits for a slot"
    assert run.jobs["build"].waiting == "waits for a slot"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_time_stays_and_the_id_gives_way(width: int) -> None:
    run = run_of(("a" * 60, "running", {"b" * 60: "running"}))
    run.name = "a-pipeline-with-quite-a-long-name"
    for line in (
        headline(run, 3600.0, live=False, width=width),
        *fitted(rows(run, 3600.0, live=False), 9, width),
    ):
        assert cell_len(line.plain) <= width
        assert line.plain.endswith(("1h00m", "59m59s")), line.plain
    assert RUN[-8:] in headline(run, 3600.0, live=False, width=width).plain


def test_an_id_is_shown_like_any_other_word_of_a_server() -> None:
    run = run_of(("build", "running", {"a": "running"}))
    run.id = "\x1b]52;c;aGk=\x07\x1b[2J\u202ea\nb"
    for width in (40, 1000):
        assert not set("\x1b\x07\n\u202e") & set(headline(run, 1.0, live=False, width=width).plain)


@given(
    st.lists(
        st.tuples(
            st.text(max_size=30),
            st.sampled_from(STATUSES),
            st.dictionaries(st.text(max_size=40), st.sampled_from(STATUSES), max_size=4),
        ),
        max_size=12,
    ),
    st.integers(1, 30),
    st.integers(1, 90),
)
def test_no_frame_is_larger_than_the_terminal(jobs: list[Any], height: int, width: int) -> None:
    run = run_of(*jobs)
    lines = fitted(rows(run, 10.0, live=True), height, width)
    assert len(lines) <= height
    assert all(cell_len(line.plain) <= width for line in lines), lines
    assert cell_len(headline(run, 10.0, live=True, width=width).plain) <= width


@given(st.text(alphabet="ab日本語é-", max_size=60), st.integers(1, 40))
def test_elided_text_keeps_its_ends(text: str, width: int) -> None:
    cut = elided(Text(text), width).plain
    assert cell_len(cut) <= width
    if cell_len(text) <= width:
        assert cut == text
    elif width >= 8:
        assert "…" in cut
        assert cut[0] == text[0]
        assert cut[-1] in (text[-1], "…")


def test_a_failure_that_is_allowed_is_marked() -> None:
    run = run_of(("test", "running", {"lint": "failed", "unit": "running"}))
    run.jobs["test"].steps["lint"].allowed = True
    assert rows(run, 10.0, live=False)[1].text.plain == "  ✗ lint  failed, allowed  9.0s"
    run.jobs["test"].steps["lint"].allowed = False
    assert rows(run, 10.0, live=False)[1].text.plain == "  ✗ lint  failed  9.0s"
    run.jobs["test"].status = "succeeded"
    assert "failed, allowed" in rows(run, 10.0, live=False)[1].text.plain, (
        "or its job would not have succeeded"
    )


def test_the_view_says_what_may_fail() -> None:
    view = {
        **summary(RUN, "running"),
        "jobs": [job_view("test", step_view("lint", "failed", continue_on_error=True), status="running")],
    }
    assert "failed, allowed" in rows(from_view(view), 10.0, live=False)[1].text.plain


def test_a_retry_counts_down() -> None:
    run = run_of(("test", "running", {"flaky": "running"}))
    body = {"job_id": "test", "job": "test", "step_id": "flaky", "step": "flaky", "attempt": 1}
    run.jobs["test"].steps = {"flaky": StepState("flaky", "test", "flaky", "running", attempt=1)}
    failed = {**body, "status": "failed", "exit_code": 2, "final": False, "retry_at": 18_000}
    run.apply(entries.ATTEMPT_COMPLETED, failed, 10.0)
    assert (
        rows(run, 10.0, live=False)[1].text.plain
        == "  ↻ flaky  attempt 1 failed: exit code 2  retrying in 8 s"
    )
    assert "retrying in 3 s" in rows(run, 15.0, live=False)[1].text.plain
    assert "retrying" not in rows(run, 18.5, live=False)[1].text.plain
    run.apply(entries.STEP_QUEUED, {**body, "attempt": 2}, 18.0)
    assert "retrying" not in rows(run, 11.0, live=False)[1].text.plain


@pytest.mark.parametrize("height", [5, 8, 12, 20])
def test_what_a_job_is_at_is_seen_among_thirty_jobs(height: int) -> None:
    run = thirty()
    retried, waits = run.jobs["job28"].steps["b"], run.jobs["job29"].steps["b"]
    retried.status, retried.reason, retried.retry_at = "pending", "attempt 1 failed: exit code 2", 18.0
    waits.status = "queued"
    lines = shown(run, height)
    assert any("b" in line and "retrying in 8 s" in line for line in lines), lines
    assert sum(line.lstrip(" ○↻●").startswith("b") or " › b" in line for line in lines) == 3, lines


def test_a_job_that_starts_again_counts_down() -> None:
    run = run_of(("test", "running", {"flaky": "failed"}))
    run.apply(
        entries.JOB_RESTARTED,
        {"job_id": "test", "job": "test", "reason": "flaky failed", "retry_at": 70_000},
        10.0,
    )
    assert "retrying in 60 s" in rows(run, 10.0, live=False)[0].text.plain


@pytest.mark.parametrize("reason", ["", "cancelled by ann", "wrong branch"])
def test_a_run_in_cleanup_after_a_cancel_is_not_reported_as_ended(reason: str) -> None:
    run = run_of(("test", "running", {"clean": "running"}))
    run.apply(entries.RUN_CANCELLING, {"run_id": RUN, "reason": reason, "by": "ann"}, 5.0)
    told = f"cancelling: {reason}" if reason else "cancelling"
    assert f"  {told}  10.0s" in headline(run, 10.0, live=True).plain
    run.apply(entries.RUN_COMPLETED, {"run_id": RUN, "status": "cancelled", "reason": reason}, 11.0)
    assert "cancelling" not in headline(run, 11.0, live=True).plain


def test_after_a_failure_come_three_commands() -> None:
    run = run_of(("test", "failed", {"unit": "failed"}))
    assert list(next_commands(run)) == [], "it still runs"
    run.status = "failed"
    commands = [line.split("  #")[0].strip() for line in next_commands(run) if line]
    assert commands == [
        "pilot run logs 5f60718a --failed",
        "pilot run rerun 5f60718a --failed",
        "pilot run view 5f60718a",
    ]
    run.jobs["test"].steps["unit"].tail.extend(["one", "two"])
    assert list(last_lines(run)) == ["", "last lines of test/unit:", "  one", "  two"]
    run.status = "cancelled"
    assert [*last_lines(run), *next_commands(run)] == []


def test_many_failures_are_counted() -> None:
    run = run_of(*[(f"job{n}", "failed", {"unit": "failed"}) for n in range(9)])
    run.status = "failed"
    for job in run.jobs.values():
        next(iter(job.steps.values())).tail.append("words")
    lines = list(last_lines(run))
    assert lines.count("  words") == 3
    assert lines[-1] == "6 more steps failed"


def test_a_frame_in_colour_is_as_wide_as_without() -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system="truecolor")
    for line in fitted(rows(thirty(), 10.0, live=True), 8, 40):
        with console.capture() as captured:
            console.print(line, no_wrap=True, overflow="ellipsis")
        assert captured.get().count("\n") == 1
