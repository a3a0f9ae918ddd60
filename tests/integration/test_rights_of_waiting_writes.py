"""Whoever loses a right while their change waits for the writer no longer makes that change."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator

import httpx
import pytest

from support.mutations import REQUESTS, Asked, Grounds
from support.server import PASSWORD, Server, running
from support.waiting import eventually

Lose = Callable[[sqlite3.Connection, str], object]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("waiting")) as server:
        yield server


@pytest.fixture(scope="module")
def grounds(server: Server) -> Grounds:
    return Grounds.of(server, "waiting")


def revoke(db: sqlite3.Connection, token_id: str) -> None:
    db.execute("UPDATE credentials SET revoked_at = 1 WHERE id = ?", (token_id,))


def demote(db: sqlite3.Connection, token_id: str) -> None:
    owner = "(SELECT user_id FROM credentials WHERE id = ?)"
    db.execute(f"UPDATE users SET role = 'viewer' WHERE id = {owner}", (token_id,))


def leave(db: sqlite3.Connection, token_id: str) -> None:
    owner = "(SELECT user_id FROM credentials WHERE id = ?)"
    db.execute(f"DELETE FROM project_members WHERE user_id = {owner}", (token_id,))


def waiting(server: Server) -> int:
    [line] = re.findall(
        r"^pilothouse_storage_writes_queued (\S+)", server.call("GET", "/metrics", None).text, re.MULTILINE
    )
    return int(float(line))


async def meanwhile(
    server: Server, route: tuple[str, str], asked: Asked, token: dict[str, str], lose: Lose
) -> httpx.Response:
    """The answer to a request of which the right is lost while its change waits for the writer."""
    server.ask("GET", "/auth/me", token["token"])
    path = re.sub(r"{(\w+)}", lambda match: asked.ids[match[1]], route[1])
    db = sqlite3.connect(server.data_dir / "pilothouse.db", timeout=30, isolation_level=None)
    try:
        await eventually(lambda: waiting(server) == 0)  # metrics are as old as a quarter of a second
        db.execute("BEGIN IMMEDIATE")
        call = asyncio.to_thread(server.call, route[0], path, token["token"], **asked.more)
        answer = asyncio.create_task(call)
        await eventually(lambda: answer.done() or waiting(server) > 0)
        lose(db, token["id"])
        db.execute("COMMIT")
    finally:
        db.close()
    return await answer


@pytest.mark.parametrize("route", sorted(REQUESTS), ids=" ".join)
async def test_a_token_that_is_revoked_meanwhile(
    server: Server, grounds: Grounds, route: tuple[str, str]
) -> None:
    asked = REQUESTS[route](grounds)
    token = server.ask("POST", "/tokens", json={"name": "revoked"})
    answer = await meanwhile(server, route, asked, token, revoke)
    assert answer.status_code == 401


async def test_logging_out_and_passwords(server: Server, grounds: Grounds) -> None:
    passwords = {"current_password": PASSWORD, "new_password": PASSWORD + "!"}
    for path, body in (("logout", None), ("password", passwords)):
        name = grounds.user()
        token = {
            "token": server.login(name),
            "id": server.ask("GET", f"/auth/sessions?user={name}")["sessions"][0]["id"],
        }
        answer = await meanwhile(
            server, ("POST", f"/api/v1/auth/{path}"), Asked({}, {"json": body}), token, revoke
        )
        assert answer.status_code == 401
        server.login(name)


async def test_a_role_and_a_membership_that_are_lost_meanwhile(server: Server, grounds: Grounds) -> None:
    project = server.project("left")
    pipeline = server.pipeline(
        "left", {"jobs": [{"name": "j", "steps": [{"name": "s", "uses": "approval"}]}]}, project=project
    )
    route = ("POST", f"/api/v1/pipelines/{pipeline}/trigger")
    for lose, status in ((demote, 403), (leave, 404)):
        name = grounds.new("leaver")
        session = server.user(name, "user", [project])
        token = server.ask("POST", "/tokens", session, json={"name": "leaver"})
        answer = await meanwhile(server, route, Asked({}, {"json": {}}), token, lose)
        assert answer.status_code == status
    assert server.ask("GET", f"/pipelines/{pipeline}/runs")["total"] == 0


async def test_who_keeps_their_rights_is_served(server: Server, grounds: Grounds) -> None:
    token = server.ask("POST", "/tokens", json={"name": "kept"})
    route = ("PUT", "/api/v1/secrets/{name}")
    answer = await meanwhile(server, route, REQUESTS[route](grounds), token, lambda db, id: None)
    assert answer.is_success
