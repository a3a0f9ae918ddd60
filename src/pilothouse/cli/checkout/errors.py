"""Why a directory cannot be sent."""

from __future__ import annotations

import os

from pilothouse.cli.errors import CliError


class PackingError(CliError):
    """The checkout cannot be packed."""

    code = "PACKING_FAILED"


class CheckoutTooLarge(PackingError):
    """It is over the limit."""

    code = "CHECKOUT_TOO_LARGE"


class GitMissing(PackingError):
    """There is a git work tree, but no git to read it with."""

    code = "GIT_MISSING"


class GitFailed(PackingError):
    """git refused or failed; the message is git's own reason. ``said``: all of its stderr."""

    code = "GIT_FAILED"

    def __init__(self, said: bytes, status: int) -> None:
        self.said = said
        lines = [line.strip() for line in os.fsdecode(said).splitlines() if line.strip()]
        at = next((i for i, line in enumerate(lines) if line.startswith(("fatal:", "error:", "warning:"))), 0)
        reason = lines[at] if lines else f"it ended with status {status}"
        hint = " ".join(lines[at + 1 : at + 8])
        if reason.startswith("fatal: transport ") and reason.endswith(" not allowed"):
            hint = (
                "objects of this partial clone are missing, and programs that its own configuration names are not "
                "run to fetch them: fetch them yourself, with git checkout HEAD -- ., for example"
            )
        super().__init__(f"git: {reason}", hint=hint)


def readable(path: bytes | str) -> str:
    """A path for a message."""
    return os.fsdecode(path)
