"""Answers that no Pilothouse server gives: the command line names the request, and does not call it a bug of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_api import RUN, Fake, serving

COMMANDS = {
    "GET /workflow-runs": ("run", "list"),
    f"GET /workflow-runs/{RUN}": ("run", "view", RUN),
    "GET /agents": ("agent", "list"),
    "GET /pipelines": ("pipeline", "list"),
    "GET /projects": ("project", "list"),
    "GET /tokens": ("token", "list"),
    "POST /tokens": ("token", "create", "x"),
    "GET /auth/me": ("whoami",),
}
ODD: dict[str, Any] = {
    "an empty object": {},
    "a list": [],
    "a text": "hello",
    "null": None,
    "a number for each list": dict.fromkeys(("runs", "agents", "tokens", "pagination", "detail"), 5),
    "lists of numbers": {"runs": [5], "agents": [5], "tokens": [5], "detail": {"list": [5]}},
    "lists of empty objects": {"runs": [{}], "agents": [{}], "tokens": [{}], "detail": {"list": [{}]}},
}


@pytest.fixture(scope="module")
def fake() -> Iterator[type[Fake]]:
    with serving() as handler:
        yield handler


@pytest.mark.parametrize("asked", COMMANDS)
def test_an_odd_answer_is_named(fake: type[Fake], tmp_path: Path, asked: str) -> None:
    environment = {**os.environ, "PILOT_SERVER": fake.url, "PILOT_TOKEN": "t0ken", "HOME": str(tmp_path)}  # type: ignore[attr-defined]
    for kind, answer in ODD.items():
        fake.answers.clear()
        fake.answers.update({f"{method} {path}": (200, answer) for method, path in map(str.split, COMMANDS)})
        fake.answers[asked] = (200, answer)
        command = [sys.executable, "-m", "pilothouse", *COMMANDS[asked]]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert "internal error" not in done.stderr, (kind, done.stderr)
        assert "Traceback" not in done.stderr, (kind, done.stderr)
        if done.returncode:
            assert "UNEXPECTED_ANSWER" in done.stderr, (kind, done.stderr)
            assert "/api/v1/" in done.stderr, (kind, done.stderr)
        else:
            assert kind.startswith(("lists of", "an empty", "null")), (kind, done.stdout)
