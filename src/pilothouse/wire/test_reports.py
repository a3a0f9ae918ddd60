"""Reports of tests, as an agent sends them in events `arcentra.step.report`, within bounds.

The event's payload is ``{"kind": "junit", "name", "json"}``, where ``json`` is the text of an object::

    {"tests", "passed", "failed", "errors", "skipped": numbers of tests, "duration": seconds, "files": number,
     "problems": [text], "complete": whether ``passed_ids`` has all of them,
     "failing": [{"suite", "class", "name", "kind": "failed" or "error", "message", "details", "duration"}],
     "flaky": [{"suite", "class", "name", "message"}],
     "passed_ids": base64 of the 8 bytes of :func:`test_id` of each test that passed}

A test that failed and then passed in the same report counts as passed, and is flaky. Imports nothing but the standard
library, since agents parse reports in a child process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from typing import Any

MAX_JSON = 3 << 20
"""Bytes of the text."""
MAX_LISTED = 500
"""Failing tests, and flaky tests."""
MAX_PASSED = 50_000
MAX_NAME, MAX_MESSAGE, MAX_DETAILS = 500, 500, 2000
"""Characters of a test's name, class or suite; of its message; of its details."""
MAX_PROBLEMS, MAX_PROBLEM = 20, 300
MAX_COUNT = 10**9
ID_BYTES = 8

TEXTS = ("suite", "class", "name", "message", "details")
"""The texts of a listed test."""

_COUNTS = ("tests", "passed", "failed", "errors", "skipped", "files")


class ReportRefused(ValueError):
    """The report is not what it must be; the message does not contain what is in it."""


def test_id(group: str, name: str) -> bytes:
    """Names a test in 8 bytes; ``group``: its class, or its suite where it has none."""
    return hashlib.blake2b(f"{group}\0{name}".encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


test_id.__test__ = False  # type: ignore[attr-defined]  # for pytest


def read_report(text: str) -> dict[str, Any]:
    """The report with the ``id`` (hex) of each listed test, and ``passed_ids`` as given. Raises ReportRefused."""
    if len(text) > MAX_JSON:
        raise ReportRefused(f"it has more than {MAX_JSON} characters")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise ReportRefused("it is not valid JSON") from None
    if not isinstance(given, dict):
        raise ReportRefused("it is not an object")
    report: dict[str, Any] = {name: _count(given.get(name, 0)) for name in _COUNTS}
    report["duration"] = _seconds(given.get("duration", 0))
    report["complete"] = given.get("complete") is True
    report["problems"] = [
        _text(each, MAX_PROBLEM) for each in _listed(given.get("problems", []), MAX_PROBLEMS)
    ]
    report["failing"] = [_failing(each) for each in _listed(given.get("failing", []), MAX_LISTED)]
    report["flaky"] = [_flaky(each) for each in _listed(given.get("flaky", []), MAX_LISTED)]
    report["passed_ids"] = _ids(given.get("passed_ids", ""))
    return report


def passed_ids(packed: bytes) -> set[bytes]:
    """The ids in a row of them."""
    return {packed[at : at + ID_BYTES] for at in range(0, len(packed), ID_BYTES)}


def _failing(given: Any) -> dict[str, Any]:
    test = _test(given)
    return {
        **test,
        "kind": "error" if given.get("kind") == "error" else "failed",
        "details": _text(given.get("details", ""), MAX_DETAILS),
        "duration": _seconds(given.get("duration", 0)),
    }


def _flaky(given: Any) -> dict[str, Any]:
    return _test(given)


def _test(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ReportRefused("a test is not an object")
    suite, group, name = (_text(given.get(key, ""), MAX_NAME) for key in ("suite", "class", "name"))
    message = _text(given.get("message", ""), MAX_MESSAGE)
    id = test_id(group or suite, name).hex()
    return {"id": id, "suite": suite, "class": group, "name": name, "message": message}


def _count(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= MAX_COUNT:
        raise ReportRefused("a number of tests is not a number from 0 to a billion")
    return given


def _seconds(given: Any) -> float:
    if not isinstance(given, int | float) or isinstance(given, bool) or not math.isfinite(given):
        raise ReportRefused("a duration is not a number of seconds")
    return round(min(max(0.0, float(given)), 1e9), 3)


def _text(given: Any, most: int) -> str:
    if not isinstance(given, str):
        raise ReportRefused("a text is not a text")
    return given[:most].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _listed(given: Any, most: int) -> list[Any]:
    if not isinstance(given, list) or len(given) > most:
        raise ReportRefused(f"a list is not one of at most {most} items")
    return given


def _ids(given: Any) -> str:
    if not isinstance(given, str) or len(given) > 4 * (MAX_PASSED * ID_BYTES // 3 + 2):
        raise ReportRefused("passed_ids is not a short text")
    try:
        if len(base64.b64decode(given, validate=True)) % ID_BYTES:
            raise ReportRefused("passed_ids is not a row of ids")
    except (binascii.Error, ValueError):
        raise ReportRefused("passed_ids is not base64") from None
    return given
