"""Whoever abuses the server, with or without a credential, does not delay the others (design.md, invariant 10).

Each attack of ``abuses.py`` is let loose beside a neighbour who uses the server as it is meant, in turns with phases without
it. Others wait at most 0.3 s longer; no lease of theirs is lost; the memory comes back; the abuser is told what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from faults.neighbours.abuses import ABUSES
from faults.neighbours.stage import IN_ALL, Stages


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with Stages(lambda: tmp_path_factory.mktemp("neighbours")) as stages:
        yield stages


@pytest.mark.parametrize("name", ABUSES, ids=lambda name: re.sub(r"\W+", "-", name))
def test_others_are_not_affected(stages: Stages, name: str) -> None:
    with stages.one() as stage:
        report = stage.attack(name)
        print(f"\n{name}: {report}")
        stage.judge(name, report)


def test_the_memory_is_back_after_all(stages: Stages) -> None:
    with stages.one() as stage:
        assert stage.growth() <= IN_ALL
