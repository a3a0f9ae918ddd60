"""The client against a real HTTP server that breaks in every way we know of."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pilothouse.client import ApiProblem, Event, PilotClient, Unreachable
from pilothouse.client.paging import collect
from support.waiting import PATIENCE

Body = AsyncIterator[bytes]


class Journal:
    """Entries of one run as the server would send them, and a script of how each connection goes wrong."""

    def __init__(self, count: int) -> None:
        self.entries = [self._frame(number, "step.logged", {"n": number}) for number in range(count)]
        self.entries.append(self._frame(count, "run.completed", {"status": "succeeded"}))
        self.script: list[Callable[[int], Body]] = []
        self.asked: list[tuple[str | None, str | None]] = []

    @staticmethod
    def _frame(offset: int, type: str, data: dict[str, Any]) -> bytes:
        event = {
            "specversion": "1.0",
            "id": f"e.{offset}.0",
            "source": "/run/r1",
            "type": type,
            "time": "2026-01-10T14:23:45.000Z",
            "data": data,
        }
        return f"id: e.{offset + 1}.0\nevent: {type}\ndata: {json.dumps(event)}\n\n".encode()

    async def serve(self, request: Request) -> Response:
        place = request.headers.get("last-event-id")
        cursor = request.query_params.get("cursor")
        self.asked.append((place, cursor))
        given = place or cursor
        start = int(given.split(".")[1]) if given and given.startswith("e.") else 0
        behaviour = self.script.pop(0) if self.script else self.whole
        answer = behaviour(start)
        if isinstance(answer, Response):
            return answer
        return StreamingResponse(answer, media_type="text/event-stream")

    # -- behaviours --------------------------------------------------------------------------------------

    async def whole(self, start: int) -> Body:
        yield b":\n\n"
        for frame in self.entries[start:]:
            yield frame
        await asyncio.sleep(3600)  # as the real one: open for ever

    def cut_after(self, size: int) -> Callable[[int], Body]:
        """The connection breaks after this many bytes."""

        async def body(start: int) -> Body:
            yield b"".join(self.entries[start:])[:size]
            raise ConnectionAbortedError

        return body

    def ended_after(self, count: int) -> Callable[[int], Body]:
        """An orderly end, as when a server is stopped."""

        async def body(start: int) -> Body:
            yield b"".join(self.entries[start : start + count])

        return body

    def silent_after(self, count: int) -> Callable[[int], Body]:
        """The connection is open, but the other end does not respond."""

        async def body(start: int) -> Body:
            yield b"".join(self.entries[start : start + count]) or b":\n\n"
            await asyncio.sleep(3600)

        return body


def refuse(status: int, code: str, **headers: str) -> Callable[[int], Any]:
    body = {"error": code, "message": f"said {code}", "code": code, "timestamp": "…", "request_id": "req-1"}
    return lambda _start: JSONResponse(
        body, status, {name.replace("_", "-"): value for name, value in headers.items()}
    )


Endpoint = Callable[[Request], Awaitable[Response]]


@asynccontextmanager
async def serving(routes: dict[str, Endpoint], port: int = 0) -> AsyncIterator[str]:
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(
        routes=[Route(f"/api/v1{path}", endpoint, methods=every) for path, endpoint in routes.items()]
    )
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", port))
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def connected(**routes: Endpoint) -> AsyncIterator[PilotClient]:
    paths = {"/" + name.replace("__", "/"): endpoint for name, endpoint in routes.items()}
    async with serving(paths) as url, PilotClient(url, "tok") as client:
        yield client


async def read(events: Any) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


def numbers(events: list[Event]) -> list[int]:
    return [event.data["n"] for event in events if event.type == "step.logged"]


# -- events -------------------------------------------------------------------------------------------------


async def test_watching_a_run_ends_with_it() -> None:
    journal = Journal(5)
    async with connected(events=journal.serve) as client:
        events = await read(client.watch_run("r1"))
    assert numbers(events) == [0, 1, 2, 3, 4]
    last = events[-1]
    assert (last.type, last.cursor, last.source) == ("run.completed", "e.6.0", "run/r1")
    assert last.time.isoformat() == "2026-01-10T14:23:45+00:00"
    assert journal.asked == [(None, None)]


async def test_no_break_loses_or_doubles_an_event() -> None:
    journal = Journal(40)
    size = len(b"".join(journal.entries))
    journal.script = [journal.cut_after(n) for n in (size // 3, 10, 700, 1)] + [
        journal.ended_after(3),
        journal.ended_after(0),
        refuse(503, "STORAGE_BUSY", retry_after="0"),
        refuse(502, "BAD_GATEWAY"),
        journal.cut_after(401),
    ]
    reasons: list[str] = []
    opened: list[int] = []
    async with connected(events=journal.serve) as client:
        watching = client.watch_run("r1", on_reconnect=reasons.append, on_connect=lambda: opened.append(1))
        events = await read(watching)
    assert numbers(events) == list(range(40))
    assert len(reasons) == 9
    assert len(opened) == 8, "each time the server took us in; two refused"
    ours = {"the server closed the connection", "the server ended the stream"}
    ours |= {"said STORAGE_BUSY", "said BAD_GATEWAY"}
    assert set(reasons) <= ours, "none of a library's"
    assert len(journal.asked) == 10
    cursors = [event.cursor for event in events]
    assert all(place is None or place in cursors for place, _ in journal.asked)


async def test_a_dead_connection_is_noticed() -> None:
    journal = Journal(3)
    journal.script = [journal.silent_after(2)]
    reasons: list[str] = []
    async with connected(events=journal.serve) as client:
        events = client.events(stream="run/r1", on_reconnect=reasons.append, idle_timeout=0.3)
        async with aclosing(events):
            found = [(await anext(events)).data.get("n") for _ in range(4)]
    assert found == [0, 1, 2, None]
    assert set(reasons) == {"no data for 0.3 s"}  # again, where the server is slower than that


async def test_a_retry_after_of_a_year(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilothouse.client.events.PATIENCE", 0.01)
    journal = Journal(5)
    journal.script = [
        journal.ended_after(2),
        *(refuse(503, "BUSY", retry_after=said) for said in ("3e7", "inf")),
    ]
    async with connected(events=journal.serve) as client:
        assert numbers(await read(client.watch_run("r1"))) == list(range(5))


async def test_a_given_cursor_is_where_it_begins() -> None:
    journal = Journal(5)
    journal.script = [journal.ended_after(0)]
    async with connected(events=journal.serve) as client:
        events = await read(client.watch_run("r1", cursor="e.3.0"))
    assert numbers(events) == [3, 4]
    assert journal.asked == [(None, "e.3.0"), (None, "e.3.0")]


async def test_a_server_that_comes_back_is_found_again() -> None:
    journal = Journal(6)
    journal.script = [journal.silent_after(3)]
    reasons: list[str] = []
    lost = asyncio.Event()

    def note(reason: str) -> None:
        reasons.append(reason)
        lost.set()

    async with serving({"/events": journal.serve}) as url:
        port = int(url.rsplit(":", 1)[1])
        client = PilotClient(url)
        events = client.watch_run("r1", on_reconnect=note)
        found = [await anext(events) for _ in range(3)]
        following = asyncio.create_task(read(events))
    await asyncio.wait_for(lost.wait(), PATIENCE)
    async with serving({"/events": journal.serve}, port):
        found += await asyncio.wait_for(following, PATIENCE)
        await client.close()
    assert numbers(found) == list(range(6))


async def test_an_expired_cursor_is_never_silence() -> None:
    journal = Journal(2)
    journal.script = [refuse(410, "CURSOR_EXPIRED")]
    async with connected(events=journal.serve) as client:
        with pytest.raises(ApiProblem) as refused:
            await read(client.watch_run("r1", cursor="e.1.0"))
    assert (refused.value.status, refused.value.code) == (410, "CURSOR_EXPIRED")


async def test_a_gap_may_be_accepted() -> None:
    journal = Journal(2)
    journal.script = [refuse(410, "CURSOR_EXPIRED")]
    gaps: list[str] = []
    async with connected(events=journal.serve) as client:
        events = await read(
            client.watch_run("r1", cursor="old.9.0", on_gap=lambda problem: gaps.append(problem.code))
        )
    assert numbers(events) == [0, 1]
    assert gaps == ["CURSOR_EXPIRED"]
    assert journal.asked[-1] == (None, "start")


@pytest.mark.parametrize(
    ("status", "code"), [(401, "AUTH_TOKEN_INVALID"), (403, "FORBIDDEN"), (404, "RUN_NOT_FOUND")]
)
async def test_a_refusal_that_will_not_pass_ends_it(status: int, code: str) -> None:
    journal = Journal(3)
    journal.script = [journal.ended_after(2), refuse(status, code)]
    async with connected(events=journal.serve) as client, aclosing(client.watch_run("r1")) as events:
        seen = [await anext(events), await anext(events)]
        with pytest.raises(ApiProblem) as refused:
            await anext(events)
    assert (refused.value.code, numbers(seen)) == (code, [0, 1])


async def test_a_response_that_is_no_event_stream_is_reported() -> None:
    async def page(request: Request) -> Response:
        return Response("<html>", media_type="text/html")

    async with connected(events=page) as client:
        with pytest.raises(ApiProblem, match="expected an event stream, got text/html"):
            await read(client.watch_run("r1"))


async def test_no_server_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with PilotClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(
            Unreachable, match=f"cannot reach http://127.0.0.1:{port}: connection refused"
        ) as gone:
            await client.runs.get("r1")
        assert gone.value.refused
        with pytest.raises(Unreachable):
            await read(client.watch_run("r1"))


# -- requests -----------------------------------------------------------------------------------------------


class Flaky:
    """Scripted responses, then successful ones."""

    def __init__(self, script: list[Response], good: Any, status: int = 200) -> None:
        self.script = script
        self.good = Response(json.dumps(good), status, media_type="application/json")
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []

    async def serve(self, request: Request) -> Response:
        self.requests.append(request)
        self.bodies.append(await request.body())
        return self.script.pop(0) if self.script else self.good

    def keys(self) -> list[str | None]:
        return [request.headers.get("idempotency-key") for request in self.requests]


def broken() -> Response:
    """Cut off within the answer."""

    async def body() -> Body:
        yield b'{"half'
        raise ConnectionAbortedError

    return StreamingResponse(body(), media_type="application/json")


def limited(seconds: str) -> Response:
    problem = {"error": "Too many requests", "message": "slow down", "code": "RATE_LIMIT_EXCEEDED"}
    return JSONResponse(problem, 429, {"Retry-After": seconds})


async def test_reads_and_keyed_posts_are_tried_again() -> None:
    get = Flaky([broken(), broken()], {"id": "r1"})
    cancel = Flaky([broken()], {"id": "r1", "status": "running"}, 202)
    routes: dict[str, Any] = {"workflow-runs__r1": get.serve, "workflow-runs__r1__cancel": cancel.serve}
    async with connected(**routes) as client:
        assert (await client.runs.get("r1"))["id"] == "r1"
        await client.runs.cancel("r1", "wrong branch")
    assert len(get.requests) == 3
    first, second = cancel.keys()
    assert first, "a POST that starts something carries a key"
    assert first == second, "and the same one when it is tried again"
    assert json.loads(cancel.bodies[1]) == {"reason": "wrong branch"}


@pytest.mark.parametrize("noun", ["tokens", "registration_tokens"])
async def test_a_token_whose_secret_was_lost_with_the_answer_is_replaced(noun: str) -> None:
    path = noun.replace("_", "-")
    lost = JSONResponse({"id": "t1", "secret_omitted": True}, 201)
    create = Flaky([broken(), lost], {"id": "t2", "token": "pilot_2"}, 201)
    revoke = Flaky([Response(status_code=204)], {})
    routes = {f"/{path}": create.serve, f"/{path}/t1": revoke.serve}
    async with serving(routes) as url, PilotClient(url) as client:
        made = await getattr(client, noun).create("ci")
    assert made["token"] == "pilot_2"
    first, again, anew = create.keys()
    assert first == again != anew
    assert len(revoke.requests) == 1


async def test_other_requests_are_not() -> None:
    login = Flaky([broken()], {})
    async with connected(auth__login=login.serve) as client:
        with pytest.raises(Unreachable):
            await client.auth.login("admin", "x")
    assert len(login.requests) == 1


async def test_a_rate_limit_is_waited_for() -> None:
    waits: list[str] = []
    login = Flaky([limited("1")], {"token": "t"})
    async with serving({"/auth/login": login.serve}) as url, PilotClient(url, on_wait=waits.append) as client:
        assert (await client.auth.login("admin", "x"))["token"] == "t"
    assert waits == ["slow down; trying again in 1 s"]


async def test_a_busy_server_is_polled_with_backoff_and_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    async def at_once(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("pilothouse.client.api.asyncio", SimpleNamespace(sleep=at_once))
    waits: list[str] = []
    busy = Flaky([refuse(503, "STORAGE_BUSY", retry_after="1")(0) for _ in range(60)], {})
    async with (
        serving({"/workflow-runs/r1": busy.serve}) as url,
        PilotClient(url, on_wait=waits.append) as client,
    ):
        with pytest.raises(ApiProblem):
            await client.runs.get("r1")
    assert pauses == [1, 2, 4, 8, 10, 10, 10, 10]
    assert waits == ["said STORAGE_BUSY; trying again for up to 60 s"]


async def test_a_rate_limit_that_is_too_long_is_a_refusal() -> None:
    login = Flaky([limited("600")], {})
    async with connected(auth__login=login.serve) as client:
        with pytest.raises(ApiProblem) as refused:
            await client.auth.login("admin", "x")
    assert (refused.value.status, refused.value.retry_after) == (429, 600.0)


async def test_both_forms_of_errors() -> None:
    native = {"error": "Not Found", "message": "No run", "code": "RUN_NOT_FOUND"}
    native |= {"request_id": "req-1", "timestamp": "2026-01-31T10:50:00Z"}
    envelope = {
        "code": 400,
        "errMsg": "2 problems",
        "errorCode": "SPEC_INVALID",
        "details": {"problems": [1, 2]},
        "path": "/x",
        "timestamp": 1,
        "requestId": "req-2",
    }

    async def get(request: Request) -> Response:
        return JSONResponse(native, 404)

    async def validate(request: Request) -> Response:
        return JSONResponse(envelope, 400, {"X-Request-ID": "req-2"})

    async def agents(request: Request) -> Response:
        return Response("<html>bad gateway</html>", 502)

    routes: dict[str, Any] = {
        "workflow-runs__r1": get,
        "pipelines__spec__validate": validate,
        "agents": agents,
    }
    async with connected(**routes) as client:
        found = []
        for call in (client.runs.get("r1"), client.pipelines.validate("jobs: []"), client.agents.page()):
            with pytest.raises(ApiProblem) as refused:
                await call
            found.append(refused.value)
    assert [(p.status, p.code, p.message, p.request_id) for p in found] == [
        (404, "RUN_NOT_FOUND", "No run", "req-1"),
        (400, "SPEC_INVALID", "2 problems", "req-2"),
        (502, "HTTP_502", "the server answered 502 Bad Gateway", ""),
    ]
    assert found[1].details == {"problems": [1, 2]}


async def test_credentials_and_parameters() -> None:
    agents = Flaky([], {"agents": [], "pagination": {"page": 1, "limit": 20, "total": 0, "total_pages": 0}})
    async with connected(agents=agents.serve) as client:
        page = await client.agents.page(status="online")
    assert (page.items, page.total, page.more) == ((), 0, False)
    request = agents.requests[0]
    assert request.headers["authorization"] == "Bearer tok"
    assert dict(request.query_params) == {"page": "1", "limit": "20", "status": "online"}


async def test_collecting_pages() -> None:
    async def runs(request: Request) -> Response:
        page, limit = int(request.query_params["page"]), int(request.query_params["limit"])
        ids = [{"id": str(n)} for n in range(250)][(page - 1) * limit : page * limit]
        paging = {"page": page, "limit": limit, "total": 250, "total_pages": -(-250 // limit)}
        return JSONResponse({"runs": ids, "pagination": paging})

    routes: dict[str, Any] = {"workflow-runs": runs}
    async with connected(**routes) as client:
        for wanted in (1, 99, 100, 230, 1000):
            found = await collect(client.runs.page, wanted)
            assert [run["id"] for run in found] == [str(n) for n in range(min(wanted, 250))]


async def test_an_upload_is_read_anew_when_it_is_tried_again(tmp_path: Path) -> None:
    data = b"x" * 600_000
    file = tmp_path / "checkout.tar.gz"
    file.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    blobs = Flaky([broken()], {"id": "b1", "sha256": digest, "size": len(data)}, 201)
    async with connected(blobs=blobs.serve) as client:
        assert (await client.blobs.upload(file, digest, project="p1"))["id"] == "b1"
    assert blobs.bodies == [data, data]
    headers = blobs.requests[1].headers
    assert (headers["x-content-sha256"], headers["content-type"]) == (digest, "application/gzip")
    assert headers["content-length"] == str(len(data))
    assert blobs.requests[1].query_params["project"] == "p1"


@pytest.mark.parametrize("cut", [[1], [5, 9], list(range(1, 30))])
async def test_log_lines_do_not_depend_on_the_chunks(cut: list[int]) -> None:
    text = "one\n\nzwei ü\u2028same line\x0bsame\nlast".encode()

    async def logs(request: Request) -> Response:
        async def body() -> Body:
            for start, end in itertools.pairwise([0, *cut, len(text)]):
                yield text[start:end]

        return StreamingResponse(body(), media_type="text/plain")

    routes: dict[str, Any] = {"workflow-runs__r1__logs": logs}
    async with connected(**routes) as client, aclosing(client.runs.logs("r1", step="compile")) as lines:
        found = [line async for line in lines]
    assert found == ["one", "", "zwei ü\u2028same line\x0bsame", "last"]
