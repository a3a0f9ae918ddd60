"""Fuzz tests of every decoder: input is decoded or refused with the documented error.

The short version is hypothesis with the same examples each time; the long one is atheris, which goes by coverage.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.faults import targets_agent, targets_files  # they enter their targets
from support.faults.effort import Effort
from support.faults.fleet import ROUNDS
from support.faults.targets import TARGETS, Target

assert targets_agent
assert targets_files

FUZZER = Path(__file__).with_name("fuzz_decoders.py")
SECONDS = 4 * ROUNDS
"""How long atheris tries each decoder."""
HARD = 5000
"""Units of work (about milliseconds) that no input of this size may cost."""


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Random bytes, and valid inputs with edits, including tokens of the format."""
    if not target.seeds:
        return st.binary(max_size=300)
    come = st.binary(max_size=12) | st.sampled_from(target.words or (b"",))
    edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20), come), max_size=6)
    return st.binary(max_size=300) | st.builds(_edited, st.sampled_from(target.seeds), edits)


def _edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, come in edits:
        data = data[:at] + come + data[at + gone :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def feed(data: bytes) -> None:
        target.run(data)

    for seed in (*target.seeds, b""):
        feed = example(seed)(feed)
    with Effort() as effort:
        feed()
    assert effort.units < 20 * HARD, f"{effort.units:.0f} units"


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("size", [1 << 12, 1 << 16, pytest.param(1 << 20, marks=pytest.mark.long)])
def test_long_inputs_cost_no_more_than_their_length(name: str, size: int) -> None:
    """A good input over and over, and each word of the language over and over."""
    target = TARGETS[name]
    for part in (*target.seeds, *target.words):
        for data in ((part * (size // max(1, len(part)) + 1))[:size], part + part[-1:] * size):
            with Effort() as effort:
                target.run(data)
            bound = HARD if size <= 1 << 16 else 4 * HARD
            assert effort.units < bound, f"{part!r} to {size} bytes cost {effort.units:.0f} units"


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is made for Linux and macOS")
    (tmp_path / "corpus").mkdir()
    command = [sys.executable, str(FUZZER), name, str(tmp_path / "corpus"), f"-max_total_time={SECONDS}"]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS * 20 + 300
    )
    said = done.stdout + done.stderr
    found = [path.read_bytes() for path in tmp_path.glob(f"{name}-*")]
    assert done.returncode == 0, f"{found}\n{said[-4000:]}"
    count = int(re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)[-1])
    print(f"{name}: {count} inputs, {len(list((tmp_path / 'corpus').iterdir()))} kept")
    assert count > 100
