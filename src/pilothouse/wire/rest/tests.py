"""The tests of runs, from the reports that steps have read (docs/artifacts.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Id, Time

Duration = Annotated[float, Field(ge=0)]
"""Seconds."""


class TestCounts(Answer):
    """Numbers of tests. A test that failed and then passed in the same report has passed; ``errors`` are tests that
    could not be run to their end."""

    __test__ = False

    tests: Count
    passed: Count
    failed: Count
    errors: Count
    skipped: Count
    duration: Duration

    example: ClassVar[Any] = {
        "tests": 128,
        "passed": 125,
        "failed": 1,
        "errors": 0,
        "skipped": 2,
        "duration": 12.5,
    }


class TestSummary(TestCounts):
    """The tests of a run, with the number of flaky ones."""

    flaky: Count

    example: ClassVar[Any] = {**TestCounts.example, "flaky": 1}


class ComparedRun(TestCounts):
    """The tests of the run that this one is compared with."""

    run_id: Id
    finished_at: Time

    example: ClassVar[Any] = {
        **TestCounts.example,
        "run_id": "019a7b1d-6c0a-7c3e-9a51-0c4b8f1f2a10",
        "finished_at": "2026-01-10T13:23:59.000Z",
    }


class TestReport(TestCounts):
    """One report: made of ``files``; ``problems``: files that could not be read, and why."""

    name: str
    job: str
    step: str
    step_run_id: Id
    attempt: Annotated[int, Field(ge=1)]
    files: Count
    problems: list[str]
    created_at: Time

    example: ClassVar[Any] = {
        **TestCounts.example,
        "name": "unit",
        "job": "test",
        "step": "report",
        "step_run_id": "019a7b1e-7000-7a00-8a51-0c4b8f1f2a10",
        "attempt": 1,
        "files": 1,
        "problems": [],
        "created_at": "2026-01-10T14:23:59.000Z",
    }


class NamedTest(Answer):
    """A test: ``id`` is the same in every run; ``report``, ``job`` and ``step`` say where it ran."""

    __test__ = False

    id: str
    suite: str
    # "class" is a keyword
    group: str = Field(alias="class")
    name: str
    message: str
    job: str
    step: str
    report: str

    example: ClassVar[Any] = {
        "id": "8f4bb0ac3f1d7c21",
        "suite": "pytest",
        "class": "tests.test_cart",
        "name": "test_total",
        "message": "assert 3 == 4",
        "job": "test",
        "step": "report",
        "report": "unit",
    }


class FailingTest(NamedTest):
    """A test that failed; ``new``: it did not fail in the run that this one is compared with."""

    kind: Literal["failed", "error"]
    details: str
    duration: Duration
    new: bool

    example: ClassVar[Any] = {
        **NamedTest.example,
        "kind": "failed",
        "details": "test_cart.py:12: AssertionError",
        "duration": 0.01,
        "new": True,
    }


class FlakyTest(NamedTest):
    """A test that failed and passed although the code was the same; ``reason``: how that is known."""

    reason: str

    example: ClassVar[Any] = {
        **NamedTest.example,
        "name": "test_race",
        "reason": "another attempt of its step ended differently",
    }


class RunTests(Answer):
    """The tests of a run, of the last attempt of each step.

    ``compared_with``: the last run of the same pipeline and branch that ended before and has reports; ``fixed``:
    tests that failed there and passed here. At most 500 tests are listed of each kind.
    """

    summary: TestSummary
    reports: list[TestReport]
    failing: list[FailingTest]
    flaky: list[FlakyTest]
    compared_with: ComparedRun | None
    new_failures: Count
    fixed: list[NamedTest]

    example: ClassVar[Any] = {
        "summary": TestSummary.example,
        "reports": [TestReport.example],
        "failing": [FailingTest.example],
        "flaky": [FlakyTest.example],
        "compared_with": ComparedRun.example,
        "new_failures": 1,
        "fixed": [],
    }
