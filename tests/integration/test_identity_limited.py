"""What a token that is limited, in its role or in time, can never do: exceed or outlive its limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from identity_kit import PASSWORD, Stack, running
from pilothouse.access.errors import Refusal
from pilothouse.access.model import Role


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as stack:
        yield stack


async def token(stack: Stack, by: str | None = None, **body: Any) -> dict[str, Any]:
    """A new API token, as the API answers."""
    made = await stack.call("POST", "/tokens", by, json={"name": "t", **body})
    assert made.status_code == 201, made.text
    answer: dict[str, Any] = made.json()
    return answer


async def role(stack: Stack, of: str) -> str:
    return str((await stack.call("GET", "/auth/me", of)).json()["token"]["role"])


def refused(answer: Any) -> bool:
    return (answer.status_code, answer.json()["code"]) == (403, "AUTH_INSUFFICIENT_PERMISSIONS")


@pytest.mark.parametrize("given", ["viewer", "user"])
async def test_a_role_that_was_given_stays_when_the_user_rises(stack: Stack, given: str) -> None:
    """Also where it was the user's own role at that time."""
    ann = await stack.user("ann", Role.USER)
    made = await token(stack, ann, role=given)
    free = await token(stack, ann)
    assert (made["role"], free["role"]) == (given, None)
    await stack.call("PATCH", "/users/ann", json={"role": "admin"})
    assert await role(stack, made["token"]) == given
    assert await role(stack, free["token"]) == "admin"
    assert refused(await stack.call("GET", "/users", made["token"]))
    assert (await stack.call("GET", "/users", free["token"])).status_code == 200


async def test_a_role_falls_with_the_user_and_comes_back(stack: Stack) -> None:
    ann = await stack.user("ann", Role.ADMIN)
    made = await token(stack, ann, role="operator")
    for of_user, effective in (("viewer", "viewer"), ("user", "user"), ("admin", "operator")):
        await stack.call("PATCH", "/users/ann", json={"role": of_user})
        assert await role(stack, made["token"]) == effective


@pytest.mark.parametrize("given", [None, "viewer", "user", "operator"])
async def test_children_are_as_limited_as_their_maker(stack: Stack, given: str | None) -> None:
    """Without a role of their own as well, and however their user rises later."""
    ann = await stack.user("ann", Role.USER)
    limited = (await token(stack, ann, role="user"))["token"]
    await stack.call("PATCH", "/users/ann", json={"role": "admin"})
    body = {"name": "t"} | ({"role": given} if given else {})
    answer = await stack.call("POST", "/tokens", limited, json=body)
    if given == "operator":
        assert refused(answer)
        return
    assert answer.json()["role"] == (given or "user")
    grandchild = await token(stack, answer.json()["token"])
    assert await role(stack, grandchild["token"]) == (given or "user")


async def test_a_maker_that_was_demoted_makes_nothing_of_its_former_role(stack: Stack) -> None:
    ann = await stack.user("ann", Role.ADMIN)
    await stack.call("PATCH", "/users/ann", json={"role": "viewer"})
    assert refused(await stack.call("POST", "/tokens", ann, json={"name": "t", "role": "user"}))


async def test_nothing_is_made_for_a_user_who_was_deactivated_meanwhile(stack: Stack) -> None:
    """The request was authenticated before; reactivating the user must not revive its token."""
    ann = await stack.identity.authenticate(await stack.user("ann"))
    await stack.call("DELETE", "/users/ann")
    with pytest.raises(Refusal) as caught:
        await stack.storage.write(lambda tx: stack.identity.tokens.create(tx, ann, name="t"))
    assert caught.value.code == "AUTH_INSUFFICIENT_PERMISSIONS"
    await stack.call("PATCH", "/users/ann", json={"active": True})
    with pytest.raises(Refusal) as caught:  # nor with a token that was revoked
        await stack.storage.write(lambda tx: stack.identity.tokens.create(tx, ann, name="t"))
    assert caught.value.code == "AUTH_TOKEN_INVALID"


async def test_the_tokens_of_a_deactivated_user_end_at_once_with_their_streams(stack: Stack) -> None:
    ann = await stack.user("ann")
    made = [
        await token(stack, ann),
        await token(stack, ann, role="viewer"),
        await token(stack, ann, expires_in=60),
    ]
    everything = [ann, *(each["token"] for each in made)]
    streams = [stack.identity.authorize(await stack.identity.authenticate(each)) for each in everything]
    await stack.call("PATCH", "/users/ann", json={"active": False})
    assert [stream.reason for stream in streams] == ["revoked"] * 4
    for again in (False, True):
        assert [(await stack.call("GET", "/auth/me", each)).status_code for each in everything] == [401] * 4
        if not again:
            await stack.call("PATCH", "/users/ann", json={"active": True})


async def test_a_limited_token_has_no_power_over_the_login_of_its_user(stack: Stack) -> None:
    ann = await stack.user("ann", Role.ADMIN)
    session = (await stack.call("GET", "/auth/sessions", ann)).json()["sessions"][0]["id"]
    new = {"current_password": PASSWORD, "new_password": "another one"}
    for given in ("viewer", "operator", "admin"):
        limited = (await token(stack, ann, role=given))["token"]
        for method, path, body in (
            ("POST", "/auth/password", new),
            ("GET", "/auth/sessions", None),
            ("DELETE", "/auth/sessions", None),
            ("DELETE", f"/auth/sessions/{session}", None),
            ("POST", "/users/ann/password", {"password": "another one"}),
        ):
            answer = await stack.call(method, path, limited, json=body)
            assert refused(answer), (given, path, answer.text)
    assert (await stack.call("GET", "/auth/me", ann)).status_code == 200
    await stack.identity.login("ann", PASSWORD)


async def test_a_token_that_expires_does_not_become_a_login(stack: Stack) -> None:
    ann = await stack.user("ann", Role.ADMIN)
    short = (await token(stack, ann, expires_in=600))["token"]
    reset = {"password": "another one"}
    assert refused(await stack.call("POST", "/users/ann/password", short, json=reset))
    await stack.identity.login("ann", PASSWORD)
    new = {"current_password": "a guess...", "new_password": "another one"}
    assert (await stack.call("POST", "/auth/password", short, json=new)).status_code == 401
    endless = (await token(stack, ann))["token"]  # the one of `pilot up`: a forgotten password can be set
    assert (await stack.call("POST", "/users/ann/password", endless, json=reset)).status_code == 200


async def test_a_limited_token_revokes_nothing_stronger(stack: Stack) -> None:
    ann = await stack.user("ann", Role.ADMIN)
    strong = [await token(stack, ann), await token(stack, ann, role="operator")]
    weak = [await token(stack, ann, role="viewer") for _ in range(2)]
    limited = await token(stack, ann, role="user")
    for each in strong:
        assert refused(await stack.call("DELETE", f"/tokens/{each['id']}", limited["token"]))
        assert (await stack.call("GET", "/auth/me", each["token"])).status_code == 200
    for each in (*weak, limited):  # weaker ones, and itself
        assert (await stack.call("DELETE", f"/tokens/{each['id']}", limited["token"])).status_code == 204
    other = await token(stack, await stack.user("bob", Role.ADMIN))
    as_operator = (await token(stack, ann, role="operator"))["token"]
    assert (await stack.call("DELETE", f"/tokens/{other['id']}", as_operator)).status_code == 404


async def test_a_token_may_always_end_itself(stack: Stack) -> None:
    limited = (await token(stack, role="viewer"))["token"]
    assert (await stack.call("POST", "/auth/logout", limited)).status_code == 200
    assert (await stack.call("GET", "/auth/me", limited)).status_code == 401


async def test_children_made_at_once_are_limited_all(stack: Stack) -> None:
    short = await token(stack, expires_in=600, role="operator")
    made = await asyncio.gather(*(token(stack, short["token"], expires_in=n) for n in (1, 599, 601, 10**6)))
    assert {each["role"] for each in made} == {"operator"}
    assert all(each["expires_at"] <= short["expires_at"] for each in made)
