"""The ``pilot`` command when its output, server or terminal disappears."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_api import RUN, Fake, chunk, logged, logged_in, serving, story, watched
from support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PILOT_") or name == "NO_COLOR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PILOT_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def fake() -> Iterator[type[Fake]]:
    with serving() as handler:
        yield handler


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_is_no_drama(fake: type[Fake], lines: int) -> None:
    logged(fake, *[chunk("build", "compile", *["one"] * min(lines, 200))] * (lines // 200 or 1))
    ours, theirs = os.pipe()
    os.close(ours)  # there is no reader from the start: nothing depends on who is faster
    command = (sys.executable, "-m", "pilothouse", "run", "logs", RUN, *logged_in(fake))
    with open(theirs, "wb") as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "arguments", [("run", "list"), ("run", "list", "-o", "json"), ("run", "logs", RUN), ("--help",)]
)
def test_a_full_device_is_reported_in_one_line(fake: type[Fake], arguments: tuple[str, ...]) -> None:
    watched(fake, "succeeded")
    logged(fake, *[chunk("build", "compile", *["one"] * 200)] * 500)
    target = () if arguments == ("--help",) else logged_in(fake)
    command = (sys.executable, "-m", "pilothouse", *arguments, *target)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("module", ["typer", "rich.console", "httpx"])
def test_ctrl_c_while_modules_are_loaded(module: str, fake: type[Fake]) -> None:
    watched(fake, "succeeded")
    program = f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # as a terminal has it, whatever the tests were started from

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from pilothouse.cli.main import main
sys.exit(main())
"""
    command = (sys.executable, "-c", program, "run", "list", *logged_in(fake))
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_the_live_view_shows_a_lost_connection(fake: type[Fake]) -> None:
    watched(fake, "succeeded")
    whole = fake.answers["GET /events"]
    fake.answers["GET /events"] = (200, story("succeeded")[:3])  # and then it ends
    ours, theirs = pty.openpty()
    command = (sys.executable, "-m", "pilothouse", "run", "watch", RUN, *logged_in(fake))
    environment = {**os.environ, "TERM": "xterm", "LINES": "30"}
    watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = ""

    def screen_until(words: str) -> None:
        nonlocal seen
        end = time.monotonic() + PATIENCE
        while words not in seen:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # EIO: the other end is closed
                    seen += os.read(ours, 65536).decode("utf-8", "replace")

    try:
        screen_until("compile")
        fake.answers["GET /events"] = (503, {"message": "no", "code": "STORAGE_BUSY"})
        screen_until("connection lost; reconnecting for ")
        fake.answers["GET /events"] = whole
        screen_until("✓")
        assert watching.wait(PATIENCE) == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert "connection lost (" not in seen, "said by the picture alone"
