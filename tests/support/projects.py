"""Projects that are not ours, run as their authors would run them: `pilot up`, and `pilot pipeline run` in a checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.waiting import PATIENCE

SOURCES = Path(__file__).parent.parent / "projects" / "sources"
RUN_WITHIN = 900  # seconds; installing from a registry on a busy machine
UP = ("up", "--port", "0", "--grpc-port", "0", "--data-dir", "data")
_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code of the command, what it said, and the status of every step as ``job/step``."""

    code: int
    said: str
    run_id: str
    steps: Mapping[str, str]

    def with_status(self, *statuses: str) -> set[str]:
        return {name for name, status in self.steps.items() if status in statuses}


class Machine:
    """A server with its own agent, and an empty home directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pythons = two_pythons()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PILOT_", "GIT_"))}
        directories = [str(python.parent) for python in self.pythons]
        self.environment = {
            **kept,
            "HOME": str(home),
            "PATH": os.pathsep.join([*directories, kept["PATH"]]),
            "PILOT_CONFIG_HOME": str(home / "config"),
            "PILOT_RATELIMIT_DEFAULT": "off",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        with (home / "up.log").open("w") as log:
            self._server = subprocess.Popen(
                (sys.executable, "-m", "pilothouse", *UP),
                cwd=home,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._server.stdout is not None
        ready = self._server.stdout.readline()
        assert ready.startswith("pilothouse ready "), (home / "up.log").read_text()

    def close(self) -> None:
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(PATIENCE)

    def git(self, directory: Path, *words: str) -> None:
        identity = ("-c", "user.name=Author", "-c", "user.email=author@example.com")
        subprocess.run(["git", *identity, *words], cwd=directory, env=self.environment, check=True)

    def project(self, name: str) -> Path:
        """A fresh checkout of a project, everything committed."""
        directory = self.home / name
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(SOURCES / name, directory)
        self.git(directory, "init", "--quiet", "--initial-branch=main")
        self.git(directory, "add", "--all")
        self.git(directory, "commit", "--quiet", "--message=The project as released")
        return directory

    def pilot(self, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pilothouse", *words],
            cwd=directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_WITHIN,
            check=False,
        )

    def run(self, directory: Path, *options: str) -> Outcome:
        """`pilot pipeline run` there, and the run as it is afterwards."""
        done = self.pilot(directory, "pipeline", "run", "--progress", "plain", *options)
        said = done.stdout + done.stderr
        found = re.search(r"run ([0-9a-f-]{36})", said)
        assert found, said
        view = self.pilot(directory, "run", "view", found[1], "-o", "json")
        steps = {
            f"{job['name']}/{step['name']}": step["status"]
            for job in self._json(view)["jobs"]
            for step in job["steps"]
        }
        return Outcome(done.returncode, said, found[1], steps)

    def python_variables(self) -> list[str]:
        """Options that name the two interpreters of this machine."""
        older, newer = (python.name for python in self.pythons)
        return ["--var", f"older={older}", "--var", f"newer={newer}"]

    @staticmethod
    def _json(done: subprocess.CompletedProcess[str]) -> Any:
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def two_pythons() -> tuple[Path, Path]:
    """The oldest and the newest interpreter of at least 3.10 here, found on PATH or installed by pyenv."""
    installed = sorted(Path.home().glob(".pyenv/versions/*/bin"))
    path = os.pathsep.join([*map(str, installed), os.environ["PATH"]])
    found = [Path(python) for version in _VERSIONS if (python := shutil.which(f"python{version}", path=path))]
    if len(found) < 2:
        missing(
            f"two Python versions of at least {_VERSIONS[0]} (found: {[python.name for python in found]})"
        )
    return found[0], found[-1]


def missing(what: str) -> None:
    """This machine lacks what the test needs: skipped with the reason, or failed where CI wants everything."""
    if os.environ.get("PILOT_TEST_REQUIRE_ALL"):
        pytest.fail(f"this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")


def replace(file: Path, old: str, new: str) -> None:
    """Break something: `old`, which is there exactly once, becomes `new`."""
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
    file.write_text(text.replace(old, new))
