"""Completion as bash has it: the script that `pilot --show-completion` prints, in a real bash."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pilothouse.cli.completion_cache import Cache

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
PILOT = [sys.executable, "-m", "pilothouse"]
RUN = "01a21637-7227-75c2-9165-939a34f7597c"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with one saved login and a cache of what its server has."""
    for name in ("PILOT_SERVER", "PILOT_TOKEN", "PILOT_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PILOT_CONFIG_HOME", str(tmp_path))
    (tmp_path / "contexts.toml").write_text(
        'current = "work"\n[contexts.work]\nserver = "http://127.0.0.1:1"\ntoken = "pilot_x"\n'
    )
    (tmp_path / "contexts.toml").chmod(0o600)
    cache = Path(Cache().path)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(
        json.dumps({"runs": [[RUN, "shop"]], "agents": [["build-1", ""], ["x; rm -rf $HOME", ""]]})
    )
    return dict(os.environ)


@pytest.fixture
def script(env: dict[str, str]) -> str:
    """What a user sources; asked for as typer does, in the environment of a bash."""
    asked = env | {"_PILOT_COMPLETE": "source_bash"}
    printed = subprocess.run(PILOT, env=asked, capture_output=True, text=True, check=True, timeout=60)
    assert "_pilot_completion" in printed.stdout
    return printed.stdout


def offered(script: str, env: dict[str, str], *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    command = Path(env["PILOT_CONFIG_HOME"], "pilot")
    command.write_text(f'#!/bin/sh\nexec {shlex.join(PILOT)} "$@"\n')
    command.chmod(0o755)
    line = " ".join(shlex.quote(word) for word in words)
    asked = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _pilot_completion pilot\n"
    asked += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    path = f"{command.parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], env=env | {"PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pilot", "run", "vi"], ["view"]),
        (["pilot", "run", "c"], ["cancel"]),
        (["pilot", "pip"], ["pipeline"]),
        (["pilot", "-o", "json", "agent", "dr"], ["drain"]),
        (["pilot", "-o", ""], ["table", "json", "yaml"]),
        (["pilot", "run", "list", "--output", "=", "y"], ["yaml"]),
        (["pilot", "run", "list", "--output", "="], ["table", "json", "yaml"]),
        (["pilot", "run", "logs", "--ti"], ["--timestamps"]),
        (["pilot", "run", "view", ""], ["last", RUN]),
        (["pilot", "agent", "drain", ""], ["build-1"]),
        (["pilot", "config", "use", ""], ["work"]),
        (["pilot", "secret", "set", "two words", "--pro"], ["--project"]),
    ],
)
def test_bash_offers_what_fits(
    script: str, env: dict[str, str], words: list[str], expected: list[str]
) -> None:
    assert offered(script, env, *words) == expected
