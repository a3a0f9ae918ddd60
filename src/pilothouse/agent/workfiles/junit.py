"""Reads JUnit reports, which are not trusted: no entity is declared or expanded, nothing outside of the file is read,
and depth, size and number of tests have bounds.

Everything that writes "JUnit XML" does it a little differently. What counts are the elements ``testcase``, wherever
they are below ``testsuites`` or ``testsuite``; the numbers in attributes of suites are not believed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import IO, Any
from xml.parsers import expat

from pilothouse.wire.test_reports import (
    MAX_DETAILS,
    MAX_LISTED,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_PASSED,
    MAX_PROBLEM,
    MAX_PROBLEMS,
    test_id,
)

CHUNK = 1 << 16
MAX_FILE = 64 << 20
MAX_DEPTH = 100
MAX_ATTRIBUTES = 100
MAX_TESTS = 500_000
ROOTS = ("testsuites", "testsuite")
_BAD = {"failure": "failed", "error": "error", "rerunFailure": "", "rerunError": ""}
_AGAIN = ("flakyFailure", "flakyError")
_SKIPPED = ("skipped", "disabled", "ignored")
# Characters that XML does not allow, which some reporters write; without them the rest can be read.
_ILLEGAL = bytes(code for code in range(32) if code not in (9, 10, 13))
_SPACE = b" " * len(_ILLEGAL)
_NO_ILLEGAL = bytes.maketrans(_ILLEGAL, _SPACE)


class BadReport(Exception):
    """The file is no JUnit report that can be read; the message says why and holds nothing of it."""


@dataclass(slots=True)
class Case:
    """One test: how often it failed and passed, and what is told of its last failure."""

    suite: str
    group: str
    name: str
    failed: int = 0
    passed: int = 0
    skipped: int = 0
    kind: str = ""
    message: str = ""
    details: str = ""
    duration: float = 0.0

    @property
    def flaky(self) -> bool:
        """Whether it failed, and then passed."""
        return bool(self.failed and self.passed) and not self.kind

    def described(self) -> dict[str, Any]:
        """As in a report."""
        return {"suite": self.suite, "class": self.group, "name": self.name, "message": self.message}


@dataclass(slots=True)
class Cases:
    """The tests of any number of files. One that is there several times was repeated, unless it passed each time."""

    found: dict[bytes, list[Case]] = field(default_factory=dict)
    count: int = 0

    def add(self, case: Case) -> None:
        """Raises :class:`BadReport`."""
        self.count += 1
        if self.count > MAX_TESTS:
            raise BadReport(f"it has more than {MAX_TESTS} tests")
        self.found.setdefault(test_id(case.group or case.suite, case.name), []).append(case)


class _Reader:
    """Handlers of one file."""

    def __init__(self, cases: Cases) -> None:
        self._cases = cases
        self._depth = 0
        self._suites: list[str] = []
        self._case: Case | None = None
        self._text: list[str] | None = None
        self._room = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        name = name.rpartition(":")[2]
        if self._depth == 1 and name not in ROOTS:
            raise BadReport("it is not a JUnit report: its root is neither testsuites nor testsuite")
        if self._depth > MAX_DEPTH:
            raise BadReport(f"it is nested more than {MAX_DEPTH} deep")
        if len(attributes) > MAX_ATTRIBUTES:
            raise BadReport(f"an element has more than {MAX_ATTRIBUTES} attributes")
        if name in ROOTS:
            self._suites.append(attributes.get("name", "")[:MAX_NAME])
        elif name == "testcase":
            self._begin(attributes)
        elif self._case is not None:
            self._inside(self._case, name, attributes)

    def end(self, name: str) -> None:
        self._depth -= 1
        name = name.rpartition(":")[2]
        if name in ROOTS:
            self._suites.pop()
        elif name == "testcase" and self._case is not None:
            self._finish(self._case)
            self._case = None
        elif self._text is not None and self._case is not None and name in _BAD:
            self._case.details = "".join(self._text).strip()[:MAX_DETAILS]
            if not self._case.message:
                self._case.message = self._case.details.partition("\n")[0][:MAX_MESSAGE]
            self._text = None

    def text(self, data: str) -> None:
        if self._text is not None and self._room > 0:
            self._text.append(data[: self._room])
            self._room -= len(data)

    def entity(self, *_: Any) -> None:
        raise BadReport("it declares entities, which are not read")

    def outside(self, *_: Any) -> int:
        raise BadReport("it refers to something outside of the file, which is not read")

    def _begin(self, attributes: dict[str, str]) -> None:
        suite = next((name for name in reversed(self._suites) if name), "")
        group = attributes.get("classname") or attributes.get("class") or ""
        name = attributes.get("name", "")
        self._case = Case(
            suite, group[:MAX_NAME], name[:MAX_NAME], duration=_seconds(attributes.get("time", ""))
        )
        if attributes.get("status", "").lower() in ("notrun", "disabled", "skipped"):
            self._case.skipped = 1

    def _inside(self, case: Case, name: str, attributes: dict[str, str]) -> None:
        if name in _SKIPPED:
            case.skipped = 1
        elif name in _AGAIN:
            case.failed += 1
            case.message = case.message or _message(attributes)
        elif name in _BAD:
            case.failed += 1
            case.kind = "error" if "error" in (_BAD[name], case.kind) else "failed"
            case.message = _message(attributes) or case.message
            self._text, self._room = [], MAX_DETAILS + 100

    def _finish(self, case: Case) -> None:
        self._text = None
        if not case.kind and not case.skipped:
            case.passed = 1
        self._cases.add(case)


def read_file(file: IO[bytes], cases: Cases) -> None:
    """Add a file's tests. Raises :class:`BadReport`; what came before a fault is then not added."""
    mine = Cases(count=cases.count)
    reader = _Reader(mine)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    parser.EntityDeclHandler, parser.ExternalEntityRefHandler = reader.entity, reader.outside
    head, size = file.read(CHUNK), 0
    if not head.strip():
        raise BadReport("it is empty")
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:4]
    try:
        while head:
            size += len(head)
            if size > MAX_FILE:
                raise BadReport(f"it has more than {MAX_FILE} bytes")
            parser.Parse(head if wide else head.translate(_NO_ILLEGAL), False)
            head = file.read(CHUNK)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise BadReport(f"it is not XML: {expat.ErrorString(error.code)} in line {error.lineno}") from None
    except (ValueError, LookupError, UnicodeError):
        raise BadReport("it is not XML in an encoding that is known") from None
    for id, found in mine.found.items():
        cases.found.setdefault(id, []).extend(found)
    cases.count = mine.count


def summarized(cases: Cases, files: int, problems: list[str]) -> dict[str, Any]:
    """The report of these tests (``wire/test_reports.py``), with the ids of ``passed_tests`` as they are."""
    counts = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}
    failing: list[dict[str, Any]] = []
    flaky: list[dict[str, Any]] = []
    passed, seconds = [], 0.0
    for id, found in cases.found.items():
        seconds += sum(case.duration for case in found)
        for case in [_merged(found)] if _repeated(found) else found:
            if case.kind:
                counts["errors" if case.kind == "error" else "failed"] += 1
                failing.append(
                    {
                        **case.described(),
                        "kind": case.kind,
                        "details": case.details,
                        "duration": min(round(case.duration, 3), 1e9),
                    }
                )
            elif case.passed:
                counts["passed"] += 1
                passed.append(id)
                if case.flaky:
                    flaky.append(case.described())
            else:
                counts["skipped"] += 1
    return {
        "tests": sum(counts.values()),
        **counts,
        "duration": min(round(seconds, 3), 1e9),
        "files": files,
        "problems": [problem[:MAX_PROBLEM] for problem in problems[:MAX_PROBLEMS]],
        "complete": len(passed) <= MAX_PASSED,
        "failing": failing[:MAX_LISTED],
        "flaky": flaky[:MAX_LISTED],
        "passed_tests": list(dict.fromkeys(passed))[:MAX_PASSED],
    }


def _repeated(found: list[Case]) -> bool:
    return len(found) > 1 and any(case.failed for case in found)


def _merged(found: list[Case]) -> Case:
    """One test of its repetitions. pytest-rerunfailures writes those that failed without their failure, so only the
    last one tells how it ended."""
    last = found[-1]
    failed = next((case for case in reversed(found) if case.kind), last)
    merged = Case(last.suite, last.group, last.name, duration=sum(case.duration for case in found))
    merged.failed = sum(case.failed for case in found)
    merged.passed, merged.skipped, merged.kind = last.passed, last.skipped, last.kind
    merged.message, merged.details = failed.message, failed.details
    return merged


def _message(attributes: dict[str, str]) -> str:
    return (attributes.get("message") or attributes.get("type") or "")[:MAX_MESSAGE]


_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?([eE][-+]?[0-9]{1,2})?")


def _seconds(text: str) -> float:
    plain = text.strip().replace(",", "")[:30]
    return min(float(plain), 1e9) if _NUMBER.fullmatch(plain) else 0.0
