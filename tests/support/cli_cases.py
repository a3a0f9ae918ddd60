"""Runs ``pilot`` commands with standard streams in every state, each in a fork of one process that has loaded
everything: ``python cli_cases.py`` reads cases as lines of JSON on stdin and writes what came of each as JSON."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

_TIMEOUT = 60


def main() -> None:
    import httpx
    import rich.table
    import typer._adapters
    import yaml

    import pilothouse.cli.app
    import pilothouse.cli.failures
    import pilothouse.cli.here
    import pilothouse.client
    import pilothouse.server.settings

    assert all((httpx, rich, typer, yaml, pilothouse))
    answers = os.fdopen(os.dup(1), "w")  # the children get a stdout of their own
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
        answers.flush()


def run(case: dict[str, Any]) -> dict[str, Any]:
    """``words``, and optionally ``closed`` and ``full`` (numbers), ``stdin`` (hex), ``encoding``, ``env``."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("in", "out", "err")]
        for path, data in zip(paths, (bytes.fromhex(case.get("stdin", "")), b"", b""), strict=True):
            with open(path, "wb") as file:
                file.write(data)
        child = os.fork()
        if child == 0:
            _child(case, paths)
        _, status = os.waitpid(child, 0)
        out, err = (Path(path).read_bytes().decode("utf-8", "replace") for path in paths[1:])
        return {"code": os.waitstatus_to_exitcode(status), "out": out, "err": err}


def _child(case: dict[str, Any], paths: list[str]) -> None:
    signal.alarm(_TIMEOUT)
    os.environ.update(case.get("env", {}))
    for number, path in enumerate(paths):
        target = "/dev/full" if number in case.get("full", ()) else path
        opened = os.open(target, os.O_RDONLY if number == 0 else os.O_WRONLY)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
    for number in case.get("closed", ()):
        os.close(number)
    encoding = case.get("encoding", "utf-8")
    sys.stdin = _stream(0, "r", encoding)
    sys.stdout = _stream(1, "w", encoding)
    sys.stderr = _stream(2, "w", encoding, "backslashreplace")
    sys.argv = ["pilot", *(os.fsdecode(bytes.fromhex(word)) for word in case["words"])]
    from pilothouse.cli.main import main as pilot

    code: Any = 99
    try:
        code = pilot()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):  # as Python does at its end
        try:
            stream.flush()
        except (OSError, ValueError):
            code = 120
    os._exit(int(code))


def _stream(number: int, mode: str, encoding: str, errors: str = "strict") -> Any:
    try:
        os.fstat(number)
    except OSError:
        return None
    buffer = open(number, f"{mode}b", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(buffer, encoding=encoding, errors=errors, line_buffering=number == 2)


if __name__ == "__main__":
    main()
