"""Entry point of ``pilot``. Keeps its imports small, so that Ctrl-C is handled from the start."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130


def main() -> int:
    """Run the command line; returns the exit code (errors.py)."""
    from pilothouse.cli.streams import prepare

    prepare()
    # KeyboardInterrupt could be raised anywhere during imports; there is nothing to clean up yet.
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, _leave)
    try:
        if os.environ.get("_PILOT_COMPLETE", "").startswith("complete_") and _completed():
            return 0
        from pilothouse.cli.app import run
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    except KeyboardInterrupt:
        return _INTERRUPTED


def _completed() -> bool:
    """Handle a completion request; errors are not shown in the shell."""
    from pilothouse.cli.completion import answer

    try:
        said = answer(os.environ["_PILOT_COMPLETE"])
    except Exception:
        said = ""
    if said:
        print(said)
    return said is not None


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
