"""Tokens: JWTs for sessions (HS256) and random API tokens, of which only the SHA-256 is stored. No I/O."""

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
#: Longer tokens are rejected.
MAX_LENGTH = 8192


class SessionTokens:
    """Signs and verifies the JWTs of logins with one key (at least 32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._key = OctKey.import_key(key)

    def issue(self, token_id: str, user_id: str, expires_at: int) -> str:
        """Create a JWT; ``expires_at`` in ms, a whole second."""
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
    """Whether the token claims to be one of our session tokens, not a JWT of an OpenID provider."""
    if token.count(".") != 2:
        return False
    try:
        return jws.extract_compact(token.encode()).headers().get("alg") == _ALGORITHM
    except (JoseError, ValueError):
        return False


def new_api_token() -> tuple[str, str]:
    """Generate an API token, which is shown once, and the digest to store."""
    token = API_PREFIX + secrets.token_urlsafe(32)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """The stored digest of a token. Tokens have 256 random bits, so a plain hash is sufficient."""
    return hashlib.sha256(token.encode()).hexdigest()
