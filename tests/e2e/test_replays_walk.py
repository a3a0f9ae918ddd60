"""``Idempotency-Key`` on every route that takes it: found in the OpenAPI document, so that none is forgotten.

An answer is repeated to the same token alone, without the secret that it held, and to nobody who may not ask now.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pilothouse.edge.answers import Answers
from pilothouse.storage.keyring import Keyring, KeyringBox
from support.databases import CHOSEN
from support.mutations import ELSEWHERE, READ_ONLY, REQUESTS, Asked, Grounds
from support.server import Server, running

SECRET = re.compile(r"(pilot_|pilotreg_|pilotagent_|eyJ)[A-Za-z0-9_.-]{20,}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("replays")) as server:
        yield server


@pytest.fixture(scope="module")
def grounds(server: Server) -> Grounds:
    return Grounds.of(server, "replays")


def _operations(server: Server) -> Iterator[tuple[str, str, dict[str, Any]]]:
    document = server.http.get(f"{server.url}/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _keyed(server: Server) -> list[tuple[str, str]]:
    """All routes with the parameter."""
    return [
        (method, path)
        for method, path, operation in _operations(server)
        if any(p["name"] == "Idempotency-Key" for p in operation.get("parameters", ()))
    ]


def _send(server: Server, route: tuple[str, str], request: Asked, token: str, key: str) -> httpx.Response:
    path = re.sub(r"{(\w+)}", lambda match: request.ids[match[1]], route[1])
    return server.call(route[0], path, token, headers={"Idempotency-Key": key}, **request.more)


def test_every_change_is_known_and_every_post_of_them_takes_a_key(server: Server) -> None:
    changes = {(m, p) for m, p, _ in _operations(server) if m != "GET"}
    assert changes == set(REQUESTS) | ELSEWHERE | READ_ONLY
    # Those whose repetition ends in the same state take none.
    unkeyed = {("POST", "/api/v1/users/{user}/password")} | ELSEWHERE | READ_ONLY
    assert set(_keyed(server)) == {route for route in changes - unkeyed if route[0] == "POST"}


def test_an_answer_is_repeated_to_its_token_alone_and_without_secrets(
    server: Server, grounds: Grounds
) -> None:
    first_token = server.ask("POST", "/tokens", json={"name": "first"})["token"]
    other_token = server.ask("POST", "/tokens", json={"name": "other"})["token"]
    weak_token = server.ask("POST", "/tokens", json={"name": "weak", "role": "viewer"})["token"]
    secrets_seen = 0
    for number, route in enumerate(_keyed(server)):
        request, key = REQUESTS[route](grounds), f"walk-{number}"
        first = _send(server, route, request, first_token, key)
        assert first.is_success, (route, first.text)
        again = _send(server, route, request, first_token, key)
        assert again.status_code == first.status_code, route
        assert again.headers["idempotency-replayed"] == "true", route
        if SECRET.search(first.text):
            secrets_seen += 1
            body = first.json()
            hidden = [name for name, value in body.items() if SECRET.fullmatch(str(value))]
            assert again.json() == {k: v for k, v in body.items() if k not in hidden} | {
                "secret_omitted": True
            }
        else:
            assert again.content == first.content, route
        assert not SECRET.search(again.text), route
        other = _send(server, route, request, other_token, key)
        assert "idempotency-replayed" not in other.headers, route
        weak = _send(server, route, request, weak_token, key)
        assert "idempotency-replayed" not in weak.headers, route
        if route[1] != "/api/v1/tokens":  # which everybody may create for themselves
            assert weak.status_code in (403, 404), (route, weak.status_code)
        assert weak.text != first.text
    assert secrets_seen == 2  # API tokens and registration tokens


def test_whoever_may_not_ask_now_is_told_nothing(server: Server, grounds: Grounds) -> None:
    """Demoted, then removed from the project, then ended."""
    name = grounds.member()
    server.ask("PATCH", f"/users/{name}", json={"role": "admin"})
    token = server.login(name)
    sent: list[tuple[tuple[str, str], Asked, httpx.Response]] = []
    for number, route in enumerate(_keyed(server)):
        request = REQUESTS[route](grounds)
        first = _send(server, route, request, token, f"once-{number}")
        assert first.is_success, (route, first.text)
        sent.append((route, request, first))

    def refused(*statuses: int) -> None:
        for number, (route, request, first) in enumerate(sent):
            answer = _send(server, route, request, token, f"once-{number}")
            if route[1] == "/api/v1/tokens" and 401 not in statuses:
                assert answer.json()["secret_omitted"], "their own tokens they may still create"
                continue
            assert answer.status_code in statuses, (route, answer.status_code, answer.text)
            assert "idempotency-replayed" not in answer.headers, route
            assert answer.text != first.text

    server.ask("PATCH", f"/users/{name}", json={"role": "viewer"})
    refused(403)
    server.ask("PATCH", f"/users/{name}", json={"role": "user"})
    server.ask("DELETE", f"/projects/{grounds.project}/members/{name}")
    refused(403, 404)
    server.ask("DELETE", f"/users/{name}")
    refused(401)


@pytest.mark.skipif(CHOSEN != "sqlite", reason="reads the database's file")
def test_no_stored_answer_holds_a_secret(server: Server) -> None:
    """Not even encrypted: with the server's key all of them are read here."""
    boxes = Answers.box(Keyring.load(Path(server.data_dir) / "server.key"))
    with sqlite3.connect(f"file:{server.data_dir}/pilothouse.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT caller, route, key, answer FROM idempotency_keys").fetchall()
    assert len(rows) > 2 * 14
    for caller, route, key, answer in rows:
        text = _opened(boxes, answer, (caller, route, key))
        assert not SECRET.search(text), route


def _opened(box: KeyringBox, answer: bytes, context: tuple[str, str, str]) -> str:
    return box.decrypt(answer, Answers.context(*context)).decode()
