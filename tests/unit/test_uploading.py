"""How far an upload is, in each mode."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from pilothouse.cli.live import Progress
from pilothouse.cli.output import Output
from pilothouse.cli.uploading import DrawnUpload, JsonUpload, Upload, upload_of

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(("seconds", "said"), [(1.9, ""), (2.1, "sent 8.0 MiB in 2.1s\n")])
def test_the_end_of_a_long_upload_is_reported(
    clock: Clock, capsys: pytest.CaptureFixture[str], seconds: float, said: str
) -> None:
    with Upload(Output(), 8 * MIB, clock) as upload:
        clock.now = seconds
        upload.at(8 * MIB)
    assert capsys.readouterr() == ("", said)


def test_an_upload_that_fails_has_no_end_to_tell(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="gone"), Upload(Output(), MIB, clock):
        clock.now = 60
        raise ValueError("gone")
    assert capsys.readouterr() == ("", "")


def test_a_line_is_drawn_and_taken_away(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    written: Callable[[], str] = sys.stderr.getvalue  # type: ignore[attr-defined]
    out = Output(colour=False)
    with DrawnUpload(out, 8 * MIB, clock) as upload:
        for now, sent in ((0.4, MIB), (1.0, 2 * MIB), (1.05, 3 * MIB), (1.2, 3 * MIB)):
            clock.now = now
            upload.at(sent)
            if now == 0.4:
                assert written() == "", "quick uploads show nothing"
        out.say("the server is busy")
        clock.now = 1.9
    assert written().split("\r") == [
        "",
        "sent 2.0 MiB of 8.0 MiB (25%), 2.0 MiB/s\x1b[K",
        "sent 3.0 MiB of 8.0 MiB (37%), 2.5 MiB/s\x1b[K",
        "\x1b[Kthe server is busy\n",
        "sent 3.0 MiB of 8.0 MiB (37%), 2.5 MiB/s\x1b[K",
        "\x1b[K",
    ]
    assert out.picture is None


def test_events_for_programs(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with JsonUpload(Output(), 8 * MIB, clock) as upload:
        for now, sent in ((0.5, MIB), (1.0, 2 * MIB), (1.5, 3 * MIB), (1.6, 8 * MIB)):
            clock.now = now
            upload.at(sent)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["type"] for event in events} == {"checkout.upload"}
    assert [event["data"] for event in events] == [
        {"sent": sent, "total": 8 * MIB} for sent in (0, 2 * MIB, 8 * MIB)
    ]


@pytest.mark.parametrize(
    ("progress", "terminal", "term", "kind"),
    [
        (Progress.AUTO, True, "xterm", DrawnUpload),
        (Progress.TTY, True, "xterm", DrawnUpload),
        (Progress.AUTO, True, "dumb", Upload),
        (Progress.AUTO, False, "xterm", Upload),
        (Progress.TTY, False, "xterm", Upload),
        (Progress.PLAIN, True, "xterm", Upload),
        (Progress.JSON, True, "xterm", JsonUpload),
    ],
)
def test_which_one_it_is(
    monkeypatch: pytest.MonkeyPatch, progress: Progress, terminal: bool, term: str, kind: type
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    monkeypatch.setenv("TERM", term)
    assert type(upload_of(Output(), 1, progress)) is kind
