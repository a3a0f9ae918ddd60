"""python-slugify, a Python library with a CLI: its pipeline succeeds, and fails at the step with broken code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.projects import RUN_WITHIN, Machine

pytestmark = pytest.mark.timeout(2 * RUN_WITHIN)
ALWAYS = ("tests-older/remove-environment", "tests-newer/remove-environment", "clean-up/report")


def test_all_is_green(machine: Machine) -> None:
    outcome = machine.run(machine.project("slugify"), *machine.python_variables())
    assert outcome.code == 0, outcome.said
    assert outcome.with_status("succeeded") == outcome.steps.keys()
    logs = machine.pilot(machine.home / "slugify", "run", "logs", outcome.run_id, "--job", "tests-newer")
    assert " passed" in logs.stdout


def _style(project: Path) -> None:
    with (project / "slugify" / "slugify.py").open("a") as file:
        file.write("spaces = 1   \n")


def _types(project: Path) -> None:
    with (project / "slugify" / "slugify.py").open("a") as file:
        file.write('\n\ndef wrong() -> int:\n    return "text"\n')


def _unit(project: Path) -> None:
    (project / "tests" / "test_broken.py").write_text(
        "from slugify import slugify\n\n\ndef test_broken() -> None:\n    assert slugify('A b') == 'A b'\n"
    )


def _command(project: Path) -> None:
    file = project / "pyproject.toml"
    file.write_text(
        file.read_text().replace('slugify = "slugify.__main__:main"', 'slugify = "slugify.nowhere:main"')
    )


@pytest.mark.parametrize(
    ("break_it", "failing"),
    [
        (_style, {"style/pycodestyle"}),
        (_types, {"style/types"}),
        (_unit, {"tests-older/unit", "tests-newer/unit"}),
        (_command, {"build/command-line"}),
    ],
)
def test_the_step_that_fails_is_the_one_whose_code_is_broken(
    machine: Machine, break_it: Callable[[Path], None], failing: set[str]
) -> None:
    project = machine.project("slugify")
    break_it(project)
    outcome = machine.run(project, *machine.python_variables())
    assert outcome.code == 5, outcome.said
    assert outcome.with_status("failed", "timed_out") == failing, outcome.said
    for step in ALWAYS:
        assert outcome.steps[step] == "succeeded"
