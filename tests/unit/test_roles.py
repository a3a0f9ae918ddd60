"""Roles, actions and scopes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.access.errors import CODES, Refusal, require
from pilothouse.access.model import ACTIONS, AGENT_ACTIONS, MEANINGS, SYSTEM, Principal, Role, narrower

RANKED = [Role.VIEWER, Role.USER, Role.OPERATOR, Role.ADMIN]


def user(role: Role, *projects: str) -> Principal:
    return Principal("user", "u1", "ann", role, frozenset(projects), "t1", None)


AGENT = Principal("agent", "a1", "builder", None, frozenset(), "t2", None)


@given(st.sampled_from(sorted(ACTIONS)), st.integers(0, 2))
def test_a_higher_role_may_do_all_that_a_lower_one_may(action: str, rank: int) -> None:
    if RANKED[rank] in ACTIONS[action]:
        assert RANKED[rank + 1] in ACTIONS[action]


def test_every_action_is_explained_and_open_to_admins() -> None:
    for action, roles in ACTIONS.items():
        assert MEANINGS[action]
        assert Role.ADMIN in roles


@pytest.mark.parametrize(
    ("action", "least"),
    [
        ("run.read", Role.VIEWER),
        ("run.trigger", Role.USER),
        ("secret.read", Role.USER),
        ("session.any", Role.OPERATOR),
        ("agent.control", Role.OPERATOR),
        ("approval.decide", Role.OPERATOR),
        ("user.admin", Role.ADMIN),
        ("registration_token.create", Role.ADMIN),
        ("force", Role.ADMIN),
    ],
)
def test_the_least_role_for_an_action(action: str, least: Role) -> None:
    for role in RANKED:
        assert user(role).may(action) is (RANKED.index(role) >= RANKED.index(least))


def test_users_and_viewers_need_membership_operators_and_admins_do_not() -> None:
    assert user(Role.USER, "p1").may("run.trigger", "p1")
    assert not user(Role.USER, "p1").may("run.trigger", "p2")
    assert not user(Role.VIEWER).may("run.read", "p1")
    assert user(Role.OPERATOR).may("run.trigger", "p2")
    assert user(Role.ADMIN).may("project.write", "p2")


def test_agents_do_agent_things_and_nothing_else() -> None:
    assert AGENT.may("agent.self")
    assert not user(Role.ADMIN).may("agent.self")
    assert {action for action in ACTIONS if AGENT.may(action)} == set(AGENT_ACTIONS) & set(ACTIONS)


def test_an_action_in_no_table_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        user(Role.ADMIN).may("no.such")


def test_scopes() -> None:
    viewer, operator, admin = user(Role.VIEWER, "p1"), user(Role.OPERATOR), user(Role.ADMIN)
    scopes = ["project/p1", "project/p2", "fleet", "user/u1", "user/u2", "admin", "nonsense", ""]

    def seen(principal: Principal) -> list[str]:
        return [scope for scope in scopes if principal.sees(scope)]

    assert seen(viewer) == ["project/p1", "fleet", "user/u1"]
    assert seen(operator) == ["project/p1", "project/p2", "fleet", "user/u1", "user/u2"]
    assert seen(admin) == ["project/p1", "project/p2", "fleet", "user/u1", "user/u2", "admin"]
    assert seen(AGENT) == []
    assert seen(SYSTEM) == scopes


@given(st.sampled_from(RANKED), st.sampled_from([None, *RANKED]))
def test_a_tokens_role_never_exceeds_its_users(role: Role, limit: Role | None) -> None:
    effective = narrower(role, limit)
    assert RANKED.index(effective) <= RANKED.index(role)
    assert limit is None or RANKED.index(effective) <= RANKED.index(limit)
    assert effective in (role, limit)


def test_require_reports_what_is_missing() -> None:
    with pytest.raises(Refusal) as refused:
        require(replace(user(Role.VIEWER), name="bob"), "user.admin")
    assert refused.value.status == 403
    assert refused.value.code == "AUTH_INSUFFICIENT_PERMISSIONS"
    assert "bob" in refused.value.message


def test_every_code_has_a_status_and_a_text() -> None:
    for code, (status, text) in CODES.items():
        assert code.isupper()
        assert 400 <= status < 600
        assert text
