"""Some of the attacks of ``tests/faults/neighbours``, those that once stopped the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.neighbours.stage import Stages


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with Stages(lambda: tmp_path_factory.mktemp("neighbours")) as stages:
        yield stages


QUICK = ("eight million lines", "deep JSON", "bad registrations", "bombs", "passwords")


@pytest.mark.parametrize("name", QUICK, ids=lambda name: name.replace(" ", "-"))
def test_others_are_not_affected(stages: Stages, name: str) -> None:
    with stages.one() as stage:
        stage.judge(name, stage.attack(name))
