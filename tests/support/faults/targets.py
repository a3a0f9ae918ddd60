"""Every decoder of the product as a function of arbitrary bytes, for hypothesis and for atheris.

A target returns if the bytes were read or refused as the decoder documents it, and raises for everything else. The
first bytes often choose how the rest is used: `Source` hands them out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf.message import DecodeError, Message

from pilothouse.edge.network import TrustedProxies, is_own_origin, normal_origin, rate_key
from pilothouse.engine.grpc import raw_batch, read_payload
from pilothouse.engine.intake.batches import MAX_RAW, BatchInvalid, read_lines
from pilothouse.engine.intake.ingest import chunks
from pilothouse.engine.intake.joining import Joiner
from pilothouse.expressions import (
    ExpressionError,
    compile_condition,
    compile_expression,
    evaluate,
    evaluate_when,
    render,
)
from pilothouse.fleet import messages
from pilothouse.fleet.errors import BadProfile
from pilothouse.fleet.registry import check_profile
from pilothouse.journal import Cursor, CursorError
from pilothouse.pipelines.spec import SpecError, parse_spec, spec_from_json, spec_to_json
from pilothouse.wire.agent.v1 import agent_pb2
from pilothouse.wire.durations import DurationError, parse_duration
from pilothouse.wire.gateway.v1 import gateway_pb2
from pilothouse.wire.masking import Masker

EPOCH = "0123abcd"


class Source:
    """Bytes, handed out from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        """The next one, 0 at the end."""
        taken = self.take(1)
        return taken[0] if taken else 0

    def take(self, count: int) -> bytes:
        """So many, or what is left."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that are left."""
        return self.take(len(self._data))

    def text(self) -> str:
        """All that are left, as text of any characters a decoder may see."""
        return self.rest().decode("utf-8", "replace")

    def pieces(self) -> Iterator[bytes]:
        """All that are left, cut at places that they choose themselves."""
        while size := self.byte():
            yield self.take(size)
        yield self.rest()


@dataclass(frozen=True)
class Target:
    """``seeds`` are good inputs to begin with; ``words`` are bits of the language."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...] = ()
    words: tuple[bytes, ...] = ()


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes, words: tuple[bytes, ...] = ()) -> Callable[[Callable[[bytes], None]], Any]:
    """Enter a function in the table, under its name."""

    def enter(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[run.__name__] = Target(run, seeds, words)
        return run

    return enter


# -- specs and expressions ------------------------------------------------------------------------------

SPEC = b"""
variables: {tag: "1"}
jobs:
  - name: build
    env: {A: "${{ variables.tag }}"}
    timeout: 5m
    steps:
      - name: s
        uses: shell
        args: {command: "echo ${{ secrets.TOKEN }}"}
        agentSelector: {matchLabels: {os: linux}, matchExpressions: [{key: gpu, operator: Exists}]}
        retry: {maxAttempts: 2}
        onLost: rerun
  - {name: test, dependsOn: [build], when: "success()", steps: [{name: t, uses: dummy}]}
"""


@target(
    SPEC,
    b'{"jobs":[{"name":"a","steps":[{"name":"s","uses":"shell","args":{"script":"x"}}]}]}',
    b"jobs: &a [*a]",
    words=(
        b"jobs:",
        b"- name: ",
        b"steps:",
        b"uses: ",
        b"${{ ",
        b" }}",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!",
        b"? ",
        b"|\n",
    ),
)
def spec(data: bytes) -> None:
    """What is read comes back the same from its canonical form."""
    try:
        parsed = parse_spec(data.decode("utf-8", "replace"))
    except SpecError as error:
        assert error.problems
        str(error)
        return
    assert spec_from_json(orjson.loads(orjson.dumps(spec_to_json(parsed.spec)))).spec == parsed.spec


@target(b'{"jobs":[{"name":"a","steps":[{"name":"s","uses":"dummy"}]}]}', b"[1e400, null]")
def spec_object(data: bytes) -> None:
    """A spec that came as decoded JSON, of whatever shape."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        spec_from_json(given)
    except SpecError as error:
        assert error.problems


CONTEXT: dict[str, Any] = {
    "variables": {"tag": "1.4", "n": 3, "list": [1, "b", None, {"c": 2.5}], "big": "x" * 1000},
    "env": {"HOME": "/root"},
    "run": {"id": "r", "number": 7, "at": "2026-01-01T00:00:00Z"},
    "job": {"name": "j"},
    "step": {"name": "s"},
    "jobs": {"unit-test": {"outputs": {"o": 1}}},
    "secrets": {"TOKEN": "do-not-tell"},
}
_CEL = (
    b"variables.",
    b"jobs[",
    b"'",
    b'"',
    b" in ",
    b"matches(",
    b"map(",
    b"filter(",
    b"all(",
    b"has(",
    b"size(",
)
_CEL += (
    b" ? ",
    b" : ",
    b"&&",
    b"||",
    b"0x",
    b"1e9",
    b"u",
    b"timestamp(",
    b"duration(",
    b"replace(",
    b"split(",
)


@target(
    b'variables.tag + "-rc"',
    b"variables.list.map(x, variables.list.map(y, [x, y]))",
    b"jobs['unit-test'].outputs.o == 1 && has(env.HOME)",
    b"variables.tag.matches('^(a+)+$')",
    b"success() || always()",
    b"timestamp(run.at) + duration('1h') > timestamp('2026-01-01T00:00:00Z')",
    words=_CEL,
)
def expression(data: bytes) -> None:
    """Compiled and evaluated within its budget; no refusal holds a value of the context."""
    text = data.decode("utf-8", "replace")
    for use in (
        lambda: orjson.dumps(evaluate(compile_expression(text), CONTEXT), option=orjson.OPT_NON_STR_KEYS),
        lambda: evaluate_when(text, CONTEXT, outcome="failure"),
        lambda: compile_condition(text),
    ):
        _refused_well(use, text)


def _refused_well(use: Callable[[], object], text: str) -> None:
    try:
        use()
    except ExpressionError as error:
        assert "do-not-tell" not in str(error)
        assert 0 <= error.offset <= len(text), error.offset
    except TypeError as error:  # orjson: an integer of more than 64 bits, which nothing may give
        raise AssertionError(f"no JSON: {error}") from error


@target(b"a ${{ variables.tag }} b ${{ variables.n }}", b"${{ variables.list }}", b"$${{ ${{", words=_CEL)
def template(data: bytes) -> None:
    """Expressions within a text."""
    text = data.decode("utf-8", "replace")
    _refused_well(lambda: render(text, CONTEXT), text)


@target(b"1h30m", b"5", b"1.5s", b"9999999999999d", b"500ms")
def durations(data: bytes) -> None:
    """What is read has a canonical form that reads the same."""
    try:
        found = parse_duration(data.decode("utf-8", "replace"))
    except DurationError:
        return
    assert parse_duration(found.text) == found


# -- what agents push -----------------------------------------------------------------------------------

_PACKED = (
    b"\x02\x01\x1f\x8b\x08\0\0\0\0\0\0\3\x4b\xe4\x02\0\x07\xa1\xea\xdd\2\0\0\0",
    b"\x03\x01\x28\xb5\x2f\xfd\x04\x00\x11\x00\x00a\n\xdc\xaf\x50\x55",
)


@target(b"\x01\x00plain\nlines", b'\x01\x01{"content":"a","stream":"stderr","level":"warn"}\n', *_PACKED)
def log_batch(data: bytes) -> None:
    """Compression, format and data of any kind: lines that the journal can hold, or refused."""
    source = Source(data)
    compression, how = source.byte() % 6, source.byte()
    packed = source.rest()
    size = len(packed) if how & 2 else (how >> 4)
    batch = gateway_pb2.LogBatch(batch_id="b", data=packed, compression=compression, raw_size=size)
    try:
        found = read_lines(raw_batch(batch, bool(how & 1)))
    except BatchInvalid:
        return
    assert sum(map(len, found.lines)) <= MAX_RAW
    assert all("\n" not in line and "\0" not in line for line in found.lines)
    assert all(0 <= at < len(found.lines) for at in [*found.stderr, *found.levels])
    assert [line for start, stop in chunks(found.lines) for line in found.lines[start:stop]] == found.lines
    orjson.dumps([found.lines, found.stderr, list(found.levels.values())])


@target(b"\x02ab\x03cde\x00rest\nof it")
def joined_batches(data: bytes) -> None:
    """However a text is cut into batches: no line of it is lost, and no secret shows."""
    masker, joiner, stored = Masker(["hunter2hunter2"]), Joiner(), []
    pieces = [piece for piece in Source(data).pieces() if piece]
    for seq, piece in enumerate(pieces, 1):
        batch = gateway_pb2.LogBatch(batch_id=str(seq), data=piece)
        batch.meta.seq, batch.meta.step_id = seq, "s"
        stored += joiner.take(read_lines(raw_batch(batch, False)), masker)
    stored += joiner.rest()
    assert [lines.seq for lines in stored] == list(range(1, len(pieces) + 1))
    for lines in stored:
        assert "hunter2hunter2" not in "\n".join(map(masker.mask, lines.lines))


def _seeded(message: Message, **fields: Any) -> bytes:
    for name, value in fields.items():
        setattr(message, name, value)
    return message.SerializeToString()


_REQUESTS = (
    gateway_pb2.PushLogsRequest,
    gateway_pb2.PushEventsRequest,
    agent_pb2.ConnectRequest,
    agent_pb2.RegisterRequest,
    agent_pb2.ReportStepRunStatusRequest,
)


@target(
    b"\x00" + _seeded(gateway_pb2.PushLogsRequest(batch=gateway_pb2.LogBatch(batch_id="b", data=b"x\n"))),
    b"\x01" + _seeded(gateway_pb2.PushEventsRequest(batch=gateway_pb2.EventBatch(batch_id="e"))),
    b"\x02" + _seeded(agent_pb2.ConnectRequest(heartbeat=agent_pb2.ConnectHeartbeat()), agent_id="a"),
    b"\x03" + _seeded(agent_pb2.RegisterRequest(labels={"a": "b"}), agent_id="a", max_concurrent_step_runs=2),
    b"\x04" + _seeded(agent_pb2.ReportStepRunStatusRequest(), step_run_id="s", status=3),
)
def agents_message(data: bytes) -> None:
    """A protobuf message of an agent, and what the server makes of it."""
    kind = _REQUESTS[Source(data).byte() % len(_REQUESTS)]
    try:
        message = kind.FromString(data[1:])
    except DecodeError:
        return
    if isinstance(message, gateway_pb2.PushLogsRequest):
        _read_logs(message)
    elif isinstance(message, gateway_pb2.PushEventsRequest):
        _read_events(message)
    elif isinstance(message, agent_pb2.RegisterRequest):
        try:
            check_profile(messages.profile(message))
        except BadProfile:
            return
    elif isinstance(message, agent_pb2.ReportStepRunStatusRequest):
        messages.report(message)
    elif message.WhichOneof("payload") == "task_status":
        messages.report(message.task_status)


def _read_logs(message: gateway_pb2.PushLogsRequest) -> None:
    for ndjson in (False, True):
        try:
            read_lines(raw_batch(message.batch, ndjson))
        except BatchInvalid:
            continue


def _read_events(message: gateway_pb2.PushEventsRequest) -> None:
    for event in message.batch.events:
        try:
            orjson.dumps(read_payload(event.payload))
        except BatchInvalid:
            continue


# -- REST requests --------------------------------------------------------------------------------------


@target(b"0123abcd.12.0", b"0123abcd.999999999999999999.1", b"now", b"ffffffff.1.1")
def cursor(data: bytes) -> None:
    """What is read is what was given out."""
    text = data.decode("utf-8", "replace")
    try:
        found = Cursor.parse(text, EPOCH)
    except CursorError:
        return
    assert Cursor.parse(found.text(EPOCH), EPOCH) == found
    assert 0 <= found.offset < 1 << 63


@target(b"\x03127.0.0.1, 10.0.0.1", b"\x01http://[::1]:80", b"\x02[::1]:443", b"\x00fe80::1%eth0")
def addresses(data: bytes) -> None:
    """Headers in which proxies and browsers name addresses."""
    source = Source(data)
    source.byte()
    text = source.text()
    trusted = TrustedProxies(["127.0.0.0/8", "::1/128"])
    assert trusted.client("127.0.0.1", text)
    assert trusted.client(text, "1.2.3.4") is not None
    rate_key(text)
    normal_origin(text)
    is_own_origin(text, text, frozenset({"http://a:80"}))


# -- masking --------------------------------------------------------------------------------------------


@target(b"\x02\x06secret\x05token\x03a s\x04ecre\x00t and tokentoken\n", b"\x01\x08one\ntwo3\x00one\ntwo3one")
def masking(data: bytes) -> None:
    """However a text is cut: the same as masked whole, and no secret in it."""
    source = Source(data)
    values = [source.take(source.byte() % 40).decode("utf-8", "replace") for _ in range(source.byte() % 5)]
    pieces = [piece.decode("utf-8", "replace") for piece in source.pieces()]
    whole, masker = "".join(pieces), Masker(values)
    stream = masker.sibling()
    shown = "".join([*(stream.feed(piece) for piece in pieces), stream.flush()])
    assert shown == masker.mask(whole)
    assert shown.count("\n") == whole.count("\n")
    for value in values:
        if len(value.strip()) >= 4 and "*" not in value:
            assert value.strip() not in shown
