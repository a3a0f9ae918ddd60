"""The live view on terminals: small, resized, and without cursor movement."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from support.fake_api import RUN, Fake, job_view, logged_in, serving, step_view, summary
from support.terminal import Terminal

KEYS = {"run_id": RUN, "name": "shop"}
Watch = Callable[..., Terminal]


@pytest.fixture
def fake() -> Iterator[type[Fake]]:
    with serving() as handler:
        yield handler


@pytest.fixture
def watch(fake: type[Fake], tmp_path: Path) -> Iterator[Watch]:
    opened: list[Terminal] = []
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("PILOT_") and k not in ("NO_COLOR", "COLUMNS", "LINES")
    }

    def start(*words: str, columns: int = 80, lines: int = 24, **environment: str) -> Terminal:
        command = (sys.executable, "-m", "pilothouse", "run", "watch", RUN, *words, *logged_in(fake))
        more = {"PILOT_CONFIG_HOME": str(tmp_path), **environment}
        opened.append(Terminal(command, str(tmp_path), clean | more, columns, lines))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def frames(*told: tuple[str, dict[str, Any]]) -> list[bytes]:
    made = []
    for number, (type, more) in enumerate(told):
        event = {"type": type, "time": "2026-01-10T14:23:46Z", "source": "/run/x", "data": {**KEYS, **more}}
        made.append(f"id: e.{number}.0\nevent: {type}\ndata: {json.dumps(event)}\n\n".encode())
    return made


def going_on(fake: type[Fake], jobs: list[dict[str, Any]], *told: tuple[str, dict[str, Any]]) -> None:
    """A running run: its stream ends and the reader reconnects."""
    fake.answers[f"GET /workflow-runs/{RUN}"] = (
        200,
        {**summary(RUN, "running"), "name": "shop", "jobs": jobs},
    )
    fake.answers["GET /events"] = (200, frames(*told))


def finish(fake: type[Fake], status: str, *told: tuple[str, dict[str, Any]]) -> None:
    over = ("run.completed", {"status": status, "reason": "", "duration": 1500})
    fake.answers["GET /events"] = (200, frames(*told, over))


def thirty() -> list[dict[str, Any]]:
    name = "a-rather-long-name-of-a-job-number-{}"
    waiting = [
        job_view(
            name.format(n),
            step_view("work", "queued", reason="all 2 slots of agent local are taken"),
            status="running",
        )
        for n in range(28)
    ]
    busy = [
        job_view(name.format(n), step_view("compiling-日本語", "running"), status="running") for n in (28, 29)
    ]
    return [*waiting, *busy]


STEP = {"job_id": "build", "job": "build", "step_id": "compile", "step": "compile", "attempt": 1}


@pytest.mark.parametrize(("columns", "lines"), [(80, 20), (60, 20), (40, 12), (100, 8)])
def test_small_terminals(fake: type[Fake], watch: Watch, columns: int, lines: int) -> None:
    going_on(fake, thirty())
    terminal = watch(columns=columns, lines=lines)
    seen = terminal.until("28 waiting")
    assert len(seen) <= lines
    assert all(cell_len(line) <= columns for line in seen), seen
    assert any("number-28" in line or "ber-28" in line or "日本語" in line for line in seen), seen
    assert sum("日本語" in line for line in seen) == 2, seen
    assert RUN[-8:] in seen[0]
    finish(fake, "succeeded")
    assert terminal.ended() == 0
    assert terminal.screen.cursor_shown
    assert terminal.screen.unknown == []


def test_a_window_that_changes(fake: type[Fake], watch: Watch) -> None:
    going_on(fake, thirty())
    terminal = watch(columns=120, lines=40)
    terminal.until(RUN)
    for columns, lines in ((40, 12), (70, 30), (30, 6), (120, 40)):
        terminal.resize(columns, lines)
        shown = RUN if columns == 120 else RUN[-8:]
        # What was on its way when the window changed is redrawn; then there is one frame, at the top.
        terminal.until(lambda seen, id=shown: id in seen[0] and sum("  run " in line for line in seen) == 1)
    finish(fake, "succeeded")
    assert terminal.ended() == 0


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(fake: type[Fake], watch: Watch) -> None:
    going_on(fake, [], ("run.started", {}), ("step.started", {**STEP, "agent_id": "local"}))
    terminal = watch(TERM="dumb")
    terminal.until("step build/compile: started on agent local")
    finish(fake, "failed", ("step.logged", {**STEP, "lines": ["boom"]}))
    assert terminal.ended() == 5
    assert "build/compile | boom" in terminal.screen.all
    assert "pilot run logs 5f60718a --failed" in terminal.screen.all


def test_progress_is_chosen(fake: type[Fake], watch: Watch) -> None:
    finish_now = ("step.logged", {**STEP, "lines": ["\x9b2Jboom\u202e"]})
    going_on(fake, [])
    finish(fake, "succeeded", finish_now)
    plain = watch("--progress", "plain")
    assert plain.ended() == 0
    assert "build/compile | boom<U+202E>" in plain.screen.all
    for told in ((("--progress", "json"), {}), ((), {"PILOT_PROGRESS": "json"})):
        terminal = watch(*told[0], columns=1000, **told[1])
        assert terminal.ended() == 0
        events = [json.loads(line) for line in terminal.screen.all.splitlines() if line]
        assert [event["type"] for event in events] == ["step.logged", "run.completed"]
        assert events[0]["data"]["lines"] == ["\x9b2Jboom\u202e"]
        assert events[0]["time"] == "2026-01-10T14:23:46.000Z"
    tree = watch("--progress", "tty", PILOT_PROGRESS="json")
    assert tree.ended() == 0
    assert "✓ shop" in tree.screen.all, "the option is stronger"


def test_ctrl_c_leaves_a_tidy_screen(fake: type[Fake], watch: Watch) -> None:
    going_on(fake, thirty())
    terminal = watch()
    terminal.until("28 waiting")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.ended() == 130
    assert terminal.screen.cursor_shown
    assert [line for line in terminal.screen.visible if line] == [
        f"detached; the run continues. Reattach with: pilot run watch {RUN[-8:]}",
    ]


def test_a_failure_ends_with_the_last_lines_and_commands(fake: type[Fake], watch: Watch) -> None:
    going_on(fake, [job_view("build", step_view("compile", "running"), status="running")])
    lines = ("step.logged", {**STEP, "lines": [f"line {n}" for n in range(30)]})
    ended = ("step.completed", {**STEP, "status": "failed", "exit_code": 2, "duration": 10})
    over = (
        "job.completed",
        {"job_id": "build", "job": "build", "status": "failed", "reason": "compile failed"},
    )
    finish(fake, "failed", lines, ended, over)
    terminal = watch(lines=60)
    assert terminal.ended() == 5
    shown = terminal.screen.all
    assert "last lines of build/compile:\n  line 10\n" in shown
    for what in ("logs 5f60718a --failed", "rerun 5f60718a --failed", "view 5f60718a"):
        assert f"pilot run {what}" in shown


def test_the_end_of_a_run_on_a_narrow_terminal(fake: type[Fake], watch: Watch) -> None:
    """Words stay whole, and commands are on a line each, ready to be copied."""
    name = "unit-tests-with-a-rather-long-name"
    going_on(fake, [job_view(name, step_view("compile", "running"), status="running")])
    ended = (
        "step.completed",
        {**STEP, "job_id": name, "job": name, "status": "failed", "exit_code": 2, "duration": 10},
    )
    over = ("job.completed", {"job_id": name, "job": name, "status": "failed", "reason": "compile failed"})
    finish(fake, "failed", ended, over)
    terminal = watch(columns=48, lines=60)
    assert terminal.ended() == 5
    shown = [line for line in terminal.screen.all.splitlines() if line]
    assert all(cell_len(line) <= 48 for line in shown)
    assert sum(name in line for line in shown) == 1
    assert shown[-3:] == [
        "  pilot run logs 5f60718a --failed",
        "  pilot run rerun 5f60718a --failed",
        "  pilot run view 5f60718a",
    ]
