"""Maps exceptions to a message of one or two lines on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any

from pilothouse.cli.errors import CliError, ExitCode, plain
from pilothouse.cli.output import Output, unwritten, write_error

_OF_A_VALUE = frozenset(
    {"VALIDATION_FAILED", "INVALID_PARAMETER", "MISSING_REQUIRED_FIELD", "SPEC_INVALID", "CURSOR_INVALID"}
)
"""Error codes of the server that indicate wrong usage."""


def explain(error: Exception) -> int:
    """Print the message for an exception; returns the exit code. Does not raise."""
    from typer.exceptions import Abort, TyperException

    match error:
        case CliError():
            return fail(str(error), error.exit_code, error.hint)
        case TyperException():
            return _of_the_parser(error)
        case Abort():
            if isinstance(error.__context__, EOFError):
                return fail("nothing was entered", ExitCode.USAGE)
            return ExitCode.INTERRUPTED
        case OSError():
            return _of_the_system(error)
        case UnicodeEncodeError():
            return fail("an argument or setting is not valid UTF-8", ExitCode.USAGE)
    return _of_the_client(error)


def _of_the_parser(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help text
        write_error(f"{error.format_message()}\n")
        return ExitCode.USAGE
    context = getattr(error, "ctx", None)
    message = plain(error.format_message())
    return fail(message, ExitCode.USAGE, f"see {context.command_path if context else 'pilot'} --help")


def _of_the_system(error: OSError) -> int:
    meant = unwritten(error)
    if isinstance(meant, CliError):
        return fail(str(meant), meant.exit_code)
    where = f"{error.filename}: " if error.filename is not None else ""
    return fail(f"{where}{error.strerror or type(error).__name__}", ExitCode.ERROR)


def _of_the_client(error: Exception) -> int:
    from pilothouse.client import ApiProblem, BadAddress, BadToken, ClientError, Unreachable

    match error:
        case Unreachable():
            hint = "is the server running? start one with `pilot up`" if error.refused else ""
            if error.proxied:
                hint = "if the server can be reached directly, add its host to no_proxy"
            return fail(str(error), ExitCode.UNREACHABLE, hint)
        case ApiProblem(status=401):
            return fail(
                f"{error.message} ({error.code})", ExitCode.NOT_AUTHORIZED, "log in with `pilot login SERVER`"
            )
        case ApiProblem():
            request = f"; request {error.request_id}" if error.status >= 500 and error.request_id else ""
            return fail(f"{error.message} ({error.code}{request})", _code_of(error.status, error.code))
        case BadAddress() | BadToken():
            return fail(str(error), ExitCode.USAGE)
        case ClientError():
            return fail(f"{error} ({error.code})", ExitCode.ERROR)
    return _unforeseen(error)


def _code_of(status: int, code: str) -> ExitCode:
    if status == 403:
        return ExitCode.NOT_AUTHORIZED
    return ExitCode.USAGE if code in _OF_A_VALUE else ExitCode.ERROR


def _unforeseen(error: Exception) -> int:
    """A bug, or an invalid response of a server. The exception's text may contain secrets and is not shown."""
    import traceback

    if os.environ.get("PILOT_DEBUG"):
        write_error("".join(traceback.format_exception(error)))
        return ExitCode.ERROR
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "pilothouse" in frame.filename] or frames
    where = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}"
    message = f"internal error: {type(error).__name__} at {where}"
    answered = _answered(error)
    if answered and isinstance(error, AttributeError | LookupError | TypeError | ValueError):
        # Values of another kind than the server's API promises, unless this is a bug.
        said = (
            f"{answered} was answered with values that are not understood ({type(error).__name__} at {where})"
        )
        message = f"{said}: is this a Pilothouse server, and of this version? (UNEXPECTED_ANSWER)"
    return fail(message, ExitCode.ERROR, "set PILOT_DEBUG=1 for a traceback")


def _answered(error: Exception) -> str:
    """The request that the server had answered last where the error was raised; empty if none."""
    import traceback

    from pilothouse.client import PilotClient

    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, PilotClient) and value.last_answer:
                found = f"{value.server}: {value.last_answer}"
    return found


def fail(message: str, code: int, hint: str = "") -> int:
    """Print an error to stderr unless its message is empty; returns the exit code."""
    if not message:
        return code
    out = Output(colour="--no-color" not in sys.argv)
    out.say(f"error: {message}", "red")
    if hint:
        out.note(f"hint: {hint}")
    return code
