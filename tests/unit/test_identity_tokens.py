"""Session tokens (JWT) and API tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from pilothouse.access.errors import AuthError
from pilothouse.identity import tokens
from pilothouse.storage.keyring import Keyring
from pilothouse.storage.secretbox import derive_key

KEY = bytes(range(32))
NOW = 1_800_000_000_000
SESSIONS = tokens.SessionTokens(Keyring.of(KEY))


def forged(key: bytes = KEY, alg: str = "HS256", **changes: Any) -> str:
    claims = {"iss": "pilothouse", "aud": "pilothouse", "sub": "u", "jti": "t", "exp": NOW // 1000 + 60}
    claims |= changes
    kept = {name: value for name, value in claims.items() if value is not None}
    signing = OctKey.import_key(derive_key(key, "session tokens"))
    return jwt.encode({"alg": alg}, kept, signing, algorithms=[alg])


def test_a_token_is_good_until_its_second() -> None:
    token = SESSIONS.issue("t1", "u1", NOW + 60_000)
    assert tokens.is_ours(token)
    assert SESSIONS.verify(token, NOW) == "t1"
    assert SESSIONS.verify(token, NOW + 59_999) == "t1"
    with pytest.raises(AuthError) as refused:
        SESSIONS.verify(token, NOW + 60_000)
    assert refused.value.code == "AUTH_TOKEN_EXPIRED"


@pytest.mark.parametrize(
    "token",
    [
        forged(iss="other"),
        forged(iss=None),
        forged(aud="other"),
        forged(aud=None),
        forged(exp=None),
        forged(exp="soon"),
        forged(jti=None),
        forged(sub=None),
        forged(key=bytes(32)),
        forged(alg="HS512"),
        forged()[:-4],
        "eyJhbGciOiJub25lIn0.eyJqdGkiOiJ0In0.",
    ],
)
def test_a_forged_token_is_refused(token: str) -> None:
    with pytest.raises(AuthError) as refused:
        SESSIONS.verify(token, NOW)
    assert refused.value.code == "AUTH_TOKEN_INVALID"


def test_the_well_made_token_of_these_tests_is_good() -> None:
    assert SESSIONS.verify(forged(), NOW) == "t"


@given(st.text(max_size=80))
def test_garbage_is_not_ours_and_never_breaks_anything(text: str) -> None:
    if tokens.is_ours(text):
        with pytest.raises(AuthError):
            SESSIONS.verify(text, NOW)


def test_a_foreign_jwt_is_left_to_others() -> None:
    assert not tokens.is_ours(forged(alg="HS512"))


def test_api_tokens_are_random_and_stored_as_digests() -> None:
    (one, digest), (other, _) = tokens.new_api_token(), tokens.new_api_token()
    assert one.startswith("pilot_")
    assert one != other
    assert len(one) >= 6 + 43
    assert digest == tokens.token_digest(one)
    assert one not in digest
