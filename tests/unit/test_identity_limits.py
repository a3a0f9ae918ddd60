"""Moving windows of the rate limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.access.errors import RateLimited
from pilothouse.access.model import Principal, Role
from pilothouse.edge.limits import RateLimits, RateLimitSettings, Window, parse_rate


@given(st.integers(1, 6), st.lists(st.integers(0, 400), max_size=60))
def test_no_span_ever_holds_more_than_the_amount(amount: int, pauses: list[int]) -> None:
    window, now = Window(amount, 1000), 0
    let_in: list[int] = []
    for pause in pauses:
        now += pause
        before = len([t for t in let_in if t > now - 1000])
        count = window.hit("k", now)
        assert count.allowed is (before < amount)
        if count.allowed:
            let_in.append(now)
            assert count.remaining == amount - before - 1
        else:
            assert window.hit("k", count.reset).allowed
            let_in.append(count.reset)
            now = count.reset


def test_keys_are_bounded_and_the_idle_go_first() -> None:
    window = Window(1, 1000, max_keys=3)
    for key in ("a", "b", "c", "a", "d"):
        window.hit(key, 0)
    assert len(window) == 3
    assert not window.hit("a", 1).allowed
    assert window.hit("b", 1).allowed


def test_headers_and_refusal() -> None:
    window = Window(2, 60_000)
    assert window.hit("k", 1_000_500).headers() == {
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "1",
        "X-RateLimit-Reset": "1061",
    }
    window.hit("k", 1_010_500)
    with pytest.raises(RateLimited) as refused:
        window.hit("k", 1_015_600).check()
    assert refused.value.retry_after == 45
    assert refused.value.headers["Retry-After"] == "45"
    assert refused.value.headers["X-RateLimit-Remaining"] == "0"


def test_limits_count_by_token_else_by_address_and_may_be_off() -> None:
    limits = RateLimits(RateLimitSettings(login="off", sessions="1/minute", default="1/minute"))
    ann = Principal("user", "u", "ann", Role.USER, frozenset(), "t1", None)
    counts = [
        limits.request(ann, "192.0.2.1"),
        limits.request(ann, "192.0.2.2"),
        limits.request(None, "192.0.2.1"),
        limits.request(ann, "192.0.2.1", "sessions"),
    ]
    assert [count is not None and count.allowed for count in counts] == [True, False, True, True]
    assert limits.request(None, "192.0.2.1", "login", by_address=True) is None


def test_one_ipv6_host_is_one_however_many_addresses_it_has() -> None:
    limits = RateLimits(RateLimitSettings(login="1/minute"))
    counts = [
        limits.request(None, address, "login", by_address=True)
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    ]
    assert [count is not None and count.allowed for count in counts] == [True, False, True]


def test_a_bad_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="often"):
        RateLimits(RateLimitSettings(login="often"))


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/minute", (5, 60)),
        (" 10 per 2 hours ", (10, 7200)),
        ("100/SECOND", (100, 1)),
        ("1/30minutes", (1, 1800)),
        ("1/day", (1, 86_400)),
    ],
)
def test_rates_are_an_amount_and_seconds(text: str, rate: tuple[int, int]) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "5", "5/", "/minute", "-1/minute", "5/0minute", "5/min", "3/minute;5/hour"]
)
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)
