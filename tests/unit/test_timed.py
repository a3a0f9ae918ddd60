"""``tools/timed.sh``, which runs the parts of CI: it says how long each took, and stops it at its limit with its name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "timed.sh"
LEAVES_A_CHILD = "sleep 1000 & echo $! > {}; {}"


def timed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env={name: value for name, value in os.environ.items() if name != "TIMED_FACTOR"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_all_parts_of_ci_together_fit_in_its_time() -> None:
    ci, makefile = (ROOT / ".ci/run").read_text(), (ROOT / "Makefile").read_text()
    parts = re.findall(r"^timed (\d+) ", ci, re.MULTILINE)
    targets = re.findall(r"^make (\S+)$", ci, re.MULTILINE)
    assert targets == ["test", "test-postgres", "test-conformance", "test-projects"]
    for target in targets:
        [recipe] = re.findall(rf"^{target}: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        limits = re.findall(r"\$\(TIMED\) (\d+) ", recipe)
        assert len(limits) == recipe.count("$(PYTEST)") > 0, "every part has a limit"
        parts += limits
    assert sum(map(int, parts)) <= 75


@pytest.mark.parametrize("limit", [(), ("--limit", "1")])
def test_the_commands_own_end_is_passed_on(limit: tuple[str, ...]) -> None:
    done = timed(*limit, "a part", "sh", "-c", "echo said; exit 3")
    said, told = done.stdout.splitlines()
    assert (done.returncode, said) == (3, "said")
    assert told.startswith("== a part: 0 min ")
    assert told.endswith(" s, exit code 3")


def test_a_factor_for_busy_machines_multiplies_the_limit() -> None:
    done = timed(
        "--limit", "600", "slow part", "sleep", "1000", TIMED_FACTOR="0.00001", TIMED_KILL_AFTER="0.3"
    )
    assert done.returncode == 124
    assert "STOPPED at its limit of 0.006 min" in done.stdout


@pytest.mark.parametrize("command", ["sleep 1000", "trap '' INT; while :; do sleep 0.05; done"])
async def test_a_part_is_stopped_with_its_name_and_all_it_started(tmp_path: Path, command: str) -> None:
    """Also what ignores the first signal: background jobs of a shell do."""
    text = LEAVES_A_CHILD.format(tmp_path / "child", command)
    done = timed("--limit", "0.005", "slow part", "sh", "-c", text, TIMED_KILL_AFTER="0.3")
    assert done.returncode == 124
    assert done.stdout.startswith("== slow part: STOPPED at its limit of 0.005 min\n")
    child = int((tmp_path / "child").read_text())
    await eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_it_ends_the_command(number: signal.Signals) -> None:
    program = "import signal; print('begun', flush=True); signal.pause()"
    command = ["bash", str(SCRIPT), "--limit", "1", "a part", sys.executable, "-c", program]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # we may be started with it ignored
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        told = process.stdout.read()  # to its end: nobody holds it open any more
        assert process.wait(PATIENCE) not in (0, 124)
    assert "exit code" in told
    assert "STOPPED" not in told
