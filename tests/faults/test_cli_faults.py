"""``pilot pipeline run`` in a checkout, with server crashes and user interrupts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults.fleet import PATIENT, ROUNDS, Fleet, chance, fleet, until

WAIT = 90  # seconds
PILOT = (sys.executable, "-m", "pilothouse", "--no-color")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("cli"), **PATIENT) as made:
        made.agent("a", slots=4).start()
        yield made


class Shell:
    """A git checkout with a pipeline, and the commands run in it."""

    def __init__(self, made: Fleet, directory: Path, script: str) -> None:
        self.made, self.directory = made, directory
        directory.mkdir(parents=True)
        (directory / "said.txt").write_text("from the checkout\n")
        step = "\n".join(f"          {line}" for line in script.splitlines())
        spec = f"jobs:\n  - name: talk\n    steps:\n      - name: say\n        uses: shell\n        args:\n         script: |\n{step}\n"
        (directory / ".pilot.yaml").write_text(spec)
        git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
        for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
            subprocess.run((*git, *words), cwd=directory, check=True)
        self._processes: list[subprocess.Popen[str]] = []

    def pilot(self, *words: str) -> subprocess.Popen[str]:
        """A command, started."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PILOT_")}
        environment |= {"PILOT_SERVER": self.made.server.url, "PILOT_TOKEN": self.made.server.admin}
        environment["PILOT_CONFIG_HOME"] = str(self.directory / ".git" / "config-home")
        out = self.directory / ".git" / f"out-{len(self._processes)}"
        with out.open("w") as stdout:
            process = subprocess.Popen(
                (*PILOT, *words),
                cwd=self.directory,
                env=environment,
                stdout=stdout,
                stderr=stdout,
                text=True,
                preexec_fn=_as_from_a_terminal,
            )
        self._processes.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """All it has printed."""
        return (self.directory / ".git" / f"out-{self._processes.index(process)}").read_text()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _as_from_a_terminal() -> None:
    # Tests that were started in the background of a shell ignore ctrl-C, and would bequeath that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """File that lets the waiting step continue."""
    return tmp_path / "gate"


@pytest.fixture
def here(made: Fleet, tmp_path: Path, gate: Path, request: pytest.FixtureRequest) -> Iterator[Shell]:
    script = request.param.replace("GATE", str(gate))
    shell = Shell(made, tmp_path / f"c{uuid.uuid4().hex[:8]}", script)
    yield shell
    shell.close()


LONG_STORY = """cat said.txt
for i in $(seq 1 150); do echo "line $i."; sleep 0.02; done
until [ -e GATE ]; do sleep 0.05; done
echo 'line 151.'"""
HANG = "echo begun.\nuntil [ -e GATE ]; do sleep 0.05; done\necho ended."


def lines(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"line (\d+)\.$", text, re.MULTILINE)]


@pytest.mark.parametrize("here", [LONG_STORY], ids=["long"], indirect=True)
def test_it_outlives_the_server(made: Fleet, here: Shell, gate: Path) -> None:
    rng = chance("cli")
    running = here.pilot("pipeline", "run")
    for kill in range(ROUNDS):
        enough = rng.randrange(3, 140) if kill == 0 else 0
        until(lambda n=enough: len(lines(here.said(running))) > n, what="some lines")
        made.server.kill9()
        made.server.restart()
    gate.touch()
    assert running.wait(WAIT + 10 * ROUNDS) == 0, here.said(running)
    said = here.said(running)
    assert lines(said) == list(range(1, 152))
    assert said.count("from the checkout") == 1
    again = here.pilot("run", "logs", "last")
    assert again.wait(WAIT) == 0
    assert lines(here.said(again)) == list(range(1, 152))
    assert made.unforeseen() == []


@pytest.mark.parametrize("here", ["echo before.\nexit 7"], ids=["fail"], indirect=True)
def test_it_fails_when_the_run_does(here: Shell) -> None:
    running = here.pilot("pipeline", "run")
    assert running.wait(WAIT) == 5, here.said(running)
    assert "exit code 7" in here.said(running)


@pytest.mark.parametrize("here", [HANG], ids=["hang"], indirect=True)
def test_cancelled_from_another_shell(made: Fleet, here: Shell) -> None:
    running = here.pilot("pipeline", "run")
    until(lambda: "begun." in here.said(running), what="it runs")
    assert here.pilot("run", "cancel", "last").wait(WAIT) == 0
    assert running.wait(WAIT) == 3, here.said(running)
    assert "ended." not in here.said(running)
    until(lambda: not made.agents[0].steps(), what="its step is dead")


@pytest.mark.parametrize("here", [HANG], ids=["hang"], indirect=True)
@pytest.mark.parametrize("away", [False, True], ids=["server there", "server away"])
def test_ctrl_c_detaches(made: Fleet, here: Shell, gate: Path, away: bool) -> None:
    running = here.pilot("pipeline", "run")
    until(lambda: "begun." in here.said(running), what="it runs")
    if away:
        made.server.kill9()
    running.send_signal(signal.SIGINT)
    assert running.wait(WAIT) == 130, here.said(running)
    said = here.said(running)
    assert "detached" in said
    assert "Traceback" not in said
    if away:
        made.server.restart()
    run_id = re.findall(r"^run (\S+): created", said, re.MULTILINE)[-1]
    short = re.findall(r"pilot run watch (\S+)", said)[-1]
    assert run_id.endswith(short)
    until(lambda: made.show(run_id)["status"] == "running", what="it goes on without us")
    watching = here.pilot("run", "watch", short)
    gate.touch()
    assert watching.wait(WAIT) == 0, here.said(watching)
    assert "ended." in here.said(watching)


@pytest.mark.parametrize("here", [HANG], ids=["hang"], indirect=True)
def test_two_viewers_get_the_same(made: Fleet, here: Shell, gate: Path) -> None:
    """One from the start, one that connects after the server's restart."""
    first = here.pilot("pipeline", "run")
    until(lambda: "begun." in here.said(first), what="it runs")
    made.server.kill9()
    made.server.restart()
    second = here.pilot("run", "watch", "last")
    until(lambda: "begun." in here.said(second), what="the second sees it")
    gate.touch()
    assert (first.wait(WAIT), second.wait(WAIT)) == (0, 0)
    for one in (first, second):
        assert (here.said(one).count("begun."), here.said(one).count("ended.")) == (1, 1)
