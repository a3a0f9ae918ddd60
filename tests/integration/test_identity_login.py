"""Logging in and out, users, passwords, API tokens and roles, over HTTP and a real database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from identity_kit import PASSWORD, Stack, running
from pilothouse.access.errors import AuthError, Refusal
from pilothouse.access.model import Role
from pilothouse.edge.limits import RateLimitSettings
from pilothouse.identity.tables import credentials, users
from pilothouse.storage import Tx


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as stack:
        yield stack


async def login(stack: Stack, username: str, password: str = PASSWORD) -> httpx.Response:
    return await stack.http.post("/api/v1/auth/login", json={"username": username, "password": password})


async def test_login_answers_as_the_page_says(stack: Stack) -> None:
    answer = await login(stack, "admin")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"token", "user", "expires_at"}
    assert set(body["user"]) == {"id", "username", "email", "role", "created_at"}
    assert body["user"]["role"] == "admin"
    assert body["expires_at"].endswith("Z")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"pilot_token={body['token']};")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert (await stack.call("GET", "/auth/me", body["token"])).json()["username"] == "admin"


async def test_the_cookie_is_secure_over_tls(stack: Stack) -> None:
    async with stack.client(scheme="https") as tls:
        answer = await tls.post("/api/v1/auth/login", json={"username": "admin", "password": PASSWORD})
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("name", "password"), [("admin", "wrong password"), ("nobody", PASSWORD), ("ann", PASSWORD)]
)
async def test_a_bad_login_is_one_error_whatever_was_wrong(stack: Stack, name: str, password: str) -> None:
    await stack.user("ann")
    await stack.call("DELETE", "/users/ann")
    answer = await login(stack, name, password)
    assert answer.status_code == 401
    body = answer.json()
    assert body["error"] == "Authentication failed"
    assert body["message"] == "Invalid username or password"
    assert body["code"] == "AUTH_INVALID_CREDENTIALS"
    assert "set-cookie" not in answer.headers


async def test_an_unknown_user_costs_a_hash_too(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    passwords = stack.identity.passwords
    real = passwords._hasher.verify

    def verify(stored: str, password: str) -> bool:
        verified.append(stored)
        return real(stored, password)

    monkeypatch.setattr(type(passwords._hasher), "verify", staticmethod(verify))
    for name in ("admin", "nobody"):
        await login(stack, name, "wrong password")
    assert len(verified) == 2
    assert verified[0].split("$")[3] == verified[1].split("$")[3]


async def test_logins_are_limited_by_address_and_by_name(tmp_path: Path) -> None:
    async with running(tmp_path, RateLimitSettings("3/minute", "off", "off")) as stack:
        answers = [await login(stack, "admin", "wrong password") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        async with stack.client("198.51.100.1") as elsewhere:
            body = {"username": "ADMIN", "password": PASSWORD}
            refused = await elsewhere.post("/api/v1/auth/login", json=body)
            assert refused.status_code == 429
            assert refused.json()["retry_after"] == int(refused.headers["retry-after"])
            body["username"] = "nobody"
            assert (await elsewhere.post("/api/v1/auth/login", json=body)).status_code == 401
        stack.clock.ahead += 60_000
        assert (await login(stack, "admin")).status_code == 200


async def test_logout_revokes_at_once_and_everywhere(stack: Stack) -> None:
    token = await stack.user("ann")
    other = (await login(stack, "ann")).json()["token"]
    elsewhere = stack.another()
    await elsewhere.authenticate(token)
    answer = await stack.call("POST", "/auth/logout", token)
    assert answer.status_code == 200
    assert answer.json() == {"message": "Logout successful"}
    refused = await stack.call("GET", "/auth/me", token)
    assert refused.status_code == 401
    assert refused.json()["code"] == "AUTH_TOKEN_INVALID"
    assert (await stack.call("GET", "/auth/me", other)).status_code == 200
    stack.clock.ahead += 4000
    with pytest.raises(AuthError):
        await elsewhere.authenticate(token)
    elsewhere.close()


async def test_a_token_expires(stack: Stack) -> None:
    token = await stack.user("ann")
    assert (await stack.call("GET", "/auth/me", token)).status_code == 200
    stack.clock.ahead += 3600_000
    for _ in range(2):
        refused = await stack.call("GET", "/auth/me", token)
        assert refused.status_code == 401
        assert refused.json()["code"] == "AUTH_TOKEN_EXPIRED"
        assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "AUTH_TOKEN_MISSING"),
        ("Bearer nonsense", "AUTH_TOKEN_INVALID"),
        ("Bearer a.b.c", "AUTH_TOKEN_INVALID"),
        ("Bearer pilot_unknown", "AUTH_TOKEN_INVALID"),
        ("Bearer " + "x" * 9000, "AUTH_TOKEN_INVALID"),
        ("Bearer", "AUTH_TOKEN_INVALID"),
        ("Basic YWRtaW46eA==", "AUTH_TOKEN_INVALID"),
    ],
)
async def test_without_a_good_token(stack: Stack, header: str | None, code: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = await stack.http.get("/api/v1/auth/me", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == code


async def test_users_are_created_shown_changed_and_deactivated(stack: Stack) -> None:
    wanted = {"username": "john.doe", "email": "john.doe@example.com", "password": PASSWORD, "role": "user"}
    created = await stack.call("POST", "/users", json=wanted)
    assert created.status_code == 201
    user = created.json()
    assert user["active"] is True
    assert "password" not in created.text
    for key in ("john.doe", "JOHN.DOE", user["id"]):
        assert (await stack.call("GET", f"/users/{key}")).json() == user
    listed = (await stack.call("GET", "/users?role=user&limit=1")).json()
    assert listed == {
        "users": [user],
        "pagination": {"page": 1, "limit": 1, "total": 1, "total_pages": 1},
    }
    changed = await stack.call(
        "PATCH", "/users/john.doe", json={"role": "operator", "email": "j@example.com"}
    )
    assert (changed.json()["role"], changed.json()["email"]) == ("operator", "j@example.com")
    assert (await stack.call("DELETE", "/users/john.doe")).status_code == 204
    assert (await stack.call("GET", "/users/john.doe")).json()["active"] is False
    taken = await stack.call("POST", "/users", json={**wanted, "username": "John.Doe"})
    assert (taken.status_code, taken.json()["code"]) == (409, "USER_ALREADY_EXISTS")
    assert (await stack.call("GET", "/users/nobody")).json()["code"] == "USER_NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"password": PASSWORD}, "MISSING_REQUIRED_FIELD", "username"),
        ({"username": "ann"}, "MISSING_REQUIRED_FIELD", "password"),
        ({"username": "ann", "password": "short"}, "VALIDATION_FAILED", "password"),
        ({"username": "ann", "password": PASSWORD, "role": "king"}, "VALIDATION_FAILED", "role"),
        ({"username": "a b", "password": PASSWORD}, "VALIDATION_FAILED", "username"),
        ({"username": "ann", "password": 12345678}, "VALIDATION_FAILED", "password"),
        ({"username": "ann", "password": PASSWORD, "email": "nowhere"}, "VALIDATION_FAILED", "email"),
        ({"username": "ann", "password": "\ud800" * 9}, "VALIDATION_FAILED", "password"),
        ([], "VALIDATION_FAILED", "body"),
    ],
)
async def test_what_a_new_user_must_be(stack: Stack, body: object, code: str, field: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await stack.call("POST", "/users", content=json.dumps(body), headers=headers)
    assert answer.status_code == 400
    assert (answer.json()["code"], answer.json()["details"]["field"]) == (code, field)
    assert "12345678" not in answer.text


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "page=0", "page=x", "role=king", f"page={10**30}"])
async def test_bad_parameters_of_lists(stack: Stack, query: str) -> None:
    answer = await stack.call("GET", f"/users?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_PARAMETER")


async def test_a_nul_is_no_reason_to_fail(stack: Stack) -> None:
    for path in ("/users/a%00b", "/projects/a%00b", "/audit?actor=a%00b"):
        assert (await stack.call("GET", path)).status_code in (200, 400, 404), path


async def test_only_admins_administrate(stack: Stack) -> None:
    for role in (Role.VIEWER, Role.USER, Role.OPERATOR):
        token = await stack.user(role.value, role)
        for method, path in [("GET", "/users"), ("POST", "/users"), ("GET", "/audit"), ("POST", "/projects")]:
            answer = await stack.call(method, path, token)
            assert answer.status_code == 403, (role, path)
        assert (await stack.call("GET", "/tokens?user=admin", token)).status_code == 403


async def test_a_change_of_role_counts_for_the_next_request(stack: Stack) -> None:
    token = await stack.user("ann")
    assert (await stack.call("GET", "/users", token)).status_code == 403
    await stack.call("PATCH", "/users/ann", json={"role": "admin"})
    assert (await stack.call("GET", "/users", token)).status_code == 200
    await stack.call("PATCH", "/users/ann", json={"role": "viewer"})
    assert (await stack.call("GET", "/users", token)).status_code == 403


async def test_deactivation_ends_everything_and_returns_nothing(stack: Stack) -> None:
    token = await stack.user("ann")
    api = (await stack.call("POST", "/tokens", token, json={"name": "ci"})).json()["token"]
    await stack.call("PATCH", "/users/ann", json={"active": False})
    for each in (token, api):
        assert (await stack.call("GET", "/auth/me", each)).status_code == 401
    await stack.call("PATCH", "/users/ann", json={"active": True})
    for each in (token, api):
        assert (await stack.call("GET", "/auth/me", each)).status_code == 401
    assert (await login(stack, "ann")).status_code == 200


async def test_the_last_admin_stays(stack: Stack) -> None:
    for change in ({"role": "user"}, {"active": False}):
        answer = await stack.call("PATCH", "/users/admin", json=change)
        assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
    await stack.user("ann", Role.ADMIN)
    assert (await stack.call("PATCH", "/users/admin", json={"role": "user"})).status_code == 200


async def test_passwords_are_reset_and_changed(stack: Stack) -> None:
    first = await stack.user("ann")
    second = (await login(stack, "ann")).json()["token"]
    wrong = {"current_password": "not this one", "new_password": "another one"}
    refused = await stack.call("POST", "/auth/password", first, json=wrong)
    assert (refused.status_code, refused.json()["code"]) == (401, "AUTH_INVALID_CREDENTIALS")
    good = {"current_password": PASSWORD, "new_password": "another one"}
    assert (await stack.call("POST", "/auth/password", first, json=good)).status_code == 200
    assert (await stack.call("GET", "/auth/me", first)).status_code == 200
    assert (await stack.call("GET", "/auth/me", second)).status_code == 401
    assert (await login(stack, "ann")).status_code == 401
    assert (await login(stack, "ann", "another one")).status_code == 200
    reset = await stack.call("POST", "/users/ann/password", json={"password": "a third one"})
    assert reset.status_code == 200
    assert (await stack.call("GET", "/auth/me", first)).status_code == 401
    assert (await login(stack, "ann", "a third one")).status_code == 200


async def test_api_tokens_are_shown_once_and_stored_as_digests(stack: Stack) -> None:
    ann = await stack.user("ann")
    created = (await stack.call("POST", "/tokens", ann, json={"name": "ci", "role": "viewer"})).json()
    secret = created.pop("token")
    assert secret.startswith("pilot_")
    assert (await stack.call("GET", "/tokens", ann)).json()["tokens"] == [created]
    assert (await stack.call("GET", "/tokens?user=ann")).json()["tokens"] == [created]
    assert (await stack.call("GET", "/tokens?user=*")).json()["pagination"]["total"] == 1
    assert (await stack.call("GET", "/tokens")).json()["tokens"] == []
    stored = await stack.storage.read(lambda conn: str(conn.execute(select(credentials)).all()))
    assert secret not in stored
    assert (await stack.call("GET", "/auth/me", secret)).json()["token"]["role"] == "viewer"
    bob = await stack.user("bob")
    assert (await stack.call("DELETE", f"/tokens/{created['id']}", bob)).status_code == 404
    assert (await stack.call("DELETE", f"/tokens/{created['id']}", ann)).status_code == 204
    assert (await stack.call("GET", "/auth/me", secret)).status_code == 401
    gone = await stack.call("DELETE", f"/tokens/{created['id']}", ann)
    assert (gone.status_code, gone.json()["code"]) == (404, "TOKEN_NOT_FOUND")


async def test_a_token_may_be_weaker_than_its_user_but_never_makes_a_stronger_one(stack: Stack) -> None:
    weak = (await stack.call("POST", "/tokens", json={"name": "weak", "role": "viewer"})).json()["token"]
    assert (await stack.call("GET", "/users", weak)).status_code == 403
    refused = await stack.call("POST", "/tokens", weak, json={"name": "strong", "role": "admin"})
    assert refused.status_code == 403
    heir = (await stack.call("POST", "/tokens", weak, json={"name": "heir"})).json()
    assert heir["role"] == "viewer"
    assert (await stack.call("GET", "/users", heir["token"])).status_code == 403


async def test_a_token_never_makes_one_that_outlives_it(stack: Stack) -> None:
    async def expiry(token: str | None = None, **more: int) -> Any:
        made = (
            await stack.call("POST", "/tokens", *[token] * bool(token), json={"name": "t", **more})
        ).json()
        return made["token"], made["expires_at"]

    short, until = await expiry(expires_in=600)
    assert await _second(expiry(short)) == until
    assert await _second(expiry(short, expires_in=6000)) == until
    assert await _second(expiry(short, expires_in=60)) < until
    assert await _second(expiry()) is None, "a login may"


async def _second(pair: Any) -> Any:
    return (await pair)[1]


async def test_an_api_token_expires(stack: Stack) -> None:
    token = (await stack.call("POST", "/tokens", json={"name": "short", "expires_in": 60})).json()["token"]
    assert (await stack.call("GET", "/auth/me", token)).status_code == 200
    stack.clock.ahead += 60_001
    assert (await stack.call("GET", "/auth/me", token)).json()["code"] == "AUTH_TOKEN_EXPIRED"


async def test_the_local_token_is_replaced_each_time(stack: Stack) -> None:
    first = await stack.identity.issue_local_token()
    assert (await stack.identity.authenticate(first)).role is Role.ADMIN
    second = await stack.identity.issue_local_token()
    with pytest.raises(AuthError):
        await stack.identity.authenticate(first)
    assert (await stack.identity.authenticate(second)).name == "admin"
    assert (await stack.call("GET", "/tokens")).json()["pagination"]["total"] == 1


async def test_the_first_start_makes_an_admin_once(tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        assert await stack.identity.bootstrap("something else") is None
        await stack.identity.login("admin", PASSWORD)

        def empty(tx: Tx) -> None:
            for table in ("project_members", "credentials", "users", "projects"):
                tx.conn.exec_driver_sql(f"DELETE FROM {table}")

        await stack.writer.write(empty)
        generated = await stack.identity.bootstrap(None)
        assert generated is not None
        assert (await stack.identity.login("admin", generated)).user.role is Role.ADMIN


async def test_an_old_hash_is_renewed_at_login(stack: Stack) -> None:
    weaker = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, hash_len=16)
    await stack.user("ann")

    def weaken(tx: Tx) -> None:
        changed = users.update().where(users.c.username == "ann").values(password_hash=weaker.hash(PASSWORD))
        tx.conn.execute(changed)

    await stack.writer.write(weaken)
    assert (await login(stack, "ann")).status_code == 200
    query = select(users.c.password_hash).where(users.c.username == "ann")
    stored = await stack.storage.read(lambda conn: conn.execute(query).scalar_one())
    assert not stack.identity.passwords.outdated(stored)
    assert (await login(stack, "ann")).status_code == 200


async def test_projects_and_their_members(stack: Stack) -> None:
    ann = await stack.user("ann")
    created = await stack.call("POST", "/projects", json={"name": "shop", "description": "the web shop"})
    assert created.status_code == 201
    body = created.json()
    assert (body["code"], body["msg"]) == (201, "success")
    assert isinstance(body["timestamp"], int)
    shop = body["detail"]["projectId"]
    mine = (await stack.call("GET", "/projects", ann)).json()["detail"]
    assert [project["name"] for project in mine["list"]] == ["default"]
    assert (mine["total"], mine["page"], mine["pageSize"]) == (1, 1, 20)
    outside = await stack.call("GET", f"/projects/{shop}", ann)
    assert (outside.status_code, outside.json()["errorCode"]) == (404, "PROJECT_NOT_FOUND")
    joined = await stack.call("PUT", f"/projects/{shop}/members/ann")
    assert [member["username"] for member in joined.json()["detail"]["members"]] == ["ann"]
    assert (await stack.call("GET", f"/projects/{shop}", ann)).status_code == 200
    await stack.call("DELETE", f"/projects/{shop}/members/ann")
    assert (await stack.call("GET", f"/projects/{shop}", ann)).status_code == 404
    renamed = await stack.call("PUT", f"/projects/{shop}", json={"name": "store"})
    assert renamed.json()["detail"]["name"] == "store"
    taken = await stack.call("PUT", f"/projects/{shop}", json={"name": "default"})
    assert (taken.status_code, taken.json()["errorCode"]) == (409, "PROJECT_ALREADY_EXISTS")
    assert (await stack.call("GET", "/projects?pageSize=1")).json()["detail"]["total"] == 2


async def test_roles_are_listed_in_the_envelope(stack: Stack) -> None:
    detail = (await stack.call("GET", "/roles", await stack.user("ann", Role.VIEWER))).json()["detail"]
    actions = {role["name"]: role["actions"] for role in detail["list"]}
    assert set(actions) == {"admin", "operator", "user", "viewer"}
    assert "user.admin" in actions["admin"]
    assert "user.admin" not in actions["operator"]


async def test_services_check_rights_themselves(stack: Stack) -> None:
    ann = await stack.identity.authenticate(await stack.user("ann"))
    with pytest.raises(Refusal) as refused:
        await stack.writer.write(lambda tx: stack.identity.users.deactivate(tx, ann, "admin"))
    assert refused.value.code == "AUTH_INSUFFICIENT_PERMISSIONS"
