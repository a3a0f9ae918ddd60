"""Servers that cannot start, each in a process of its own that comes from one which has imported everything already."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from support.server import Server, lines_of
from support.waiting import PATIENCE

_PROGRAM = """
import json, os, sys
import uvloop
from pilothouse.server.main import serve
from pilothouse.server.settings import Settings
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
        sys.exit(uvloop.run(serve(Settings(**asked["settings"]))))
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Starter:
    """Starts servers one after another. Imports, most of the cost of a start, happen once."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,
        )
        self._said = lines_of(self._process)

    def fails(self, server: Server) -> str:
        """Start a server that cannot; it must say why in one line and exit with 1. Gives the line."""
        assert self._process.stdin is not None
        asked = {"settings": server.settings, "log": str(server.log_file)}
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            said = self._said.get(timeout=PATIENCE)
            if not said.startswith("ended"):
                self.close()  # the server runs, and nobody will end it
            assert said == "ended 1\n", (said, server.log())
        finally:
            server.close()
        log = server.log()
        assert "Traceback" not in log
        words = [line for line in log.splitlines() if line.startswith("pilothouse cannot start: ")]
        assert len(words) == 1, log
        return words[0]

    def close(self) -> None:
        """End it, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(PATIENCE)


@contextlib.contextmanager
def starting() -> Iterator[Starter]:
    """A starter that is surely gone afterwards."""
    starter = Starter()
    try:
        yield starter
    finally:
        starter.close()
