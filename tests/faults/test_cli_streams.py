"""Every command with stdin, stdout and stderr closed, full, binary or in another encoding: what changes is what must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from pilothouse.cli.app import build
from support import cli_cases
from support.fake_api import RUN, Fake, chunk, job_view, serving, step_view, summary, watched

TOKEN = "s3cr3t-token-of-nobody"
NASTY = "n\x9b2Jämé\u202e日本"
Ask = Callable[..., dict[str, Any]]
RUNS = ("run", "view"), ("run", "watch"), ("run", "logs")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(group, TyperGroup) or (group.invoke_without_command and path):
        yield path, group
    for name, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, (*path, name))


def words_of(path: tuple[str, ...], command: Any, url: str) -> list[str]:
    """The command with something for each argument that it needs."""
    known = {"server": url, "run": RUN}
    needed = [
        p for p in command.params if p.param_type_name == "argument" and (p.required or p.name == "run")
    ]
    words = [*path, *(known.get(param.name, "x") for param in needed)]
    if path in (("up",), ("server",)):
        words += ["--port", "70000"]  # they would stay
    if path == ("agent",):
        words += ["--label", "novalue"]
    if path == ("login",):
        words += ["--username", "ann"]
    return words


COMMANDS = dict(commands(typer.main.get_command(build())))
PRINTED = {("run", word) for word in ("list", "view", "watch", "logs")} | {("pipeline", "list"), ("version",)}
STATES: dict[str, dict[str, Any]] = {
    "as ever": {},
    "stdin closed": {"closed": [0]},
    "stdin binary": {"stdin": b"\xff\xfe\x00\x80\n".hex()},
    "stdout closed": {"closed": [1]},
    "stdout full": {"full": [1]},
    "stderr closed": {"closed": [2]},
    "stderr full": {"full": [2]},
    "all closed": {"closed": [0, 1, 2]},
    "latin-1": {"encoding": "latin-1"},
    "ascii, json": {"encoding": "ascii", "more": ["-o", "json"]},
    "utf-8, json": {"more": ["-o", "json"]},
    "utf-8, yaml": {"more": ["-o", "yaml"]},
}


@pytest.fixture(scope="module")
def fake() -> Iterator[type[Fake]]:
    with serving() as handler:
        watched(handler, "succeeded")
        page = {"page": 1, "pageSize": 100, "total": 1}
        pipeline = {
            "pipelineId": "p",
            "projectId": "x",
            "name": NASTY,
            "lastCommitSha": "h",
            "repository": "",
        }
        project = {"projectId": "x", "name": NASTY, "isDefault": True, "description": NASTY, "createdAt": 0}
        project |= {"members": [{"userId": "u", "username": NASTY}]}
        agent = {
            "agent_id": NASTY,
            "platform": NASTY,
            "region": "",
            "status": "online",
            "labels": {NASTY: NASTY},
        }
        agent |= {"capacity": {"busy": 0, "slots": 1}, "metadata": {}, "last_heartbeat": None}
        view = {**summary(RUN, "succeeded"), "name": NASTY, "variables": {NASTY: NASTY}, "branch": NASTY}
        view["jobs"] = [job_view(NASTY, step_view(NASTY, outputs={"x": {"y": [NASTY, None, True]}}))]
        handler.answers.update(
            {
                f"GET /workflow-runs/{RUN}": (200, view),
                f"GET /workflow-runs/{RUN}/logs": (
                    200,
                    [chunk(NASTY, NASTY, NASTY, "\x1b[2J"), b'{"cursor":"","status":"succeeded"}\n'],
                ),
                "GET /pipelines": (200, {"detail": {"list": [pipeline], **page}}),
                "GET /pipelines/p/spec": (200, {"detail": {"text": f"# {NASTY}\n", "headCommitSha": "h"}}),
                "GET /projects": (200, {"detail": {"list": [project], **page}}),
                "GET /secrets": (
                    200,
                    {"detail": {"list": [{"name": NASTY, "createdBy": NASTY, "updatedAt": 0}], **page}},
                ),
                "PUT /secrets/x": (200, {"detail": {"name": "x"}}),
                "GET /agents": (200, {"agents": [agent]}),
                "GET /agents/x": (200, agent),
                "PATCH /agents/x": (200, agent),
                "GET /tokens": (200, {"tokens": []}),
                "DELETE /tokens/x": (200, {}),
            }
        )
        yield handler


@pytest.fixture(scope="module")
def ask(fake: type[Fake], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Runs a command in a state; returns exit code, stdout, stderr."""
    home = tmp_path_factory.mktemp("streams")
    (home / ".pilot.yaml").write_text("jobs: []\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    environment |= {"PILOT_SERVER": fake.url, "PILOT_TOKEN": f"{TOKEN}\n"}  # type: ignore[attr-defined]
    environment["PILOT_CONFIG_HOME"] = str(home / "config")
    with subprocess.Popen(
        (sys.executable, cli_cases.__file__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=home,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def run(words: list[bytes], **state: Any) -> dict[str, Any]:
            asked.write(json.dumps({**state, "words": [word.hex() for word in words]}) + "\n")
            asked.flush()
            found: dict[str, Any] = json.loads(answers.readline())
            return found

        yield run


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_and_its_streams(path: tuple[str, ...], ask: Ask, fake: type[Fake]) -> None:
    words = words_of(path, COMMANDS[path], fake.url)  # type: ignore[attr-defined]
    states = {}
    for name, state in STATES.items():
        more = {key: value for key, value in state.items() if key != "more"}
        states[name] = ask([word.encode() for word in (*state.get("more", ()), *words)], **more)
    usual = states["as ever"]
    assert usual["code"] in range(7), usual
    for state, found in states.items():
        said = found["out"] + found["err"]
        assert "Traceback" not in said, (state, found)
        assert "internal error" not in said, (state, found)
        assert TOKEN not in said, (state, found)
        if path != ("pipeline", "spec"):  # a file's text, which is made safe on a terminal only
            assert not any(0x7F <= ord(c) <= 0x9F or c == "\u202e" for c in said), (state, found)
    for state in ("stderr closed", "stderr full", "latin-1"):
        assert states[state]["code"] == usual["code"], (state, states[state], usual)
    for state in ("stderr closed", "stderr full"):
        assert states[state]["out"] == usual["out"], state
    assert states["stdin closed"] == usual, "no stdin is an empty one"
    assert states["stdin binary"]["code"] in (usual["code"], 2)
    for state in ("stdout closed", "stdout full"):
        if usual["out"]:
            why = "Bad file descriptor" if "closed" in state else "No space left on device"
            assert states[state]["code"] == 1, (state, states[state])
            assert states[state]["err"].endswith(f"error: cannot write the output: {why}\n"), states[state]
        else:
            assert states[state] == usual, state
    assert states["all closed"]["code"] == (1 if usual["out"] else usual["code"])
    assert states["ascii, json"]["out"] == states["utf-8, json"]["out"], "documents are UTF-8 everywhere"
    if path in PRINTED:
        assert usual["out"], "the command has something to print here"


@pytest.mark.parametrize("path", RUNS, ids=" ".join)
def test_arguments_that_are_not_utf8(path: tuple[str, ...], ask: Ask) -> None:
    found = ask([*map(str.encode, path), b"\xff\xfe\x80abcdef"])
    assert found["code"] in (1, 2), found
    assert "Traceback" not in found["err"]
    assert "internal error" not in found["err"]
    assert found["err"].startswith("error: ")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
@pytest.mark.parametrize("words", ["version", "run list", "run logs nonsense --attempt 0"])
def test_from_a_shell(fake: type[Fake], tmp_path: Path, redirection: str, words: str) -> None:
    """The same with processes of their own, as they are started in life."""
    script = f"'{sys.executable}' -m pilothouse {words} {redirection}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
    environment |= {"PILOT_SERVER": fake.url, "PILOT_TOKEN": TOKEN, "PILOT_CONFIG_HOME": str(tmp_path)}  # type: ignore[attr-defined]
    done = subprocess.run(
        ("sh", "-c", script),
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    usual = 2 if "--attempt 0" in words else 0
    lost = usual == 0 and (">&-" in redirection.replace("2>&-", "") or redirection == ">/dev/full")
    assert done.returncode == (1 if lost else usual), done
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
