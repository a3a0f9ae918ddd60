"""Some of the attacks of ``tests/faults/neighbours``, one of each kind of caller: what every change must pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.neighbours.stage import Stages


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with Stages(lambda: tmp_path_factory.mktemp("neighbours")) as stages:
        yield stages


@pytest.mark.parametrize(
    "name",
    [
        "heavy specs of ten",
        "costly conditions",
        "eight million lines",
        "bad registrations",
        "bodies of strangers",
    ],
)
def test_others_are_not_affected(stages: Stages, name: str) -> None:
    with stages.one() as stage:
        stage.judge(name, stage.attack(name))
