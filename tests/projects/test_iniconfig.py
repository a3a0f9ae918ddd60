"""iniconfig, a Python library: its pipeline succeeds, and fails at the step with broken code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.projects import RUN_WITHIN, Machine, replace

pytestmark = pytest.mark.timeout(2 * RUN_WITHIN)
CODE = Path("src/iniconfig/__init__.py")


def test_all_is_green(machine: Machine) -> None:
    outcome = machine.run(machine.project("iniconfig"), *machine.python_variables())
    assert outcome.code == 0, outcome.said
    assert outcome.with_status("succeeded") == outcome.steps.keys()
    older, newer = (python.name.removeprefix("python") for python in machine.pythons)
    logs = machine.pilot(machine.home / "iniconfig", "run", "logs", outcome.run_id)
    assert "lint/ruff | All checks passed!" in logs.stdout
    for job, version in (("tests-older", older), ("tests-newer", newer)):
        unit = [line for line in logs.stdout.splitlines() if line.startswith(f"{job}/unit | ")]
        assert any(f"-- Python {version}" in line for line in unit), logs.stdout
        assert " passed in " in unit[-1]
    assert "build/smoke | 1" in logs.stdout
    # What the run began with is the commit and nothing else.
    assert not [line for line in logs.stdout.splitlines() if line.startswith("clean-up/report |  M")]


def _lint(project: Path) -> None:
    with (project / CODE).open("a") as file:
        file.write("\n\ndef _never_called() -> object:\n    return undefined_name\n")


def _types(project: Path) -> None:
    with (project / CODE).open("a") as file:
        file.write('\n\ndef _wrong() -> int:\n    return "text"\n')


def _unit(project: Path) -> None:
    with (project / "testing" / "test_iniconfig.py").open("a") as file:
        file.write("\n\ndef test_broken() -> None:\n    assert IniConfig('x', data='[a]')['a'].name == 'b'\n")


def _newer_only(project: Path) -> None:
    with (project / "testing" / "test_iniconfig.py").open("a") as file:
        file.write(
            "\n\ndef test_old_only() -> None:\n    import sys\n\n    assert sys.version_info < (3, 11)\n"
        )


def _wheel(project: Path) -> None:
    (project / "MANIFEST.in").write_text("prune src\n")


@pytest.mark.parametrize(
    ("break_it", "failing"),
    [
        (_lint, {"lint/ruff"}),
        (_types, {"lint/types"}),
        (_unit, {"tests-older/unit", "tests-newer/unit"}),
        (_newer_only, {"tests-newer/unit"}),
        (_wheel, {"build/wheel"}),
    ],
)
def test_the_step_that_fails_is_the_one_whose_code_is_broken(
    machine: Machine, break_it: Callable[[Path], None], failing: set[str]
) -> None:
    project = machine.project("iniconfig")
    break_it(project)  # not committed: the run sees the files as they are
    outcome = machine.run(project, *machine.python_variables())
    assert outcome.code == 5, outcome.said
    assert outcome.with_status("failed", "timed_out") == failing, outcome.said
    assert outcome.steps["clean-up/report"] == "succeeded"


def test_a_missing_variable_stops_the_run_before_it_starts(machine: Machine) -> None:
    project = machine.project("iniconfig")
    replace(project / ".pilot.yaml", "  newer: python3.12\n", "")
    done = machine.pilot(project, "pipeline", "run", "--var", "older=python3.11", "--detach")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "newer" in done.stderr
