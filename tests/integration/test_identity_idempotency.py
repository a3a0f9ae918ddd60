"""Idempotency-Key: the change and its answer commit together, and only once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Response
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from identity_kit import PASSWORD, Stack, beside, running
from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal, Role
from pilothouse.edge.answers import MAX_ANSWER
from pilothouse.edge.store import idempotency_keys
from pilothouse.edge.web import Idem, allow
from pilothouse.identity.tables import users
from pilothouse.storage import Tx
from pilothouse.storage.keyring import KeyringBox

ANN = {"username": "ann", "password": PASSWORD}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as stack:
        yield stack


async def create(stack: Stack, key: str, body: dict[str, Any] = ANN, **more: Any) -> httpx.Response:
    return await stack.call("POST", "/users", json=body, headers={"Idempotency-Key": key}, **more)


async def count(stack: Stack, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return await stack.storage.read(lambda conn: conn.execute(query).scalar_one())


def anybody(_conn: Connection, _by: Principal) -> None:
    """Whoever may ask at all."""


async def test_the_same_request_gives_the_first_answer_again(stack: Stack) -> None:
    first, again = await create(stack, "k1"), await create(stack, "k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (await create(stack, "k1", dict(reversed(ANN.items())))).content == first.content
    assert await count(stack, users) == 2


async def test_another_body_is_a_conflict(stack: Stack) -> None:
    await create(stack, "k1")
    answer = await create(stack, "k1", {**ANN, "username": "bob"})
    assert (answer.status_code, answer.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert await count(stack, users) == 2


async def test_without_a_key_or_with_another_the_request_runs_again(stack: Stack) -> None:
    await create(stack, "k1")
    assert (await create(stack, "k2")).json()["code"] == "USER_ALREADY_EXISTS"
    assert (await stack.call("POST", "/users", json=ANN)).json()["code"] == "USER_ALREADY_EXISTS"


async def test_many_at_once_change_once(stack: Stack) -> None:
    answers = await asyncio.gather(*(create(stack, "k1") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    assert await count(stack, users) == 2


async def test_two_servers_at_once_change_once(stack: Stack) -> None:
    async with beside(stack) as other:
        answers = await asyncio.gather(*(create(server, "k1") for server in (stack, other) * 5))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert await count(stack, users) == 2


async def test_another_server_may_take_the_key_first(stack: Stack) -> None:
    runs = 0

    async def route(idem: Idem) -> Response:
        def use_case(tx: Tx, by: Principal) -> dict[str, int]:
            nonlocal runs
            runs += 1
            if runs == 1:
                # What PostgreSQL says once the other server, which took the key meanwhile, has committed.
                raise IntegrityError("INSERT", {}, Exception("duplicate key"))
            return {"run": runs}

        return await idem(use_case, 202, permit=anybody)

    stack.app.add_api_route("/api/v1/clash", route, methods=["POST"], dependencies=[allow("run.trigger")])
    headers = {"Idempotency-Key": "k1"}
    answers = [await stack.call("POST", "/clash", headers=headers) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(202, {"run": 2})] * 2


async def test_a_key_belongs_to_its_token_and_path(stack: Stack) -> None:
    ann, bob = await stack.user("ann"), await stack.user("bob")
    body, headers = {"name": "ci"}, {"Idempotency-Key": "k1"}
    first = await stack.call("POST", "/tokens", ann, json=body, headers=headers)
    other = await stack.call("POST", "/tokens", bob, json=body, headers=headers)
    assert first.json()["user"] == "ann"
    assert other.json()["user"] == "bob"
    later = (await stack.identity.login("ann", PASSWORD)).token
    for token in (later, first.json()["token"]):
        again = await stack.call("POST", "/tokens", token, json=body, headers=headers)
        assert again.json()["id"] != first.json()["id"]
        assert "idempotency-replayed" not in again.headers
    assert (await create(stack, "k1", {**ANN, "username": "cid"})).status_code == 201
    with_it = await stack.call("POST", "/tokens", ann, json={"name": "other"}, headers=headers)
    assert with_it.json()["code"] == "IDEMPOTENCY_KEY_REUSED"


async def test_a_secret_is_told_once(stack: Stack) -> None:
    body, headers = {"name": "ci", "role": "viewer"}, {"Idempotency-Key": "k1"}
    first = await stack.call("POST", "/tokens", json=body, headers=headers)
    for _ in range(2):
        again = await stack.call("POST", "/tokens", json=body, headers=headers)
        kept = {name: value for name, value in first.json().items() if name != "token"}
        assert (again.status_code, again.json()) == (201, {**kept, "secret_omitted": True})
    assert "secret_omitted" not in first.json()
    assert (await stack.call("GET", "/auth/me", first.json()["token"])).status_code == 200
    unkeyed = await stack.call("POST", "/tokens", json=body)
    assert "secret_omitted" not in unkeyed.json()


async def test_the_secret_is_not_even_stored_encrypted(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed: list[bytes] = []
    encrypt = KeyringBox.encrypt

    def watched(box: KeyringBox, plain: bytes, context: bytes = b"") -> bytes:
        sealed.append(plain)
        return encrypt(box, plain, context)

    monkeypatch.setattr(KeyringBox, "encrypt", watched)
    first = await stack.call("POST", "/tokens", json={"name": "ci"}, headers={"Idempotency-Key": "k1"})
    assert len(sealed) == 1
    assert first.json()["id"].encode() in sealed[0]
    assert first.json()["token"].encode() not in sealed[0]


async def test_the_right_is_asked_for_before_anything_is_told(stack: Stack) -> None:
    """Neither the answer nor whether the key was used, or with which body."""
    ann = await stack.user("ann", Role.ADMIN)
    body, headers = {"username": "cid", "password": PASSWORD}, {"Idempotency-Key": "k1"}
    assert (await stack.call("POST", "/users", ann, json=body, headers=headers)).status_code == 201
    await stack.call("PATCH", "/users/ann", json={"role": "viewer"})
    for sent in (body, {**body, "email": "c@example.com"}):
        refused = await stack.call("POST", "/users", ann, json=sent, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "AUTH_INSUFFICIENT_PERMISSIONS")
        assert "idempotency-replayed" not in refused.headers


async def test_an_answer_that_is_too_large_is_not_stored(stack: Stack) -> None:
    async def route(idem: Idem) -> Response:
        return await idem(lambda _, by: {"text": "x" * MAX_ANSWER}, 202, permit=anybody)

    stack.app.add_api_route("/api/v1/large", route, methods=["POST"], dependencies=[allow("run.trigger")])
    answer = await stack.call("POST", "/large", headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert await count(stack, idempotency_keys) == 0


async def test_a_key_is_good_for_a_day(stack: Stack) -> None:
    body, headers = {"name": "ci"}, {"Idempotency-Key": "k1"}
    token = await stack.identity.issue_local_token()
    first = await stack.call("POST", "/tokens", token, json=body, headers=headers)
    stack.clock.ahead += 24 * 3600 * 1000 - 60_000
    again = await stack.call("POST", "/tokens", token, json=body, headers=headers)
    assert again.json()["id"] == first.json()["id"]
    stack.clock.ahead += 61_000
    fresh = await stack.call("POST", "/tokens", token, json=body, headers=headers)
    assert fresh.json()["id"] != first.json()["id"]
    assert await count(stack, idempotency_keys) == 1


async def test_what_failed_may_be_tried_again(stack: Stack) -> None:
    failing = True

    async def route(idem: Idem) -> Response:
        def use_case(tx: Tx, by: Principal) -> dict[str, bool]:
            if failing:
                raise Refusal.of("NO_AGENTS_AVAILABLE", "none online")
            return {"done": True}

        return await idem(use_case, 202, permit=anybody)

    stack.app.add_api_route("/api/v1/try", route, methods=["POST"], dependencies=[allow("run.trigger")])
    headers = {"Idempotency-Key": "k1"}
    assert (await stack.call("POST", "/try", headers=headers)).status_code == 503
    failing = False
    answer = await stack.call("POST", "/try", headers=headers)
    assert (answer.status_code, answer.json()) == (202, {"done": True})


async def test_answers_in_the_envelope_are_repeated_to_the_letter(stack: Stack) -> None:
    headers, body = {"Idempotency-Key": "k1"}, {"name": "shop"}
    answers = [await stack.call("POST", "/projects", json=body, headers=headers) for _ in range(2)]
    assert answers[0].json()["msg"] == "success"
    assert answers[0].content == answers[1].content


async def test_nothing_secret_is_stored_in_the_clear(stack: Stack) -> None:
    secret = (
        await stack.call("POST", "/tokens", json={"name": "ci"}, headers={"Idempotency-Key": "k1"})
    ).json()["token"]
    await create(stack, "k2")
    query = select(idempotency_keys)
    stored = await stack.storage.read(lambda conn: str(conn.execute(query).all()))
    assert secret not in stored
    assert PASSWORD not in stored


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
async def test_a_key_must_look_like_one(stack: Stack, key: str) -> None:
    answer = await create(stack, key)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_PARAMETER")
