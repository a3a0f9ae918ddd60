"""Programs of other languages and generators of clients, installed from lock files once for all checkouts.

They are in ``$XDG_CACHE_HOME/pilothouse-tests`` (``~/.cache``), each under a name with the hash of its lock file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
TYPESCRIPT = ROOT / "tests" / "conformance" / "typescript"
"""The program, its dependencies and their lock file."""
GENERATOR_LOCK = ROOT / "requirements" / "conformance.lock"
PATIENCE = 240.0
"""Seconds for a download, or for a compiler on a busy machine."""


def node_modules() -> Path:
    """The packages of ``tests/conformance/typescript``."""
    return _installed("npm", TYPESCRIPT / "package-lock.json", _npm) / "node_modules"


def generator() -> Path:
    """The ``bin`` of a virtual environment with openapi-python-client."""
    return _installed("python", GENERATOR_LOCK, _venv) / "bin"


def run(
    *command: str | Path, cwd: Path, check: bool = True, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A finished command with its output; ``path``: where programs are looked for first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def _npm(directory: Path) -> None:
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(TYPESCRIPT / name, directory)
    run("npm", "ci", "--ignore-scripts", cwd=directory)


def _venv(directory: Path) -> None:
    run(sys.executable, "-m", "venv", directory, cwd=directory)
    run(
        directory / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "-r",
        GENERATOR_LOCK,
        cwd=directory,
    )


def _installed(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """The directory that ``install`` has filled, now or in an earlier run; test processes wait for each other."""
    # A virtual environment has its interpreter's path in it.
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse-tests"
    directory = cache / f"{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}-{digest}.lock").open("w") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        done = directory / ".done"
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)  # one that was not finished
            directory.mkdir()
            install(directory)
            done.touch()
    return directory
