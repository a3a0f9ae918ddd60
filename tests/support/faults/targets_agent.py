"""The decoders of the agent, the client and the sockets as functions of arbitrary bytes (see ``support.faults.targets``)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from pilothouse.agent.commands import CommandScanner, Malformed, SetOutput, SetProgress, parse
from pilothouse.agent.credential import load_credential
from pilothouse.agent.decoding import step_task
from pilothouse.agent.errors import DataDirForeign, StepImpossible
from pilothouse.agent.executors.base import StepTask
from pilothouse.agent.executors.output import StepOutput
from pilothouse.agent.lines import LineAssembler, TextDecoder
from pilothouse.agent.lock import lock_holder
from pilothouse.agent.numbering import Numbering
from pilothouse.agent.results import Result, ResultStore
from pilothouse.agent.spool import Spool, frame, unframe
from pilothouse.client.address import BadAddress, server_address
from pilothouse.client.sse import MessageTooLarge, SseDecoder
from pilothouse.journal.turns import Turns
from pilothouse.server.websocket import MessageSocket
from pilothouse.wire.agent.v1 import agent_pb2
from support.faults.targets import Source, target

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory, in memory where there is one."""
    path = Path(tempfile.mkdtemp(prefix="pilothouse-fuzz-", dir=SCRATCH))
    try:
        yield path
    finally:
        shutil.rmtree(path)


# -- what steps write -----------------------------------------------------------------------------------


@target(
    b"::output name=value",
    b'::output-json x={"a":[1]}',
    b"::progress 40 message",
    b"::mask hidden",
    words=(b"::output ", b"::output-json ", b"::progress ", b"::mask ", b"\r", b"="),
)
def command(data: bytes) -> None:
    """One line."""
    found = parse(data.decode("utf-8", "replace").replace("\n", ""))
    if isinstance(found, SetProgress):
        assert 0 <= found.percent <= 100
    elif isinstance(found, SetOutput):
        orjson.dumps(found.value)
    elif isinstance(found, Malformed):
        assert found.reason


class _Report:
    """Records what it receives."""

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.told: list[Any] = []

    def lines(self, stream: str, texts: Sequence[str], at_ms: int) -> None:
        self.said[stream] += texts

    def output(self, name: str, value: Any) -> None:
        self.told.append((name, value))

    def progress(self, percent: int, message: str) -> None:
        self.told.append((percent, message))

    async def drain(self) -> None:
        """Never full."""


def _task(secret: str) -> StepTask:
    return StepTask(
        "s", "r", "j", "j", "s", "shell", "script", {}, {}, {"TOKEN": secret}, (), Path("/"), None, 1
    )


@target(
    b"\x07one\n::ou\x05tput \x09x=1\ntwo\n\x00secret-value",
    b"\x04\xff\xfe\r\n\x02\r\r\x01\n\x00::progress 9\n",
    words=(b"\n::output a=", b"\n::mask ", b"secret-value", b"\r\n", b"\xf0\x9f\x98\x80"),
)
def step_output(data: bytes) -> None:
    """However the bytes of a step are cut, the same lines and outputs come, and no secret."""
    pieces = list(Source(data).pieces())
    found = []
    for cut in (pieces, [b"".join(pieces)]):
        report = _Report()
        output = StepOutput(_task("secret-value"), report, 100)
        for piece in cut:
            output.feed("stdout", piece)
        output.finish("stdout")
        assert all("secret-value" not in line for line in report.said["stdout"])
        assert "secret-value" not in repr(report.told)
        assert all("\n" not in line and "\0" not in line for line in report.said["stdout"])
        found.append((report.said["stdout"], report.told))
    assert found[0] == found[1], "it depends on how the bytes were cut"


@target(b"\x03a\r\x01\n\x00\xc3\xa9\n" + b"x" * 300)
def lines(data: bytes) -> None:
    """Bytes to lines, none longer than it may be."""
    pieces = list(Source(data).pieces())
    found = []
    for cut in (pieces, [b"".join(pieces)]):
        decoder, assembler, got = TextDecoder(), LineAssembler(64), []
        for piece in cut:
            got += assembler.feed(decoder.feed(piece))
        got += assembler.feed(decoder.feed(b"", final=True)) + assembler.flush()
        found.append(got)
        assert all(len(line.encode()) <= 64 + 60 for line in got)
    assert found[0] == found[1]


@target(b"\x05::out\x00put a=b\nplain\n::x\n", words=(b"\n::output a=b", b"\n:", b"::progress 1"))
def scanner(data: bytes) -> None:
    """Nothing but commands is taken out, however the text is cut."""
    pieces = [piece.decode("utf-8", "replace") for piece in Source(data).pieces()]
    whole = "".join(pieces)
    found = []
    for cut in (pieces, [whole]):
        scanning = CommandScanner()
        parts = [part for piece in cut for part in scanning.feed(piece)] + scanning.flush()
        text = "".join(part for part in parts if isinstance(part, str))
        found.append((text, [part for part in parts if not isinstance(part, str)]))
    assert found[0] == found[1]
    kept = [line for line in whole.split("\n") if parse(line) is None]
    assert found[0][0].split("\n") == kept or found[0][1], "an ordinary line is missing"


# -- what lies on the agent's disk ------------------------------------------------------------------------

_FRAMES = b"".join(frame(b"record %d" % n) for n in range(3))


@target(_FRAMES, frame(b"x") + b"\xff\xff\xff\x7f\0\0\0\0", b"\0" * 64)
def spool(data: bytes) -> None:
    """A segment of any bytes: whole records, then the end; and it goes on from there."""
    source = Source(data)
    state, second = source.byte(), source.byte()
    body = source.rest()
    with scratch() as directory:
        cut = min(len(body), second * 4) if state & 1 else len(body)
        (directory / f"{1:020d}.seg").write_bytes(body[:cut])
        if cut < len(body):
            (directory / f"{second:020d}.seg").write_bytes(body[cut:])
        if state & 2:
            (directory / "state").write_bytes(body[:40])
        queue = Spool(directory, 1 << 16)
        try:
            _drained(queue)
            index = queue.append(b"fresh")
            (last,) = _drained(queue)
            assert last == b"fresh"
            assert index == queue.end - 1
            queue.release(queue.head)
        finally:
            queue.close()
    whole = [payload for payload, _ in unframe(body)]
    assert sum(map(len, whole)) <= len(body)


def _drained(queue: Spool) -> list[bytes]:
    found, mark = [], queue.head
    while (read := queue.read(mark)) is not None:
        payload, mark = read
        found.append(payload)
    queue.release(mark)
    return found


_RESULT = frame(
    orjson.dumps(
        {"step_run_id": "s", "status": "failed", "exit_code": 1, "error": "", "started_at": 1, "ended_at": 2}
    )
)


@target(_RESULT, _RESULT + frame(b'{"settled":"s"}'), frame(b"[]"), frame(b'{"step_run_id":1}'))
def results(data: bytes) -> None:
    """The file of results, of any bytes: it opens, and takes the next result."""
    # Half of the inputs get a good checksum, as a file has that another version of the agent wrote.
    payload = frame(data[1:]) if data[:1] and data[0] & 1 and len(data) > 1 else data
    with scratch() as directory:
        (directory / "results").write_bytes(payload)
        asyncio.run(_reopen(directory / "results"))


async def _reopen(path: Path) -> None:
    store = ResultStore(path)
    store.put(Result("fresh", "succeeded", 0, "", 1, 2))
    await store.close()
    again = ResultStore(path)
    assert again.unsettled["fresh"].status == "succeeded"
    await again.close()


@target(
    b'{"agent_id":"a","token":"t"}', b"[]", b'{"pid":1}', b"17", b'{"pid":1,"agent_id":"a","started_at":1.5}'
)
def small_files(data: bytes) -> None:
    """Credential, lock and number of the agent, of any bytes."""
    with scratch() as directory:
        for name in ("credential", "connections"):
            (directory / name).write_bytes(data)
        with contextlib.suppress(DataDirForeign):
            load_credential(directory, "a")
        assert Numbering(directory).next() > 0
        (directory / "agent.lock").write_bytes(data)
        assert lock_holder(directory) is None  # not held


# -- what the server sends ------------------------------------------------------------------------------


def _dispatch() -> bytes:
    response = agent_pb2.ConnectResponse(command_id="c")
    step = response.task_dispatch.step_runs.add(step_run_id="s", uses="shell", timeout="5m")
    step.args.update({"script": "x", "n": 1.5, "l": [None, True]})
    return response.SerializeToString()


@target(_dispatch(), agent_pb2.ConnectResponse().SerializeToString())
def servers_message(data: bytes) -> None:
    """A command on the control channel, and what the agent makes of it."""
    try:
        response = agent_pb2.ConnectResponse.FromString(data)
    except DecodeError:
        return
    for step in response.task_dispatch.step_runs:
        try:
            task = step_task(step, Path("/"))
        except StepImpossible:
            continue
        assert task.timeout is None or 0 < task.timeout < float("inf")


@target(
    b"\x06data: \x03x\n\n\x00event: e\r\nid: 1\r\ndata: a\rdata: b\r\r",
    b"\x00retry: 5\n:comment\n\n\xef\xbb\xbfdata\n\n",
    words=(b"data:", b"id:", b"event:", b"retry:", b"\r\n", b"\n\n", b"\xef\xbb\xbf"),
)
def sse(data: bytes) -> None:
    """However the stream is cut, the same messages come."""
    pieces = list(Source(data).pieces())
    found = []
    for cut in (pieces, [b"".join(pieces)]):
        decoder, got = SseDecoder(200), []
        try:
            for piece in cut:
                got += decoder.feed(piece)
        except MessageTooLarge:
            return  # where it is noticed depends on the pieces
        found.append((got, decoder.last_id, decoder.retry))
    assert found[0] == found[1]


@target(b"http://127.0.0.1:8080", b"host:80/api/v1", b"http://[::1", b"http://a:b@c")
def address(data: bytes) -> None:
    """A server address as users write it."""
    try:
        found = server_address(data.decode("utf-8", "replace"))
    except BadAddress:
        return
    assert server_address(found) == found


# -- WebSocket frames -------------------------------------------------------------------------------------

MAX_MESSAGE = 1000


class _Transport:
    """A socket that takes everything."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        """No buffer."""

    def set_protocol(self, protocol: Any) -> None:
        """The test is the transport."""


def frames(*parts: tuple[int, bytes]) -> bytes:
    """Frames of a client, each of its first byte and its payload."""
    return b"".join(bytes((head, 0x80 | len(body))) + b"\0\0\0\0" + body for head, body in parts)


@target(
    b"\x00" + frames((0x81, b'{"a":1}'), (0x89, b"p"), (0x01, b"x"), (0x80, b"y"), (0x88, b"\x03\xe8")),
    b"\x03\x81\x83\x00\x04\0\0\0a\x00bc",
    b"\x00\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
    b"\x00" + frames((0x81, b"\xff")),
    words=(
        b"\x81\x80\0\0\0\0",
        b"\x89\x80\0\0\0\0",
        b"\x88\x82\0\0\0\0\x03\xe8",
        b"\x81\xfe",
        b"\x00\x80\0\0\0\0",
    ),
)
def websocket(data: bytes) -> None:
    """Frames of any bytes, however they are cut: the same messages, the same end, nothing beyond the bound.

    Data that arrives together with the close may be truncated.
    """
    pieces = [piece for piece in Source(data).pieces() if piece]
    (some, over), (less, over_too) = (asyncio.run(heard(cut)) for cut in (pieces, [b"".join(pieces)]))
    assert over == over_too
    assert some == less or (over and some[: len(less)] == less), (some, less)


async def heard(pieces: list[bytes]) -> tuple[list[Any], bool]:
    """The messages that a socket makes of these bytes, and whether the connection is over then."""
    transport, messages = _Transport(), []
    socket = MessageSocket(transport, set(), MAX_MESSAGE, Turns())  # type: ignore[arg-type]
    socket.listen(lambda message: messages.append(message))
    for piece in pieces:
        if transport.closed:
            break
        socket.data_received(piece)
        while not transport.reading and not transport.closed:
            await asyncio.sleep(0)
    assert all(len(message) <= MAX_MESSAGE for message in messages)
    # Which of two faults that came together is named depends on the pieces.
    end = (messages, transport.closed)
    transport.closed = True
    socket.connection_lost(None)
    return end
