"""Clients behind proxies; our own origin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.edge.network import TrustedProxies, is_own_origin, normal_origin, rate_key

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.9", "203.0.113.5", "192.0.2.9"),
        ("10.1.1.1", "203.0.113.5", "203.0.113.5"),
        ("10.1.1.1", "6.6.6.6, 203.0.113.5, 10.2.2.2", "203.0.113.5"),
        ("10.1.1.1", "203.0.113.5:4711", "203.0.113.5"),
        ("10.1.1.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.1.1.1", "203.0.113.5", "203.0.113.5"),
        ("10.1.1.1", "garbage, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "", "10.1.1.1"),
    ],
)
def test_the_last_untrusted_hop_is_the_client(peer: str, forwarded: str, client: str) -> None:
    assert PROXIES.client(peer, forwarded) == client


@given(st.text(max_size=60))
def test_what_a_stranger_forwards_is_never_believed(forwarded: str) -> None:
    assert PROXIES.client("192.0.2.9", forwarded) == "192.0.2.9"


@given(st.text(max_size=40))
def test_any_text_can_be_a_key(address: str) -> None:
    assert rate_key(rate_key(address)) == rate_key(address)


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("https://pilot.example", "pilot.example", True),
        ("https://pilot.example", "pilot.example:443", True),
        ("http://PILOT.example", "pilot.example", True),
        ("https://console.example", "pilot.example", True),
        ("http://console.example", "pilot.example", False),
        ("https://evil.example", "pilot.example", False),
        ("http://localhost:3000", "localhost:8080", False),
        ("null", "pilot.example", False),
        ("", "pilot.example", False),
        ("https://pilot.example.evil", "pilot.example", False),
        ("http://[::1]:99999", "pilot.example", False),
    ],
)
def test_own_origins(origin: str, host: str, own: bool) -> None:
    allowed = frozenset({normal_origin("https://console.example") or ""})
    assert is_own_origin(origin, host, allowed) is own
