"""The server's log contains no secrets."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from pilothouse.server.logs import configure_logs

configure_logs({fmt!r}, "info")

def fail():
    password = "hunter2" + "-secret"
    raise ValueError("no")

try:
    fail()
except ValueError:
    structlog.get_logger("t").exception("it.failed")
"""


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_a_traceback_shows_no_local_variables(fmt: str) -> None:
    command = (sys.executable, "-c", PROGRAM.format(fmt=fmt))
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    assert "it.failed" in said
    assert "ValueError: no" in said
    assert "hunter2-secret" not in said
