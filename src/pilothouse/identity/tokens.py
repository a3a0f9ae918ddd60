"""Tokens: JWTs for sessions (HS256) and API tokens (random, only their SHA-256 is stored). No I/O."""

from __future__ import annotations

import hashlib
import secrets

from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

from pilothouse.access.errors import token_expired, token_invalid

ISSUER = "pilothouse"
AUDIENCE = "pilothouse"
API_PREFIX = "pilot_"
_ALGORITHM = "HS256"
#: A longer one is not looked at.
MAX_LENGTH = 8192


class SessionTokens:
    """Signs and verifies the JWTs of logins with one key (at least 32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._key = OctKey.import_key(key)

    def issue(self, token_id: str, user_id: str, expires_at: int) -> str:
        """A JWT; ``expires_at`` in ms, on a whole second."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "jti": token_id,
            "exp": expires_at // 1000,
        }
        return jwt.encode({"alg": _ALGORITHM}, claims, self._key)

    def verify(self, token: str, now: int) -> str:
        """The token's id (``jti``). Raises ``AUTH_TOKEN_EXPIRED`` or ``AUTH_TOKEN_INVALID``."""
        registry = jwt.JWTClaimsRegistry(
            now=now // 1000,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            jti={"essential": True},
            exp={"essential": True},
        )
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
            registry.validate(claims)
        except ExpiredTokenError as error:
            raise token_expired() from error
        except (JoseError, ValueError) as error:
            raise token_invalid() from error
        return str(claims["jti"])


def is_ours(token: str) -> bool:
    """Whether the token claims to be a session token of ours (an OpenID provider's JWT does not)."""
    if token.count(".") != 2:
        return False
    try:
        return jws.extract_compact(token.encode()).headers().get("alg") == _ALGORITHM
    except (JoseError, ValueError):
        return False


def new_api_token() -> tuple[str, str]:
    """A fresh API token, to be shown once, and the digest to store."""
    token = API_PREFIX + secrets.token_urlsafe(32)
    return token, digest(token)


def digest(token: str) -> str:
    """What is stored of a token. It has 256 random bits, so that a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()
