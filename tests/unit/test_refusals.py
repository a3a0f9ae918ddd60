"""Every refusal has a code of the central table, which gives its status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pilothouse.server.app
from pilothouse.access.errors import CODES, Refusal

SOURCE = Path(pilothouse.server.app.__file__).parents[1]


def kinds(of: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_class_of_refusal_has_a_code_of_the_table() -> None:
    ours = [kind for kind in kinds() if kind.__module__.startswith("pilothouse.")]
    assert len(ours) > 20
    assert {kind.__name__: kind.code for kind in ours if kind.code not in CODES} == {}


def test_every_code_that_is_written_out_is_in_the_table() -> None:
    written = {
        code
        for path in SOURCE.rglob("*.py")
        for code in re.findall(r'(?:Refusal\.of|AuthError)\(\s*"([A-Z_]+)"', path.read_text())
    }
    assert len(written) > 10
    assert written - CODES.keys() == set()
