"""Our own agent as a process beside a server of a test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.server import Server
from support.waiting import PATIENCE


@contextlib.contextmanager
def agent(server: Server, name: str, data_dir: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real agent; it alone has the label ``only=<name>``."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PILOT_", "GIT_"))}
    inherited["PILOT_AGENT_TOKEN"] = server.registration_token()
    command = [sys.executable, "-m", "pilothouse", "agent", "--server", server.url, "--grpc", server.grpc]
    options = ["--name", name, "--label", f"only={name}", "--data-dir", str(data_dir), "--slots", "3"]
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *options], env={**inherited, **environment}, stdout=log, stderr=log, cwd="/"
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)
