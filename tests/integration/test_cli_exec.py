"""``pilot pipeline plan`` and ``exec``: no server, real processes, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pilothouse.cli.errors import UsageError
from pilothouse.cli.exec import secrets_of
from pilothouse.cli.local_run import _remnants
from pilothouse.server.lock import data_dir_lock
from support.desk import PILOT, Desk
from support.terminal import Terminal
from support.waiting import PATIENCE, eventually

WORK = """
variables: {word: hello}
jobs:
  - name: build
    steps:
      - {name: look, run: 'cat committed changed; git status --short; echo "NAME=from-file" >> "$PILOT_ENV"; echo "::output n=7"'}
      - name: use
        env: {TOKEN: "${{ secrets.TOKEN }}"}
        run: 'echo "${{ variables.word }} $NAME ${{ job.outputs.n }} $TOKEN ${EXEC_WORD-unset} $PILOT_EVENT"'
      - {name: again, run: '[ "$PILOT_ATTEMPT" = 2 ]', retry: {maxAttempts: 2}}
      - {name: ask, uses: approval}
      - {name: left-out, run: 'exit 1', when: variables.word == "other"}
  - {name: never, dependsOn: [build], when: jobs.build.outputs.n == "8", steps: [{name: s, run: exit 1}]}
"""

GATE = """
jobs:
  - name: ship
    steps:
      - {name: ask, uses: approval, args: {message: Ship it?}}
      - {name: ship, run: echo shipped}
      - {name: tell, when: always(), run: echo told}
"""

ENDLESS = """
jobs:
  - name: j
    steps:
      - {name: long, run: 'echo $$ > "$DIR/pid"; sleep 1000 & wait'}
      - {name: clean, when: always(), run: 'echo cleaned > "$DIR/cleaned"'}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path / "shop", "http://127.0.0.1:9", "pilot_" + "0" * 40)  # nothing listens there
    (tmp_path / "tmp").mkdir()
    made.environment |= {"TMPDIR": str(tmp_path / "tmp"), "DIR": str(tmp_path)}
    made.environment |= {
        "PILOT_DATABASE_URL": "postgresql://nowhere/",
        "PILOT_PORT": "1",
    }  # of another server
    return made


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, said = process.communicate(timeout=PATIENCE)
    return process.returncode, out, said


def left(desk: Desk) -> list[Path]:
    return list(Path(desk.environment["TMPDIR"]).iterdir())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_without_a_server(desk: Desk) -> None:
    desk.write(".pilot.yaml", WORK)
    desk.write("committed", "one\n")
    desk.write("changed", "two\n")
    desk.commit()
    desk.write("changed", "three\n")
    desk.environment["EXEC_WORD"] = "correct-horse"
    secret = ("--secret", "TOKEN=env:EXEC_WORD")
    words = ("pipeline", "exec", "--input", "word=bye", "--yes", "-o", "json")
    code, out, said = ended(desk.start(*words, *secret))
    assert code == 0, (out, said)
    assert json.loads(out)["status"] == "succeeded"
    printed = [line for line in said.splitlines() if line.startswith("build/look | ")]
    assert printed == ["build/look | one", "build/look | three", "build/look |  M changed"]
    assert "build/use | bye from-file 7 *** unset manual\n" in said
    assert "step build/again: started on agent local (attempt 2)" in said
    assert "step build/ask: approved by" in said
    assert "step build/left-out: skipped" in said
    assert "job never: skipped" in said
    assert "correct-horse" not in out + said
    assert left(desk) == []
    assert not (desk.directory / ".pilothouse").exists()


def test_a_gate_without_a_terminal_is_rejected(desk: Desk) -> None:
    desk.write(".pilot.yaml", GATE)
    code, out, said = ended(desk.start("pipeline", "exec"))
    assert code == 5, (out, said)
    assert "ship/ask needs an approval, and there is no terminal to ask on: use --yes" in said
    assert "waiting for approval: Ship it?\n" in out
    assert "ship/tell | told" in out
    assert "shipped" not in out
    assert "pilot run" not in out + said  # no server will answer


def test_a_gate_is_asked_on_the_terminal(desk: Desk) -> None:
    desk.write(".pilot.yaml", GATE)
    terminal = Terminal((*PILOT, "pipeline", "exec"), str(desk.directory), desk.environment, 100, 30)
    try:
        terminal.until("ship/ask: Ship it? [y/N]")
        terminal.type("y\n")
        assert terminal.ended() == 0, terminal.screen.all
        assert "approved by" in terminal.screen.all
        assert "pilot run" not in terminal.screen.all
    finally:
        terminal.close()


async def test_ctrl_c_cancels_and_cleans_up(desk: Desk, tmp_path: Path) -> None:
    desk.write(".pilot.yaml", ENDLESS)
    process = desk.start("pipeline", "exec")
    await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    step = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    code, out, said = ended(process)
    assert code == 3, (out, said)
    assert "cancelling; press Ctrl-C again to skip cleanup steps" in said
    assert (tmp_path / "cleaned").exists()
    assert not alive(step)
    assert left(desk) == []


async def test_a_killed_command_takes_its_steps_along(desk: Desk, tmp_path: Path) -> None:
    desk.write(".pilot.yaml", ENDLESS)
    process = desk.start("pipeline", "exec")
    await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    step = int((tmp_path / "pid").read_text())
    process.kill()
    process.communicate(timeout=PATIENCE)
    await eventually(lambda: not alive(step))
    (remnant,) = left(desk)
    assert list(_remnants(remnant.parent / "own")) == [], "it may be about to be used"
    os.utime(remnant, (1, 1))
    assert list(_remnants(remnant.parent / "own")) == [remnant]
    with data_dir_lock(remnant):
        os.utime(remnant, (1, 1))
        assert list(_remnants(remnant.parent / "own")) == [], "it is used"


def test_what_cannot_run_here_is_refused_before_it_starts(desk: Desk) -> None:
    desk.write(".pilot.yaml", WORK)
    for words, said in (
        ((), "error: the spec needs secrets: TOKEN\nhint: give them with --secret TOKEN\n"),
        (
            ("--secret", "TOKEN"),
            "error: --secret TOKEN: the environment variable TOKEN is not set, or empty\n",
        ),
        (("--var", "wrod=x"), '.pilot.yaml: variables.wrod: error: variable "wrod" is given'),
    ):
        done = desk.pilot("pipeline", "exec", *words)
        assert done.returncode == 2, (words, done.stderr)
        assert said in done.stderr
    desk.write(
        "gpu.yaml", "jobs: [{name: j, steps: [{name: s, run: x, agentSelector: {matchLabels: {gpu: a}}}]}]"
    )
    done = desk.pilot("pipeline", "exec", "gpu.yaml")
    assert done.returncode == 2
    assert "step j/s needs an agent with gpu=a" in done.stderr


def test_secrets_are_taken_from_the_environment_and_removed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A", "B"):
        monkeypatch.setenv(name, f"value-{name}")
    assert secrets_of(["A", "X=env:B"], ["A", "X"]) == {"A": "value-A", "X": "value-B"}
    assert not {"A", "B"} & os.environ.keys()
    with pytest.raises(UsageError, match="expected NAME or NAME=env:VARIABLE") as refused:
        secrets_of(["A=hunter2"], [])
    assert "hunter2" not in str(refused.value) + refused.value.hint


def test_a_plan_as_json_and_text(desk: Desk) -> None:
    desk.write(".pilot.yaml", WORK)
    found = json.loads(desk.good("pipeline", "plan", "-o", "json", "--branch", "main", "--event", "cron"))
    assert (found["branch"], found["trigger"], found["secrets"]) == ("main", "cron", ["TOKEN"])
    assert [(job["name"], job["level"], job["plan"]) for job in found["jobs"]] == [
        ("build", 1, "run"),
        ("never", 2, "depends"),
    ]
    assert "– left-out  skipped: when is false" in desk.good("pipeline", "plan")
    done = desk.pilot("pipeline", "plan", "-", stdin="jobs: []")
    assert done.returncode == 2
    assert "<stdin>" in done.stderr
