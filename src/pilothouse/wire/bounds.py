"""Bounds of what callers send that request models and services share; standard library only."""

from __future__ import annotations

MAX_PASSWORD = 1024
"""Characters of a password."""

MAX_COMMENT = 1000
"""Characters of the comment of a gate's decision."""

MAX_APPROVALS = 20
"""Approvals that a gate may need."""
MAX_APPROVERS, MAX_APPROVER = 50, 63
"""How many roles and how many users a gate may name, and the characters of each name."""

MAX_ENTRIES, MAX_ENTRY = 100, 200
"""How many names, projects or labels a registration token may list, and how many characters each has."""

MAX_VARIABLES = 200
"""Variables that a run is given."""
MAX_VARIABLES_SIZE = 256 << 10
"""Characters of the names and values of all variables that a run is given: each run stores them."""

MAX_REPOSITORIES, MAX_PACKS_EACH, MAX_PACKS = 200, 20, 400
"""Repositories of a checkout, packs of each, and packs of all together."""
MAX_KEY = 1024
"""Bytes of a repository's key (docs/checkout.md)."""
COMMIT = "[0-9a-f]{40}|[0-9a-f]{64}"
"""A git object id, of either object format, as a regular expression."""
