"""Errors of commands: message and exit code."""

from __future__ import annotations

import re
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of all commands. 130: interrupted (SIGINT); 141: stdout was closed (SIGPIPE)."""

    OK = 0
    ERROR = 1
    USAGE = 2
    RUN_CANCELLED = 3
    NOT_AUTHORIZED = 4
    RUN_FAILED = 5
    UNREACHABLE = 6
    INTERRUPTED = 130
    CLOSED_PIPE = 141


RUN_OUTCOMES = {
    "succeeded": ExitCode.OK,
    "skipped": ExitCode.OK,
    "cancelled": ExitCode.RUN_CANCELLED,
    "failed": ExitCode.RUN_FAILED,
    "timed_out": ExitCode.RUN_FAILED,
}


class CliError(Exception):
    """A command failed. ``hint`` suggests a remedy."""

    code = "CLI_ERROR"

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.ERROR, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint


class UsageError(CliError):
    """Invalid arguments or input."""

    code = "USAGE"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, ExitCode.USAGE, hint)


class NotLoggedIn(CliError):
    """No server or no token is configured."""

    code = "NOT_LOGGED_IN"

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            ExitCode.NOT_AUTHORIZED,
            "start one here with `pilot up`, log in with `pilot login SERVER`, or set PILOT_SERVER and PILOT_TOKEN",
        )


_PLAIN = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer.*", "this is not an integer"),
    (r"Input should be a valid number.*", "this is not a number"),
    (r"Input should be greater than or equal to (\S+)", r"it must be at least \1"),
    (r"Input should be greater than (\S+)", r"it must be more than \1"),
    (
        r"could not parse value and unit from byte string",
        "expected a size such as 512MiB, or a number of bytes",
    ),
    (r"Input should be less than or equal to (\S+)", r"it must be at most \1"),
    (r"String should match pattern '\^\((.*)\)\$'", r"it must be one of \1"),
    (r"\(env var: '\['(\w+)'(?:, '\w+')*\]'\)", r"(from \1)"),
)


def plain(message: str) -> str:
    """A parser's message without library-specific wording."""
    for theirs, ours in _PLAIN:
        message = re.sub(theirs, ours, message)
    return message
