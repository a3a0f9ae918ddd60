"""The cases of the Autobahn test suite, run by kosoku, and what our endpoints are to do in each.

kosoku's own verdict counts wherever it can. Most cases expect an echo, and the real endpoints give none: there the
case's own expectation is taken, with what the endpoint says instead of the echo put in its place. The tables below
name every case whose verdict is not kosoku's own, and why (docs/decisions/0007-conformance.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from kosoku import FailureError, run_fuzzingclient

CASES = 517
"""All of them, in the version of kosoku that is locked."""

MEASURES = ("9.*",)
COMPRESSION = ("12.*", "13.*")
"""permessage-deflate is off, by design: these must find it declined."""

UNORDERED = ("3.[234]", "4.[12].[345]", "5.15", "6.4.[1234]")
"""Where kosoku itself takes ``NON-STRICT`` for good: the echo of a good message may be overtaken by the end that a bad
frame right behind it brings on, and bad UTF-8 may be refused at the end of its message rather than at its first byte.
"""

UNDEFINED = ("7.1.6", "7.13.[12]")
"""Where kosoku itself only informs: nothing prescribes what becomes of messages before a close, or of codes over 4999."""

ECHOED = (
    *("1.*", "3.[234]", "4.[12].[345]", "5.[3-8]", "5.15", "5.19", "5.20"),
    *("6.1.*", "6.2.*", "6.5.*", "6.6.[2579]", "6.6.11", "6.7.*", "6.9.*", "6.11.[1-4]", "6.22.*", "6.23.*"),
    *("7.1.1", "7.1.6", "10.1.1"),
)
"""Cases that expect an echo: judged by the real endpoints' responses instead."""

TOO_BIG = ("9.[12].[456]", "9.[34].*")
"""Cases with a message of more than 1 MiB: the real endpoints refuse it with 1009."""

MANY = 20
"""Number of failures that cannot be caused by load."""

HUNG = "was_open_handshake_timeout", "was_close_handshake_timeout", "was_server_connection_drop_timeout"
MESSAGE_TOO_BIG = 1009


def among(case: str, patterns: Iterable[str]) -> bool:
    """Whether a case is one of these."""
    return any(fnmatchcase(case, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Endpoint:
    """A real endpoint: what it says to a message that is none of its protocol, and what it says unasked.

    ``answer`` is the ``type`` of its answer, ``""`` where there is none; ``unasked`` may come at any time.
    """

    url: str
    answer: str = ""
    unasked: str = ""

    def stand_in(self, events: Iterable[Any]) -> list[Any]:
        """What a case expects, with this endpoint's answer in the place of each echo."""
        answer = [("answer", self.answer)] if self.answer else []
        return [e for event in events for e in (answer if event[0] == "message" else [tuple(event)])]

    def heard(self, events: Iterable[Any]) -> list[Any]:
        """What a case received, its answers named by their type; anything unforeseen stays as it is."""
        named = [("answer", kind_of(event)) if event[0] == "message" else tuple(event) for event in events]
        return [event for event in named if event != ("answer", self.unasked)]


def kind_of(event: Any) -> str:
    """The ``type`` of a text message that is a JSON object; of anything else all there is to know."""
    _, payload, binary = event
    try:
        return str(json.loads(payload)["type"]) if not binary else f"binary: {payload[:80]!r}"
    except (ValueError, TypeError, KeyError):
        return f"no message of ours: {payload[:80]!r}"


Judge = Callable[[Any], str]
"""Of a case's result: ``""`` if it is good, else what is wrong with it."""


def as_echo(result: Any) -> str:
    """kosoku's own verdict, and the refusals with their code: to drop the connection is not enough."""
    case, verdict = result.case_id, result.behavior.value
    allowed = {"OK"}
    allowed |= {"NON-STRICT"} if among(case, UNORDERED) else set()
    allowed = {"INFORMATIONAL"} if among(case, UNDEFINED) else allowed
    allowed = {"UNIMPLEMENTED"} if among(case, COMPRESSION) else allowed
    if verdict not in allowed or result.behavior_close.value not in ("OK", "INFORMATIONAL"):
        return f"{verdict}: {result.result} {result.result_close}"
    return wrong_close(result)


def as_endpoint(endpoint: Endpoint) -> Judge:
    """The judge of a real endpoint: like an echo's, save where it has nothing to echo."""

    def judge(result: Any) -> str:
        if among(result.case_id, MEASURES):
            return wrong_measure(endpoint, result)
        if not among(result.case_id, ECHOED):
            return as_echo(result)
        heard = endpoint.heard(result.received)
        if not any(event[0] == "message" for events in result.expected.values() for event in events):
            return "expects no echo, and stands in the table of those that do"
        expected = [endpoint.stand_in(events) for events in result.expected.values()]
        if among(result.case_id, UNDEFINED):
            # Two messages right before a close: as many answers as were in time.
            expected = [endpoint.stand_in([("message",)] * count) for count in range(3)]
        if heard not in expected:
            return f"received {heard}, expected {' or '.join(map(str, expected))}"
        return wrong_close(result, waits=True)

    return judge


def wrong_measure(endpoint: Endpoint, result: Any) -> str:
    """Group 9: one message of so many bytes (or the first of a thousand), then the suite's close.

    The suite keeps no record of what it got here but the number of frames. A message that the endpoint does not
    answer ends the case with the first that comes unasked.
    """
    frames = dict(result.rx_frame_stats)
    if among(result.case_id, TOO_BIG):
        texts = range(1, 100) if endpoint.unasked else ()
        if result.remote_close_code != MESSAGE_TOO_BIG or result.closed_by_me:
            return f"closed with {result.remote_close_code}, by us: {not result.closed_by_me}; expected 1009"
        return "" if frames in [{8: 1}, *({1: n, 8: 1} for n in texts)] else f"received frames {frames}"
    if frames != {1: 1, 8: 1}:
        return f"received frames {frames}, expected a text and a close"
    return wrong_close(result)


def wrong_close(result: Any, *, waits: bool = False) -> str:
    """Whether it ended as the case wants: who closes, with which code, cleanly.

    ``waits``: it may also have waited for its echo in vain and cut the connection that we left open.
    """
    expected: Mapping[str, Any] = result.expected_close
    if hung := [name for name in HUNG if getattr(result, name)]:
        return f"hung: {hung}"
    if waits and expected["closedByMe"] and not result.closed_by_me:
        left_open = result.dropped_by_me and result.remote_close_code is None
        return "" if left_open else f"ended by us, with {result.remote_close_code}"
    if result.closed_by_me != expected["closedByMe"]:
        return f"closed by us: {not result.closed_by_me}"
    if result.dropped_by_me or not result.was_clean:
        return f"not a clean end: {result.was_not_clean_reason or result.result_close}"
    code = result.remote_close_code
    if code is None and result.local_close_code is None:
        return ""  # a close without a code was answered by another such
    return "" if code in expected["closeCode"] else f"closed with {code}, expected {expected['closeCode']}"


async def run(url: str, *cases: str, but: Iterable[str] = (), at_once: int) -> list[Any]:
    """The result of each case, good or not; ``but``: cases to leave out."""
    try:
        return await run_fuzzingclient(url, list(cases) or None, list(but) or None, at_once)
    except FailureError as failure:
        return list(failure.results)


async def echo_faults(url: str) -> dict[str, str]:
    """All cases against an echo: what is wrong, by case. The large messages come last, apart from the quick ones."""
    results = await run(url, but=MEASURES, at_once=24) + await run(url, *MEASURES, at_once=2)
    return await _faults(url, as_echo, results)


async def endpoint_faults(endpoint: Endpoint) -> dict[str, str]:
    """All cases against a real endpoint: what is wrong, by case. Most of them only wait."""
    return await _faults(endpoint.url, as_endpoint(endpoint), await run(endpoint.url, at_once=64))


async def _faults(url: str, judge: Judge, results: list[Any]) -> dict[str, str]:
    # The cases have clocks of their own, some of half a second. What fails in the crowd is tried again in ever smaller
    # company, so that a busy machine makes no difference; what is wrong stays wrong.
    assert len({result.case_id for result in results}) == len(results) == CASES
    found = _wrong(judge, results)
    for company in (8, 2, 1):
        if not found or (len(found) > MANY and company < 8):
            break
        again = _wrong(judge, await run(url, *found, at_once=company))
        print(
            {case: wrong for case, wrong in found.items() if case not in again},
            "were good in smaller company",
        )
        found = again
    return found


def _wrong(judge: Judge, results: list[Any]) -> dict[str, str]:
    return {result.case_id: wrong for result in results if (wrong := judge(result))}
