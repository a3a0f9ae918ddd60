"""Tables on terminals of any width: the first columns stay readable, the last ones are truncated first."""

from __future__ import annotations

import io
import sys

import pytest
from rich.cells import cell_len

from pilothouse.cli.output import Output

COLUMNS = ("ID", "NAME", "RUNS", "SUCCEEDED", "FAILED", "DESCRIPTION")
ROWS = [
    ("01a2184d-5235-7719-b855-134b4b87fa8f", "shop", 12, 10, 2, "sells things of every kind"),
    ("01a2184d-5235-7719-b855-134b4b87fa90", "日本語", 1, 0, 1, ""),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    Output(colour=False).table(COLUMNS, ROWS, "none")
    lines: list[str] = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("width", [120, 80, 72, 60, 56])
def test_the_first_columns_stay(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = shown(monkeypatch, width)
    assert len(lines) == 3
    assert all(cell_len(line) <= width for line in lines)
    assert lines[1].startswith("01a2184d-5235-7719-b855-134b4b87fa8f  shop ")
    assert lines[2].startswith("01a2184d-5235-7719-b855-134b4b87fa90  日本語")
    assert (lines[1].endswith("things of every kind")) == (width == 120)


@pytest.mark.parametrize("width", [40, 25])
def test_very_narrow_ones(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = shown(monkeypatch, width)
    assert len(lines) == 3
    assert all(cell_len(line) <= width for line in lines)
    assert lines[1].startswith("01a21")
    assert " shop " in lines[1]
