"""The environment of a step, run by a real `pilot agent`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.agents import command, options, plane
from support.control_plane import FAILED, REGISTRATION, SUCCESS, ControlPlane
from support.steps import Recorder, executor, perform, step_task, written
from support.waiting import PATIENCE, eventually

__all__ = ["options", "plane"]  # fixtures

SECRET = "s3cret-in-the-text"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with Pilothouse in it, and a program of its own."""
    directory = tmp_path_factory.mktemp("installed") / ".venv"
    venv.create(directory, symlinks=True)
    packages = next((directory / "lib").glob("python*/site-packages"))
    here = Path(__file__).parents[2]
    paths = [str(here / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "pilothouse.pth").write_text("\n".join(paths))
    for name in ("only-in-venv", "pip"):
        (directory / "bin" / name).write_text("#!/bin/sh\necho of-the-agent\n")
        (directory / "bin" / name).chmod(0o755)
    pilot = directory / "bin" / "pilot"
    run = "import runpy; runpy.run_module('pilothouse', run_name='__main__')"
    pilot.write_text(f"#!{directory}/bin/python\n{run}\n")
    pilot.chmod(0o755)
    return directory


@contextlib.asynccontextmanager
async def started(
    plane: ControlPlane, home: Path, data_dir: Path, path: str, *more: str, **environ: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """`pilot agent` with this search path, by its absolute path."""
    arguments = [
        str(home / "bin" / "pilot"),
        "agent",
        "--server",
        "http://127.0.0.1:9",
        "--grpc",
        plane.address,
    ]
    arguments += ["--name", "worker-1", "--slots", "4", "--data-dir", str(data_dir), *more]
    environment = {
        "PATH": path,
        "PILOT_AGENT_TOKEN": REGISTRATION,
        "PILOT_CONFIG_HOME": str(data_dir),
        **environ,
    }
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    try:
        await eventually(lambda: plane.connected)
        yield process
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, PATIENCE)


async def said(plane: ControlPlane, name: str, text: str, **fields: Any) -> list[str]:
    plane.offer(name, **{**command(text), **fields})
    await eventually(lambda: name in plane.ended)
    assert plane.ended[name].status == SUCCESS, (plane.ended[name].error_message, plane.lines[name])
    return plane.lines[name]


REST = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
QUESTION = """
env | sort
echo "python: $(command -v python3)"; echo "pip: $(command -v pip || true)"
echo "own: $(command -v only-in-venv || true)"; echo "pilot: $(command -v pilot || true)"
"""


@pytest.mark.parametrize("place", ["first", "not at all", "slash", "link", "activated"])
async def test_the_agents_virtual_environment_is_not_the_steps(
    plane: ControlPlane, home: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "link").symlink_to(home)
    path = {
        "first": f"{home}/bin:{REST}",
        "not at all": REST,
        "slash": f"{home}/bin/:{REST}",
        "link": f"{REST}:{tmp_path}/link/bin",
        "activated": f"{home}/bin:{REST}",
    }[place]
    hook = {"GIT_DIR": "/elsewhere/.git", "GIT_INDEX_FILE": "x", "GITHUB_TOKEN": "gh", "SSH_AUTH_SOCK": "/x"}
    more = {"VIRTUAL_ENV": str(home), "PYTHONHOME": "", "PYTHONPATH": "/x"} if place == "activated" else {}
    environ = {"HOME": "/home/ann", "TZ": "Asia/Tokyo", **hook, **more}
    async with started(plane, home, tmp_path / "data", path, **environ):
        run = {
            "pipeline_name": "shop",
            "branch": "main",
            "commit_sha": "9fceb02",
            "tag": "v1",
            "event": "push",
        }
        lines = await said(plane, "s1", QUESTION, attempt=2, pipeline_run_id="run-1", **run)
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    answers = dict(line.split(": ", 1) for line in lines if ": " in line and "=" not in line)
    assert not answers["python"].startswith((str(home), str(tmp_path)))
    assert [answers.get(key, "").strip() for key in ("own", "pilot")] == ["", ""]
    assert "of-the-agent" not in answers.get("pip", "")
    assert found["PATH"] == REST
    workspace = os.path.realpath(tmp_path / "data" / "work")
    expected = {
        "CI": "true",
        "HOME": "/home/ann",
        "TZ": "Asia/Tokyo",
        "PILOT": "true",
        "PILOT_RUN_ID": "run-1",
        "PILOT_JOB": "job",
        "PILOT_STEP": "step",
        "PILOT_STEP_RUN_ID": "s1",
        "PILOT_ATTEMPT": "2",
        "PILOT_PIPELINE": "shop",
        "PILOT_BRANCH": "main",
        "PILOT_COMMIT": "9fceb02",
        "PILOT_TAG": "v1",
        "PILOT_EVENT": "push",
        "PYTHONUNBUFFERED": "1",
    }
    assert expected.items() <= found.items()
    assert found["PILOT_WORKSPACE"].startswith(workspace)
    assert found["GIT_CEILING_DIRECTORIES"] == os.path.dirname(found["PILOT_WORKSPACE"])
    ours = expected.keys() | {"PILOT_WORKSPACE", "PILOT_ENV"}
    foreign = {
        name for name in found if name.startswith(("PILOT", "GIT_", "VIRTUAL", "PYTHON", "GITHUB", "SSH"))
    }
    assert foreign <= ours | {"GIT_CEILING_DIRECTORIES"}


async def test_what_the_owner_passes_on(plane: ControlPlane, home: Path, tmp_path: Path) -> None:
    environ = {"GITHUB_TOKEN": "gh", "NPM_TOKEN": "npm", "SSH_AUTH_SOCK": "/x"}
    passed = ("--pass-env", "NPM_TOKEN", "--pass-env", "SSH_AUTH_SOCK")
    async with started(plane, home, tmp_path / "data", REST, *passed, **environ):
        lines = await said(plane, "s1", 'echo "$NPM_TOKEN $SSH_AUTH_SOCK ${GITHUB_TOKEN-none}"')
    assert lines == ["npm /x none"]


async def test_the_specs_env_wins(tmp_path: Path) -> None:
    report = Recorder()
    env = {
        "CI": "false",
        "PILOT_JOB": "mine",
        "PATH": f"/opt/mine:{REST}",
        "AUTH": "Bearer s3cret-token",
        "PYTHONUNBUFFERED": "",
        "GIT_CEILING_DIRECTORIES": "/",
    }
    secrets = {"AUTH": "s3cret-token", "OTHER": "s3cret-other"}
    text = 'for v in CI PILOT_JOB PATH PYTHONUNBUFFERED GIT_CEILING_DIRECTORIES OTHER; do eval "echo $v=\\$$v"; done; '
    text += 'test "$AUTH" = "Bearer $(printf s3cret-; printf token)"; echo "$AUTH"'
    outcome = await perform(step_task(tmp_path, env=env, secrets=secrets), report, command=text)
    assert outcome.status == "succeeded"
    assert report.of("stdout") == [
        "CI=false",
        "PILOT_JOB=mine",
        f"PATH=/opt/mine:{REST}",
        "PYTHONUNBUFFERED=",
        "GIT_CEILING_DIRECTORIES=/",
        "OTHER=",
        "Bearer ***",
    ]


async def test_git_finds_no_repository_around_the_workspace(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    workspace = tmp_path / "work" / "ws"
    (workspace / "deep" / "er").mkdir(parents=True)
    report = Recorder()
    text = "git rev-parse --show-toplevel || git -C deep/er rev-parse || echo none"
    await perform(step_task(workspace), report, command=text)
    assert report.of("stdout") == ["none"]
    await perform(step_task(workspace), report, command=text, workingDirectory="deep")
    assert report.of("stdout") == ["none", "none"]


# --- what a step leaves for the next ---------------------------------------------------------------------

JOB = {"workspace": "ws-job", "last_in_job": False}
LATER = {**JOB, "fresh_workspace": False}


async def test_what_one_step_writes_the_later_ones_find_also_after_a_kill(
    plane: ControlPlane, home: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with started(plane, home, data, REST) as process:
        text = 'echo A=1 >> "$PILOT_ENV"; printf "B<<E\\none\\ntwo\\nE\\nnonsense\\n" >> "$PILOT_ENV"; echo "${A-none}"'
        lines = await said(plane, "s1", text, **JOB)
        assert sorted(lines) == ["none", "pilot: warning: PILOT_ENV: line 6 is not NAME=value"]
        assert await said(plane, "s2", 'echo "$A $B"; test ! -s "$PILOT_ENV"', **LATER) == ["1 one", "two"]
        assert await said(plane, "s3", 'echo "$A"', env={"A": "spec"}, **LATER) == ["spec"]
        assert await said(plane, "other", 'echo "${A-none}"') == ["none"]
        plane.offer("bad", **command('echo C=3 >> "$PILOT_ENV"; exit 7'), **LATER)
        await eventually(lambda: "bad" in plane.ended)
        process.kill()
        await asyncio.to_thread(process.wait)
    async with started(plane, home, data, REST):
        assert await said(plane, "s4", 'echo "$A $C"', **LATER) == ["1 3"]
        fresh = {**LATER, "fresh_workspace": True}
        assert await said(plane, "s5", 'echo "${A-none}"', **fresh) == ["none"]
        await said(plane, "s6", 'echo A=5 >> "$PILOT_ENV"', **LATER)
        assert list((data / "env").iterdir()) != []
        assert await said(plane, "s7", 'echo "$A"', **{**LATER, "last_in_job": True}) == ["5"]
        await eventually(lambda: not list((data / "env").iterdir()))


async def test_a_steps_file_for_the_environment_is_its_own(tmp_path: Path) -> None:
    """Concurrent steps of a job use separate files, which other users cannot read."""
    runner = executor()
    text = 'stat -c %a "$PILOT_ENV"; echo "$PILOT_ENV"; echo "N$1=$1" >> "$PILOT_ENV"'
    reports = [Recorder(), Recorder()]
    tasks = [step_task(tmp_path, args={"command": text.replace("$1", str(n))}) for n in range(2)]
    runs = [runner.run(task, report, asyncio.Event()) for task, report in zip(tasks, reports, strict=True)]
    assert [outcome.status for outcome in await asyncio.gather(*runs)] == ["succeeded", "succeeded"]
    assert {report.of("stdout")[0] for report in reports} == {"600"}
    assert len({report.of("stdout")[1] for report in reports}) == 2
    assert runner.job_environments.load("default") == {"N0": "0", "N1": "1"}


# --- where a step's text is ------------------------------------------------------------------------------


def words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


SHELLS: list[Any] = [
    None,
    "bash -eu",
    ["bash", "-o", "pipefail"],
    "dash",
    ["python3"],
    "/usr/bin/env python3 -u",
]


@pytest.mark.parametrize("action", ["command", "script"])
@pytest.mark.parametrize("shell", SHELLS, ids=str)
async def test_text_with_values_is_no_argument(tmp_path: Path, shell: Any, action: str) -> None:
    python = "python" in str(shell)
    text = (
        f"import os, time\nsecret = '{SECRET}'\nopen('up', 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(300)"
        if python
        else f"secret='{SECRET}'\necho $$ > up\nsleep 300\n: $secret"
    )
    task = step_task(tmp_path, action=action, args={action: text, **({"shell": shell} if shell else {})})
    runner, cancel = executor(), asyncio.Event()
    running = asyncio.ensure_future(runner.run(task, Recorder(), cancel))
    pid = int(await written(tmp_path / "up"))
    everything = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert SECRET not in " ".join(map(words, everything))
    (script,) = [word for word in words(pid).split() if word.endswith("/script")]
    assert Path(script).stat().st_mode & 0o777 == 0o600
    cancel.set()
    await running
    assert not Path(script).parent.exists()


async def test_errors_name_the_line(tmp_path: Path) -> None:
    report = Recorder()
    await perform(step_task(tmp_path), report, command="echo one\n\nno-such-program-here\n")
    assert "script: 3: no-such-program-here: not found" in report.of("stderr")[0]


async def test_a_python_command_finds_the_workspaces_modules(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("price = 7")
    report = Recorder()
    text = "import shop, sys\nprint(shop.price, len(sys.argv), __name__)\nraise SystemExit(3)"
    outcome = await perform(step_task(tmp_path), report, command=text, shell=["python3", "-u"])
    assert (outcome.exit_code, report.of("stdout")) == (3, ["7 1 __main__"])
    await perform(step_task(tmp_path), report, command="\n\n1 / 0", shell="python3")
    assert any(line.endswith('script", line 3, in <module>') for line in report.of("stderr"))


async def test_what_a_killed_agent_has_left_of_a_text_is_removed(
    plane: ControlPlane, home: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with started(plane, home, data, REST, TMPDIR=str(tmp_path)) as process:
        plane.offer("s1", **command(f"echo up; sleep 300; : {SECRET}"))
        await eventually(lambda: plane.lines["s1"])
        assert SECRET in "".join(path.read_text() for path in data.glob("steps/*/script"))
        outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(data)]
        assert not [path for path in outside if SECRET in path.read_text(errors="replace")]
        process.kill()
        await asyncio.to_thread(process.wait)
    async with started(plane, home, data, REST):
        assert await said(plane, "s2", "echo next") == ["next"]
        assert list(data.glob("steps/*/script")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users")
async def test_another_user_reads_their_own_text_only(tmp_path: Path) -> None:
    runner = executor(run_as="nobody")
    workspace = Path("/")
    report = Recorder()
    text = 'stat -c "%U %a" "$0" "$PILOT_ENV"; ls "$(dirname "$0")" 2>&1 || true; echo X=1 >> "$PILOT_ENV"'
    task = step_task(workspace, args={"command": text})
    assert (await runner.run(task, report, asyncio.Event())).status == "succeeded", report.seen
    assert report.of("stdout")[:2] == ["nobody 600", "nobody 600"]
    assert "Permission denied" in report.of("stdout")[2]
    assert runner.job_environments.load("default") == {"X": "1"}


async def test_a_cancel_has_a_reason(plane: ControlPlane, home: Path, tmp_path: Path) -> None:
    async with started(plane, home, tmp_path / "data", REST):
        plane.offer("s1", **command("echo up; sleep 300"))
        await eventually(lambda: plane.lines["s1"])
        plane.cancel("s1")
        await eventually(lambda: "s1" in plane.ended)
    assert plane.ended["s1"].error_message == "cancelled: asked"
    assert plane.ended["s1"].status != FAILED
