"""Our server with an echo among its routes, for conformance cases that expect one.

``/echo`` reads and writes through a socket that it took from the server, as every stream of ours does. All else is ``pilothouse.server.main.serve`` as it is, save the bound on a message: the
suite's largest have 16 MiB, and that ours holds at 1 MiB is seen on the real endpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from pilothouse.edge.streaming import Message, accepted
from pilothouse.journal.framing import text_frame
from pilothouse.server import main
from pilothouse.server.graph import Graph
from pilothouse.server.settings import Settings
from support.server import Server

LARGEST = 16 << 20
"""Bytes of the largest message of the suite."""

_TESTS = Path(__file__).parents[2]


class EchoServer(Server):
    """The same server as everywhere in the tests, but with the echo."""

    def spawn(self) -> subprocess.Popen[str]:
        """Start the process and wait for nothing."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        with self.log_file.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.conformance.echo", json.dumps(self.settings)],
                cwd=_TESTS,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        return self._process


@contextlib.contextmanager
def echoing(directory: Path) -> Iterator[EchoServer]:
    """A started echo server that is surely gone afterwards."""
    server = EchoServer(directory)
    try:
        yield server.start()
    finally:
        server.close()


async def echo(ws: WebSocket) -> None:
    """As in our streams: take over the socket and return; it stays open."""
    async with accepted(ws) as socket:

        async def heard(message: Message) -> None:
            await socket.drain()
            if isinstance(message, str):
                socket.say(message.encode())
            else:
                socket.write(b"\x82" + text_frame(message)[1:])  # the same, but binary

        socket.listen(heard)


def with_echo(graph: Graph) -> FastAPI:
    """The real application and one route more."""
    app = _build_app(graph)
    app.router.routes.append(WebSocketRoute("/echo", echo))
    return app


class _Config(uvicorn.Config):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "ws_max_size": LARGEST})


_build_app = main.build_app

if __name__ == "__main__":
    main.build_app = with_echo
    uvicorn.Config = _Config  # type: ignore[misc]
    sys.exit(uvloop.run(main.serve(Settings(**json.loads(sys.argv[1])))))
