"""A directory and the ``pilot`` commands run in it, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import nursery
from support.waiting import PATIENCE

Done = subprocess.CompletedProcess[str]
PILOT = (sys.executable, "-m", "pilothouse")


def git(directory: Path, *words: str) -> None:
    """Run git with a test identity."""
    command = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words)
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


class Desk:
    """``url`` and ``token`` are those of a server; ``home`` holds the saved logins."""

    def __init__(self, directory: Path, url: str, token: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PILOT_")
        }
        for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
            self.environment.pop(name, None)
        self.environment |= {"PILOT_SERVER": url, "PILOT_TOKEN": token}
        self.environment["PILOT_CONFIG_HOME"] = str(directory.parent / "config-home")

    def write(self, name: str, text: str) -> None:
        """A file here."""
        (self.directory / name).write_text(text)

    def commit(self, origin: str = "") -> None:
        """All files here, in a git repository."""
        git(self.directory, "init", "-q")
        if origin:
            git(self.directory, "remote", "add", "origin", origin)
        git(self.directory, "add", ".")
        git(self.directory, "commit", "-q", "-m", "all")

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """A command, started."""
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return subprocess.Popen(
            (*PILOT, *words), cwd=self.directory, env=self.environment, text=True, encoding="utf-8", **more
        )

    def pilot(self, *words: str, stdin: str = "", env: dict[str, str] | None = None) -> Done:
        """A command, ended."""
        environment = self.environment | (env or {})
        return nursery.pilot(words, cwd=self.directory, env=environment, stdin=stdin, timeout=2 * PATIENCE)

    def good(self, *words: str, **more: Any) -> str:
        """A command that must succeed; its stdout."""
        done = self.pilot(*words, **more)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout
