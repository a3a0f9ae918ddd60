"""Logins are listed and ended by their user, and by admins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from identity_kit import PASSWORD, Stack, running
from pilothouse.access.model import Role
from pilothouse.identity.logins import NOTE_EVERY_MS
from support.waiting import eventually


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as stack:
        yield stack


async def listed(stack: Stack, token: str | None = None, query: str = "") -> list[dict[str, Any]]:
    answer = await stack.call("GET", f"/auth/sessions{query}", token)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["sessions"]
    return found


async def login(stack: Stack, name: str, **headers: str) -> str:
    stack.http.cookies.clear()
    body = {"username": name, "password": PASSWORD}
    return str((await stack.http.post("/api/v1/auth/login", json=body, headers=headers)).json()["token"])


async def test_a_login_tells_when_where_and_with_what(stack: Stack) -> None:
    await stack.user("ann")
    token = await login(stack, "ann", **{"user-agent": "Mozilla/5.0 \x07" + "x" * 5000})
    newest, former = await listed(stack, token)
    assert (newest["current"], former["current"]) == (True, False)
    assert newest["user"] == "ann"
    assert newest["address"] == "192.0.2.1"
    assert newest["user_agent"].startswith("Mozilla/5.0 ?xxx")
    assert len(newest["user_agent"]) == 200
    assert newest["created_at"] < newest["expires_at"]
    assert "token" not in newest


async def test_the_last_use_is_noted_now_and_then(stack: Stack) -> None:
    ann = await stack.user("ann")

    async def used() -> list[str | None]:
        return [each["last_used_at"] for each in await listed(stack, query="?user=ann")]

    assert await used() == [None]
    await stack.call("GET", "/auth/me", ann)
    (first,) = await eventually(lambda: _all(used()))
    await stack.call("GET", "/auth/me", ann)
    assert await used() == [first]
    stack.clock.ahead += NOTE_EVERY_MS + 1000
    elsewhere = stack.client("192.0.2.99")
    await elsewhere.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {ann}"})
    await elsewhere.aclose()

    async def noted() -> bool:
        (login,) = await listed(stack, query="?user=ann")
        return login["last_used_at"] > first and login["address"] == "192.0.2.99"

    await eventually(noted)
    made = (await stack.call("POST", "/tokens", ann, json={"name": "ci"})).json()
    await stack.call("GET", "/auth/me", made["token"])

    async def api_token_noted() -> bool:
        (token,) = (await stack.call("GET", "/tokens", ann)).json()["tokens"]
        return token["last_used_at"] is not None

    await eventually(api_token_noted)


async def _all(times: Any) -> list[str] | None:
    found = await times
    return found if all(found) else None


async def test_one_is_ended_with_its_streams(stack: Stack) -> None:
    first, second = await stack.user("ann"), await login(stack, "ann")
    stream = stack.identity.authorize(await stack.identity.authenticate(first))
    id = next(each["id"] for each in await listed(stack, second) if not each["current"])
    assert (await stack.call("DELETE", f"/auth/sessions/{id}", second)).status_code == 204
    assert stream.reason == "revoked"
    assert (await stack.call("GET", "/auth/me", first)).status_code == 401
    again = await stack.call("DELETE", f"/auth/sessions/{id}", second)
    assert (again.status_code, again.json()["code"]) == (404, "TOKEN_NOT_FOUND")
    assert len(await listed(stack, second)) == 1


async def test_all_others_are_ended_and_api_tokens_stay(stack: Stack) -> None:
    ann = await stack.user("ann")
    api = (await stack.call("POST", "/tokens", ann, json={"name": "ci"})).json()["token"]
    tokens = [await login(stack, "ann") for _ in range(3)]
    bob = await stack.user("bob")
    ended = await stack.call("DELETE", "/auth/sessions", tokens[1])
    assert ended.json() == {"ended": 3}
    statuses = [(await stack.call("GET", "/auth/me", t)).status_code for t in (ann, *tokens, api, bob)]
    assert statuses == [401, 401, 200, 401, 200, 200]
    assert (await stack.call("DELETE", "/auth/sessions", api)).json() == {"ended": 1}, (
        "with an API token: all"
    )


@pytest.mark.parametrize("role", [Role.VIEWER, Role.USER, Role.OPERATOR])
async def test_the_logins_of_others_are_for_admins(stack: Stack, role: Role) -> None:
    ann, bob = await stack.user("ann", role), await stack.user("bob")
    theirs = (await listed(stack, bob))[0]["id"]
    for query in ("?user=bob", "?user=*"):
        assert (await stack.call("GET", f"/auth/sessions{query}", ann)).status_code == 403
    assert (await stack.call("DELETE", "/auth/sessions?user=bob", ann)).status_code == 403
    assert (await stack.call("DELETE", f"/auth/sessions/{theirs}", ann)).status_code == 404
    assert {each["user"] for each in await listed(stack, query="?user=*")} == {"admin", "ann", "bob"}
    assert (await stack.call("GET", "/auth/sessions?user=nobody")).json()["code"] == "USER_NOT_FOUND"
    assert (await stack.call("DELETE", "/auth/sessions?user=bob")).json() == {"ended": 1}
    assert (await stack.call("GET", "/auth/me", bob)).status_code == 401
    mine = (await listed(stack, ann))[0]["id"]
    assert (await stack.call("DELETE", f"/auth/sessions/{mine}")).status_code == 204


async def test_what_is_no_login_or_has_expired_is_not_found(stack: Stack) -> None:
    ann = await stack.user("ann")
    api = (await stack.call("POST", "/tokens", ann, json={"name": "ci"})).json()["id"]
    assert (await stack.call("DELETE", f"/auth/sessions/{api}", ann)).status_code == 404
    stack.clock.ahead += 3601 * 1000
    fresh = await login(stack, "ann")
    assert len(await listed(stack, fresh)) == 1


async def test_pages(stack: Stack) -> None:
    ann = await stack.user("ann")
    for _ in range(4):
        await login(stack, "ann")
    answer = (await stack.call("GET", "/auth/sessions?limit=2&page=2", ann)).json()
    assert answer["pagination"] == {"page": 2, "limit": 2, "total": 5, "total_pages": 3}
    assert len(answer["sessions"]) == 2


async def test_it_is_recorded_who_ended_them(stack: Stack) -> None:
    await stack.user("ann")
    assert (await stack.call("DELETE", "/auth/sessions?user=ann")).json() == {"ended": 1}
    record = (await stack.call("GET", "/audit?action=user.logins_ended")).json()["entries"][0]
    assert record["detail"]["count"] == 1
    assert record["actor"]["name"] == "admin"
    mine = next(each["id"] for each in await listed(stack) if each["current"])
    assert record["token_id"] == mine
