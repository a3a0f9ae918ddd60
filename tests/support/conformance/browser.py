"""Debian's Chromium with one page of the server's own origin, logged in by the server's cookie."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Page, Request, async_playwright

from support.server import PASSWORD, Server

CHROMIUM = "/usr/bin/chromium"
ARGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # whatever it may think of: it stays at home
]

_LOG_IN = """async ([username, password]) => {
  const answer = await fetch("/api/v1/auth/login", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({username, password}),
  });
  return answer.status;
}"""

_COLLECT = """([name, path, types, last]) => {
  const got = window[name] = [];
  const source = new EventSource(path);
  for (const type of types) source.addEventListener(type, (event) => {
    got.push([event.lastEventId, event.type, event.data]);
    if (type === last) source.close();  // else it would come back for ever
  });
}"""

_CHAT = """([name, path, enough]) => {
  const told = window[name] = {messages: [], ends: [], extensions: [], over: false};
  const open = (cursor) => {
    const socket = new WebSocket(`ws://${location.host}${path}?cursor=${cursor}`);
    let here = 0;
    socket.onopen = () => told.extensions.push(socket.extensions);
    socket.onmessage = ({data}) => {
      told.messages.push(data);
      if (++here === enough) socket.close();
    };
    socket.onclose = ({code, wasClean}) => {
      told.ends.push([code, wasClean]);
      const last = JSON.parse(told.messages.at(-1));
      if (last.type === "workflow_completed") told.over = true;
      else open(last.cursor);
    };
  };
  open("start");
}"""

_TOO_MUCH = """([path, size]) => new Promise((done) => {
  const socket = new WebSocket(`ws://${location.host}${path}`);
  socket.onopen = () => socket.send("x".repeat(size));
  socket.onmessage = () => done(0);
  socket.onclose = ({code}) => done(code);
})"""


@dataclass
class Browser:
    """The page and what it asked for. ``said`` is its console, ``errors`` are exceptions of its scripts."""

    page: Page
    requests: list[Request] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def collect(self, name: str, path: str, types: list[str]) -> None:
        """Open an ``EventSource`` and keep its events of these types, up to one of the last type."""
        await self.page.evaluate(_COLLECT, [name, path, types, types[-1]])

    async def chat(self, name: str, path: str, enough: int) -> None:
        """Open a ``WebSocket``; close it after so many messages and open the next with the last cursor, to the end."""
        await self.page.evaluate(_CHAT, [name, path, enough])

    async def told(self, name: str) -> dict[str, Any]:
        """What :meth:`chat` received: ``messages``, of each socket ``ends`` (code, clean) and ``extensions``, and ``over``."""
        return dict(await self.page.evaluate(f"window.{name}"))

    async def end_of_large_message(self, path: str, size: int) -> int:
        """Send one message of so many characters: the code it is refused with, 0 if it is answered."""
        return int(await self.page.evaluate(_TOO_MUCH, [path, size]))

    async def got(self, name: str) -> list[tuple[str, str, str]]:
        """What has been collected so far: id, type and data of each event."""
        return [tuple(event) for event in await self.page.evaluate(f"window.{name}")]

    async def last_event_ids(self, path: str) -> list[str | None]:
        """The ``Last-Event-ID`` of every request for this path that was answered, ``None`` where it has none."""
        asked = [request for request in self.requests if request.url.endswith(path)]
        answered = [request for request in asked if await request.response() is not None]
        return [(await request.all_headers()).get("last-event-id") for request in answered]


@contextlib.asynccontextmanager
async def browser(server: Server) -> AsyncIterator[Browser]:
    """A fresh one that is surely gone afterwards."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        try:
            made = Browser(await chromium.new_page())
            page: Any = made.page
            page.on("request", lambda request: made.requests.append(request))
            page.on("console", lambda message: made.said.append(message.text))
            page.on("pageerror", lambda error: made.errors.append(str(error)))
            await page.goto(f"{server.url}/docs")  # a page of its origin
            assert await page.evaluate(_LOG_IN, ["admin", PASSWORD]) == 200
            yield made
        finally:
            await chromium.close()
