"""What idle processes have imported, compared with the list in ``imports.toml``, which says why it matters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.server import Server
from support.waiting import eventually

LISTED = tomllib.loads((Path(__file__).parent / "imports.toml").read_text())

PROGRAM = """
import atexit, os, sys, threading

def tell():
    with open(told, "w") as file:
        file.write(" ".join(sorted(sys.modules)) + ".")

def listen():
    if os.read(0, 1):
        tell()

told, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = "pilot"
atexit.register(tell)
threading.Thread(target=listen, daemon=True).start()
from pilothouse.cli.main import main
sys.exit(main())
"""
"""``pilot``, which writes the names of its modules to a file: when it is asked on stdin, and when it ends."""

OF_PYTHON = sys.stdlib_module_names | {"cython_runtime", "sitecustomize", "usercustomize"}


class Process:
    """``pilot`` with these arguments in a directory of its own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._told = directory / "modules"
        self._log = directory / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self._told), *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=environment | {"PILOT_CONFIG_HOME": str(directory)},
            )

    async def until(self, line: str) -> str:
        """Wait for text in its output; returns all of it."""
        await eventually(lambda: line in self._log.read_text())
        return self._log.read_text()

    async def idle(self) -> set[str]:
        """The packages it has imported until now."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"?")
        self._process.stdin.close()
        await eventually(lambda: self._told.exists() and self._told.read_text().endswith("."))
        return self.packages()

    def packages(self) -> set[str]:
        """Ours by their second name (``pilothouse.engine``), others by their first."""
        names = self._told.read_text().removesuffix(".").split()
        # Which an option of an index loads, too: see docs/decisions/0014-light-processes.md.
        assert "sqlalchemy.dialects.postgresql" not in names
        ours = {".".join(name.split(".")[:2]) for name in names if name.startswith("pilothouse.")}
        others = {name.partition(".")[0] for name in names if "pilothouse" not in name}
        return ours | {name for name in others - OF_PYTHON if not name.startswith("_")}

    def wait(self) -> None:
        """Wait for its end."""
        assert self._process.wait() == 0

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def pilot(directory: Path, *arguments: str) -> Iterator[Process]:
    """A running ``pilot``."""
    directory.mkdir(exist_ok=True)
    process = Process(directory, *arguments)
    try:
        yield process
    finally:
        process.close()


def compare(imported: set[str], which: str) -> None:
    """Each package is listed, and the list names nothing else, so that it cannot hide what comes back."""
    listed = {*LISTED[which]["ours"], *LISTED[which]["others"]}
    assert imported - listed == set(), (
        f"an idle {which} imports what tests/integration/imports.toml does not name"
    )
    assert listed - imported == set(), f"{which} does not import what tests/integration/imports.toml names"


async def test_an_idle_server(tmp_path: Path) -> None:
    """At its first start, when the tables are made (by a process of their own), and at later ones."""
    for start in ("first", "second"):
        arguments = ("server", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"))
        with pilot(tmp_path / start, *arguments) as server:
            await server.until("pilothouse ready")
            compare(await server.idle(), "server")


async def test_an_idle_agent(tmp_path: Path, shared_server: Server) -> None:
    token = tmp_path / "token"
    token.write_text(shared_server.registration_token())
    arguments = (
        "--server",
        shared_server.url,
        "--grpc",
        shared_server.grpc,
        "--data-dir",
        str(tmp_path / "a"),
    )
    more = ("--token-file", str(token), "--name", "idle-imports", "--slots", "1", "--linger", "600")
    with pilot(tmp_path / "agent", "agent", *arguments, *more) as agent:
        await agent.until("agent.connected")
        compare(await agent.idle(), "agent")


async def test_what_is_deferred_is_there_when_it_is_asked_for(tmp_path: Path, shared_server: Server) -> None:
    """A server as users start it has the same document as those of the tests, which have imported everything."""
    arguments = ("server", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"))
    with pilot(tmp_path / "server", *arguments) as server:
        url = re.search(r"http=(\S+)", await server.until("pilothouse ready"))
        assert url is not None
        document = httpx.get(f"{url[1]}/openapi.json")
        assert document.json() == httpx.get(f"{shared_server.url}/openapi.json").json()
        wrong = httpx.post(f"{url[1]}/api/v1/auth/login", json={"username": 1})
        assert (wrong.status_code, "password" in wrong.text) == (400, True)
        assert "pilothouse_journal_head_offset" in httpx.get(f"{url[1]}/metrics").text


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help")], ids=" ".join)
def test_a_short_command(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pilot(tmp_path / "help", *arguments) as command:
        command.wait()
        compare(command.packages(), "help")


def test_a_command_that_asks_the_server(tmp_path: Path, shared_server: Server) -> None:
    """Without the libraries of a server."""
    arguments = ("--server", shared_server.url, "--token", shared_server.admin, "run", "list", "--all")
    with pilot(tmp_path / "list", *arguments) as command:
        command.wait()
        compare(command.packages(), "run list")


def test_the_list_is_in_order() -> None:
    for section in LISTED.values():
        for names in section.values():
            assert names == sorted(set(names))
        assert all(re.fullmatch(r"pilothouse\.\w+", name) for name in section["ours"])
