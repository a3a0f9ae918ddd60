"""A cache of recently verified tokens, so that most requests need no database query.

Revocations and changes on this server take effect immediately (services update the cache after their commit).
Changes by other servers are noticed when a grant is older than :data:`FRESH_MS` and is looked up again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from pilothouse.access.model import Principal, Role
from pilothouse.edge.authentication import End
from pilothouse.identity.authorization import Grant, TokenAuthorization

FRESH_MS = 2000
MAX_CACHED = 10_000


class Grants:
    """Grants by token digest (bounded, for requests) and by token id (also those of open streams)."""

    def __init__(self, clock: Callable[[], int], max_cached: int = MAX_CACHED) -> None:
        self._clock = clock
        self._max = max_cached
        self._cached: OrderedDict[str, Grant] = OrderedDict()
        self._digests: dict[str, str] = {}
        self._by_token: dict[str, Grant] = {}
        #: Incremented by every revocation and change; the result of an older verification is discarded.
        self.generation = 0

    def __len__(self) -> int:
        return len(self._by_token)

    def look_up(self, digest: str) -> Grant | None:
        """The fresh grant of the token with this digest, which may have expired: see :func:`expired`."""
        grant = self._cached.get(digest)
        if grant is None or self._clock() - grant.checked_at > FRESH_MS:
            return None
        self._cached.move_to_end(digest)
        return grant

    def remember(self, digest: str, verified: Grant) -> Grant:
        """Cache a verified token; its open streams see the new state."""
        grant = self._merge(verified)
        known_as = self._digests.get(grant.principal.token_id, digest)
        if known_as != digest:
            del self._cached[known_as]
        self._cached[digest] = grant
        self._cached.move_to_end(digest)
        self._digests[grant.principal.token_id] = digest
        if len(self._cached) > self._max:
            _, oldest = self._cached.popitem(last=False)
            del self._digests[oldest.principal.token_id]
            self.release(oldest)
        return grant

    def authorize(self, principal: Principal) -> TokenAuthorization:
        """The rights of the principal's token. An unknown token is looked up at the next renewal."""
        grant = self._by_token.get(principal.token_id)
        if grant is None:
            grant = Grant(principal, principal.role, principal.kind == "user", checked_at=0)
            if principal.token_id:
                self._by_token[principal.token_id] = grant
        return TokenAuthorization(grant, self.release)

    def release(self, grant: Grant) -> None:
        """Drop a grant that is neither cached nor used by a stream."""
        id = grant.principal.token_id
        if not grant.authorizations and id not in self._digests and self._by_token.get(id) is grant:
            del self._by_token[id]

    def end_token(self, token_id: str, why: End = "revoked") -> None:
        """Remove a token that is no longer valid and end its streams."""
        self.generation += 1
        digest = self._digests.pop(token_id, None)
        if digest is not None:
            del self._cached[digest]
        grant = self._by_token.pop(token_id, None)
        if grant is not None:
            grant.end(why)

    def end_tokens(self, token_ids: Iterable[str]) -> None:
        """Like :meth:`end_token`, for several tokens."""
        for id in token_ids:
            self.end_token(id)

    def change_user(self, user_id: str, role: Role, projects: frozenset[str]) -> None:
        """Apply a changed role or memberships of a user to all their grants."""
        self.generation += 1
        for grant in self._by_token.values():
            if grant.principal.kind == "user" and grant.principal.id == user_id:
                grant.adopt(role, projects)

    def leave_project(self, project: str) -> None:
        """Apply that a project was deleted to the grants of its members."""
        self.generation += 1
        for grant in self._by_token.values():
            principal = grant.principal
            if project in principal.projects and principal.role is not None:
                grant.adopt(principal.role, principal.projects - {project})

    def refresh(self, token_id: str, verified: Grant | None) -> None:
        """Update a streaming token from the database; ``None``: it was revoked."""
        if verified is None:
            self.end_token(token_id)
        elif token_id in self._by_token:
            self._merge(verified)

    def streaming(self) -> Iterator[Grant]:
        """Grants that are used by open streams."""
        return (grant for grant in list(self._by_token.values()) if grant.authorizations)

    def _merge(self, verified: Grant) -> Grant:
        grant = self._by_token.setdefault(verified.principal.token_id, verified)
        if grant is not verified:
            grant.principal = verified.principal
            grant.token_role = verified.token_role
            grant.stored = verified.stored
            grant.checked_at = verified.checked_at
        return grant


def expired(principal: Principal, now: int) -> bool:
    """Whether the principal's token has expired (``now`` in ms)."""
    return principal.expires_at is not None and principal.expires_at <= now
