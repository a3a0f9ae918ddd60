"""Services as route parameters."""

from __future__ import annotations

from typing import Annotated

from pilothouse.edge.services import provided
from pilothouse.identity.service import Identity

IdentityService = Annotated[Identity, provided(Identity)]
