"""minimist, a Node library: its pipeline succeeds, and fails at the step with broken code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.projects import RUN_WITHIN, Machine, missing

pytestmark = pytest.mark.timeout(2 * RUN_WITHIN)


@pytest.fixture(autouse=True)
def node() -> None:
    if shutil.which("npm") is None:
        missing("npm")


def test_all_is_green(machine: Machine) -> None:
    outcome = machine.run(machine.project("minimist"))
    assert outcome.code == 0, outcome.said
    assert outcome.with_status("succeeded") == outcome.steps.keys()
    logs = machine.pilot(machine.home / "minimist", "run", "logs", outcome.run_id, "--step", "tests/unit")
    assert "# pass" in logs.stdout


def _lint(project: Path) -> None:
    with (project / "index.js").open("a") as file:
        file.write("var unused = 1\n")


def _unit(project: Path) -> None:
    (project / "test" / "broken.js").write_text(
        "'use strict';\n\nvar parse = require('../');\nvar test = require('tape');\n\n"
        "test('broken', function (t) {\n\tt.equal(parse(['--a', '1']).a, 2);\n\tt.end();\n});\n"
    )


def _package(project: Path) -> None:
    (project / "lib").mkdir()
    (project / "lib" / "extra.js").write_text("'use strict';\n\nmodule.exports = {};\n")
    (project / ".npmignore").write_text("lib\n")  # the package lacks what its code needs
    code = project / "index.js"
    code.write_text(
        code.read_text().replace("'use strict';\n", "'use strict';\n\nrequire('./lib/extra');\n", 1)
    )


@pytest.mark.parametrize(
    ("break_it", "failing"),
    [(_lint, {"lint/eslint"}), (_unit, {"tests/unit"}), (_package, {"package/use"})],
)
def test_the_step_that_fails_is_the_one_whose_code_is_broken(
    machine: Machine, break_it: Callable[[Path], None], failing: set[str]
) -> None:
    project = machine.project("minimist")
    break_it(project)
    outcome = machine.run(project)
    assert outcome.code == 5, outcome.said
    assert outcome.with_status("failed", "timed_out") == failing, outcome.said
    assert outcome.steps["clean-up/report"] == "succeeded"
