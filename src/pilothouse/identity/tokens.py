"""Tokens: JWTs for sessions (HS256) and random API tokens, of which only the SHA-256 is stored. No I/O."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

from pilothouse.access.errors import token_expired, token_invalid
from pilothouse.storage.keyring import Key, Keyring, derived

ISSUER = "pilothouse"
AUDIENCE = "pilothouse"
API_PREFIX = "pilot_"
_ALGORITHM = "HS256"
#: Longer tokens are rejected.
MAX_LENGTH = 8192


class SessionTokens:
    """Signs the JWTs of logins with the server's key in use, and accepts those of its former keys.

    ``kid`` names the key; tokens of release 0.1 have none.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def issue(self, token_id: str, user_id: str, expires_at: int) -> str:
        """Create a JWT; ``expires_at`` in ms, a whole second."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "jti": token_id,
            "exp": expires_at // 1000,
        }
        key = self._keyring.current
        return jwt.encode({"alg": _ALGORITHM, "kid": key.id.hex()}, claims, _signing(key))

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
            claims = self._decoded(token)
            registry.validate(claims)
        except ExpiredTokenError as error:
            raise token_expired() from error
        except (JoseError, ValueError) as error:
            raise token_invalid() from error
        return str(claims["jti"])

    def _decoded(self, token: str) -> dict[str, Any]:
        """The claims. Raises JoseError, ValueError."""
        named = jws.extract_compact(token.encode()).headers().get("kid")
        if isinstance(named, str):
            key = self._keyring.find(bytes.fromhex(named))
            if key is None:
                raise ValueError("signed with a key that is not ours")
            return jwt.decode(token, _signing(key), algorithms=[_ALGORITHM]).claims
        for key in self._keyring.keys[:-1]:
            with contextlib.suppress(JoseError):
                return jwt.decode(token, _signing(key), algorithms=[_ALGORITHM]).claims
        return jwt.decode(token, _signing(self._keyring.keys[-1]), algorithms=[_ALGORITHM]).claims


def _signing(key: Key) -> OctKey:
    return OctKey.import_key(derived(key.root, "session tokens"))


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
