"""The heap is trimmed after the process has grown, once it grows no more."""

from __future__ import annotations

import pytest

from pilothouse.server import memory
from pilothouse.server.memory import GROWN, Trimmer, resident, trimming


@pytest.fixture
def trimmer(monkeypatch: pytest.MonkeyPatch) -> Trimmer:
    """``sizes`` are what it finds, in order; it counts what it does in ``trimmed``."""
    made = Trimmer()
    monkeypatch.setattr(made, "_trim", lambda _: trimmed.append(1))
    trimmed: list[int] = []
    monkeypatch.setattr(memory, "resident", lambda: sizes.pop(0))
    sizes: list[int] = []
    made.sizes, made.trimmed = sizes, trimmed  # type: ignore[attr-defined]
    made._least = made._before = 100
    return made


@pytest.mark.parametrize(
    ("sizes", "times"),
    [
        ([100, 100 + GROWN], 0),  # no more than it may
        ([200 + GROWN, 300 + GROWN, 400 + GROWN], 0),  # still growing
        ([200 + GROWN, 200 + GROWN, 120], 1),
        ([200 + GROWN, 190 + GROWN, 120, 120, 120], 1),
        (
            [200 + GROWN, 200 + GROWN, 200 + GROWN, 200 + GROWN, 200 + GROWN],
            1,
        ),  # nothing to give back: not again
    ],
)
async def test_when_it_is_trimmed(trimmer: Trimmer, sizes: list[int], times: int) -> None:
    trimmer.sizes.extend(sizes)  # type: ignore[attr-defined]
    while trimmer.sizes:  # type: ignore[attr-defined]
        await trimmer.look()
    assert len(trimmer.trimmed) == times  # type: ignore[attr-defined]


async def test_the_real_function_gives_memory_back() -> None:
    if not trimming():
        pytest.skip("this C library has no malloc_trim")
    trimmer = Trimmer()
    kept = [
        bytearray(b"x" * 60_000) for _ in range(4000)
    ]  # 240 MB, each below the bound of a mapping of its own
    pins = [bytearray(b"y" * 600) for _ in range(10)]  # at the end of the heap
    grown = resident()
    del kept
    for _ in range(3):
        await trimmer.look()
    assert pins
    assert resident() < grown - (150 << 20)
