"""The cache of verified tokens and the open streams that use it."""

from __future__ import annotations

from pilothouse.access.model import Principal, Role
from pilothouse.identity.authorization import Grant
from pilothouse.identity.grants import FRESH_MS, Grants


class Clock:
    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


def grant(token: str, *, user: str = "u", role: Role = Role.USER, limit: Role | None = None) -> Grant:
    return Grant(Principal("user", user, user, role, frozenset(), token, None), limit, True, 1000)


def test_a_grant_is_believed_for_a_while() -> None:
    clock = Clock()
    grants = Grants(clock)
    known = grants.remember("d1", grant("t1"))
    assert grants.look_up("d1") is known
    clock.now += FRESH_MS + 1
    assert grants.look_up("d1") is None


def test_the_cache_is_bounded_but_guarded_grants_are_kept() -> None:
    grants = Grants(Clock(), max_cached=2)
    first = grants.remember("d1", grant("t1"))
    authorization = grants.authorize(first.principal)
    for n in (2, 3, 4):
        grants.remember(f"d{n}", grant(f"t{n}"))
    assert grants.look_up("d1") is None
    assert grants.look_up("d2") is None
    assert len(grants) == 3
    assert grants.remember("d1", grant("t1", role=Role.VIEWER)) is first
    assert authorization.principal.role is Role.VIEWER
    grants.remember("d5", grant("t5"))
    grants.remember("d6", grant("t6"))
    authorization.close()
    assert len(grants) == 2


def test_revocation_ends_guards_once_and_forgets_the_token() -> None:
    grants = Grants(Clock())
    known = grants.remember("d1", grant("t1"))
    ended: list[str] = []
    one, other, closed = (grants.authorize(known.principal) for _ in range(3))
    one.on_end(lambda: ended.append("one"))
    closed.on_end(lambda: ended.append("closed"))
    closed.close()
    generation = grants.generation
    grants.end_token("t1")
    assert ended == ["one"]
    assert other.reason == "revoked"
    assert other.lost.is_set()
    assert not other.sees("fleet")
    assert grants.look_up("d1") is None
    assert len(grants) == 0
    assert grants.generation > generation
    late: list[str] = []
    other.on_end(lambda: late.append("late"))
    assert late == ["late"]


def test_a_broken_callback_does_not_block_the_others() -> None:
    grants = Grants(Clock())
    known = grants.remember("d1", grant("t1"))
    ended: list[str] = []

    def broken() -> None:
        raise RuntimeError("a bug elsewhere")

    for callback in (broken, lambda: ended.append("other")):
        authorization = grants.authorize(known.principal)
        authorization.on_end(broken)
        authorization.on_end(callback)
    grants.end_token("t1")
    assert ended == ["other"]


def test_a_change_of_role_shows_at_once_and_respects_the_tokens_limit() -> None:
    grants = Grants(Clock())
    plain = grants.authorize(grants.remember("d1", grant("t1", user="ann")).principal)
    limited = grants.authorize(
        grants.remember("d2", grant("t2", user="ann", role=Role.VIEWER, limit=Role.VIEWER)).principal
    )
    stranger = grants.authorize(grants.remember("d3", grant("t3", user="bob")).principal)
    assert not plain.sees("project/p")
    grants.change_user("ann", Role.OPERATOR, frozenset({"p"}))
    assert plain.principal.role is Role.OPERATOR
    assert plain.sees("project/other")
    assert limited.principal.role is Role.VIEWER
    assert limited.sees("project/p")
    assert not limited.sees("project/other")
    assert stranger.principal.role is Role.USER


def test_the_same_token_id_under_another_digest_replaces_it() -> None:
    grants = Grants(Clock(), max_cached=2)
    grants.remember("d1", grant("t1"))
    grants.remember("d2", grant("t1"))
    assert grants.look_up("d1") is None
    for n in (3, 4, 5):
        grants.remember(f"d{n}", grant(f"t{n}"))
    assert len(grants) == 2
