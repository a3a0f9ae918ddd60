"""Tokens from files, variables and options: whitespace around them is dropped, and no error shows one."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.cli.context import Context, ContextStore
from pilothouse.cli.session import Common, Session
from pilothouse.client import BadToken, PilotClient, clean_token
from pilothouse.client.api import Api

SECRET = "pilot_0123456789abcdef"
BAD = [
    f"{SECRET}\n{SECRET}",
    f"{SECRET}\x00",
    f"{SECRET} {SECRET}",
    f"{SECRET}é",
    f"{SECRET}\x85{SECRET}",
    f"{SECRET}\u202e",
]


@pytest.mark.parametrize("around", ["\n", "\r\n", " ", "\t\n", "\n\n"])
def test_whitespace_around_it_is_no_part_of_it(around: str) -> None:
    assert clean_token(f"{around}{SECRET}{around}") == SECRET
    assert clean_token(around) == ""


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("source", ["option", "PILOT_TOKEN", "saved", "client"])
def test_what_is_no_token_is_refused_and_not_shown(
    bad: str, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PILOT_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PILOT_SERVER", "http://x")
    monkeypatch.delenv("PILOT_TOKEN", raising=False)
    common = Common(token=bad) if source == "option" else Common()
    if source == "PILOT_TOKEN" and "\x00" not in bad:
        monkeypatch.setenv("PILOT_TOKEN", bad)
    if source == "saved" or (source == "PILOT_TOKEN" and "\x00" in bad):
        ContextStore().save(Context("x", "http://x", bad))
    with pytest.raises(BadToken) as caught:
        if source == "client":
            PilotClient("http://x", bad)
        else:
            Session.of(common).target()
    assert SECRET not in str(caught.value)
    assert "not shown" in str(caught.value)


@given(st.text())
def test_any_text_is_a_token_or_refused_without_showing_it(text: str) -> None:
    try:
        token = clean_token(text)
    except BadToken as refusal:
        assert len(text.strip()) < 12 or text.strip() not in str(refusal)
    else:
        httpx.Headers({"Authorization": f"Bearer {token}"}).raw[0][1].decode("ascii")


async def test_no_error_of_the_transport_shows_it() -> None:
    def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}'")

    api = Api("http://x", SECRET, transport=httpx.MockTransport(break_off))
    error = api.unreachable(httpx.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}'"))
    assert SECRET not in str(error)
    assert "***" in str(error)
    await api.close()
