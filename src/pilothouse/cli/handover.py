"""Reads tokens from files and pipes, and re-executes a process without secrets in its arguments and environment.

Initial arguments and environment stay readable in ``/proc`` for the same user, as which steps run.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from pilothouse.cli.errors import UsageError

SECRET_VARIABLES = (
    "PILOT_TOKEN",
    "PILOT_AGENT_TOKEN",
    "PILOT_ADMIN_PASSWORD",
    "PILOT_DATABASE_URL",
    "PILOT_S3_SECRET_KEY",
    "PILOT_SMTP_PASSWORD",
)
"""Environment variables that steps must not be able to read; the last four are settings of servers."""

MAX_TOKEN = 4096
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")


def reexecute(token: str) -> None:
    """Re-execute this process without secrets in its arguments and environment.

    ``token`` is passed through a pipe (``--token-file /dev/fd/N``) unless it is empty. Returns if there is nothing to
    hide, or if the CLI was called from within another program.
    """
    arguments = sys.argv[1:]
    visible = _without_token(arguments)
    secret = [name for name in SECRET_VARIABLES if name in os.environ]
    for name in secret:
        del os.environ[name]
    ours = bool(arguments) and sys.orig_argv[-len(arguments) :] == arguments
    if not ours or (visible == arguments and not secret):
        return
    if token:
        visible += ["--token-file", f"/dev/fd/{_pipe_with(token)}"]
    before = sys.orig_argv[: -len(arguments)]
    os.execv(sys.executable, [*before, *visible])  # noqa: S606 - no shell is involved


def _without_token(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    following = iter(arguments)
    for word in following:
        if word == "--token":
            next(following, None)
        elif not word.startswith("--token="):
            kept.append(word)
    return kept


def _pipe_with(token: str) -> int:
    reader, writer = os.pipe()
    with open(writer, "wb") as pipe:
        pipe.write(token.encode()[: MAX_TOKEN + 1])  # less than a pipe's capacity
    os.set_inheritable(reader, True)
    return reader


def read_token(path: str) -> str:
    """Read a token from a file; ``-`` is stdin. A pipe is closed after reading. Raises UsageError."""
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is closed"
        raise UsageError(f"cannot read the token from {path}: {reason}") from None
    return checked_token(data.decode("ascii", "replace"), path)


def checked_token(text: str, source: str) -> str:
    """A token without surrounding white space. Raises UsageError, whose message does not contain the value."""
    token = text.strip()
    if not token or len(text) > MAX_TOKEN or not token.isascii() or len(token.split()) != 1:
        raise UsageError(f"{source} does not hold a token: one word of at most {MAX_TOKEN} characters")
    return token


def _read(path: str) -> bytes:
    if path == "-":
        if sys.stdin is None:
            raise ValueError(path)
        data = sys.stdin.buffer.read(MAX_TOKEN + 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.close(nothing)
        return data
    if inherited := _DESCRIPTOR.fullmatch(path):
        with open(int(inherited[1]), "rb") as pipe:
            return pipe.read(MAX_TOKEN + 1)
    with Path(path).open("rb") as file:
        return file.read(MAX_TOKEN + 1)
