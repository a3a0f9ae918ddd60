"""Values that must not show anywhere, and the search for them: in files, tables, answers, process arguments."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, select

from pilothouse.server import graph  # noqa: F401  (imports every package's tables)
from pilothouse.storage import metadata
from support.server import Server


def forms(value: str) -> set[bytes]:
    """The value as it may stand somewhere, made independently of the masker."""
    data = value.encode()
    found = {data, data.hex().encode(), data.hex().upper().encode(), quote(value, safe="").encode()}
    found |= {json.dumps(value)[1:-1].encode(), value.upper().encode(), value.lower().encode()}
    for before in range(3):
        first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
        found.add(base64.b64encode(bytes(before) + data)[first:last])
        found.add(base64.urlsafe_b64encode(bytes(before) + data)[first:last])
    return found


class Planted:
    """Values by what they are, and where they were found."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._forms: list[tuple[str, bytes]] = []
        self.found: set[tuple[str, str]] = set()
        self.searched: dict[str, int] = {}

    def add(self, name: str, value: str) -> str:
        """Plant a value; returns it."""
        assert len(value) >= 8, f"{name} is too short to be told from other text"
        self._values[name] = value
        self._forms += [(name, form) for form in forms(value)]
        return value

    def search(self, where: str, data: bytes | str) -> None:
        """Note which values are in the data."""
        content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        self.searched[where] = self.searched.get(where, 0) + len(content)
        self.found |= {(name, where) for name, form in self._forms if form in content}

    def search_files(self, where: str, paths: Iterable[Path]) -> None:
        """Every byte of the files below these paths."""
        for path in paths:
            for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
                with contextlib.suppress(OSError):  # it is gone meanwhile, or a socket
                    if file.is_file():
                        self.search(f"{where}: {file.name}", file.read_bytes())

    def search_tables(self, server: Server) -> None:
        """Every cell of every table."""
        url = server.settings.get("database_url") or f"sqlite:///{server.data_dir / 'pilothouse.db'}"
        engine = create_engine(url)
        with engine.connect() as conn:
            for table in metadata.sorted_tables:
                for row in conn.execute(select(table)):
                    for column, cell in row._mapping.items():
                        data = cell if isinstance(cell, bytes) else str(cell)
                        self.search(f"table {table.name}.{column}", data)
        engine.dispose()

    @contextlib.contextmanager
    def watching_processes(self) -> Iterator[None]:
        """Look at the arguments of all processes of this machine again and again."""
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                for pid in filter(str.isdigit, os.listdir("/proc")):
                    with contextlib.suppress(OSError):
                        self.search("process arguments", Path(f"/proc/{pid}/cmdline").read_bytes())
                over.wait(0.02)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def watch_answers(self, server: Server) -> None:
        """Search every answer of the server that `Server.call` gets from now on, but those that hand a token out."""

        def look(response: Any) -> None:
            response.read()
            if (response.request.method, response.request.url.path) not in _TOKENS or response.is_error:
                self.search(
                    f"answer of {response.request.method} {response.request.url.path}", response.content
                )

        server.http.event_hooks["response"].append(look)


_TOKENS = {("POST", f"/api/v1/{path}") for path in ("auth/login", "tokens", "registration-tokens")}
