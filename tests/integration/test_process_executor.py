"""The process executor with real shells: what they get, what is reported, how they end, what is left."""

from __future__ import annotations

import asyncio
import math
import os
import pwd
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pilothouse.agent.executors.base import Outcome, StepTask, Stream
from pilothouse.agent.executors.users import UnknownUser
from support.steps import Recorder, alive, executor, perform, step_task, written
from support.waiting import PATIENCE, slowness

# A process that has left the session, the group and its parent, and holds none of the step's pipes.
DAEMONISE = "setsid sh -c 'echo $$ > daemon.pid; exec sleep 300' </dev/null >/dev/null 2>&1 &"


@pytest.fixture
def report() -> Recorder:
    return Recorder()


@pytest.fixture
def task(tmp_path: Path) -> StepTask:
    return step_task(tmp_path)


@pytest.fixture
def cancel() -> asyncio.Event:
    return asyncio.Event()


# --- what a step gets and what is reported ---------------------------------------------------------------


async def test_output_and_success(task: StepTask, report: Recorder) -> None:
    outcome = await perform(task, report, command="echo one; echo two >&2; printf 'three\\r\\nfour'")
    assert outcome == Outcome("succeeded", 0)
    assert report.of("stdout") == ["one", "three", "four"]
    assert report.of("stderr") == ["two"]
    assert all(abs(at - time.time() * 1000) < 20_000 for at in report.times)


async def test_a_script_stops_at_its_first_failure(task: StepTask, report: Recorder) -> None:
    outcome = await perform(replace(task, action="script"), report, script="echo a\nfalse\necho b\n")
    assert outcome == Outcome("failed", 1, "exit code 1")
    assert report.of("stdout") == ["a"]


@pytest.mark.parametrize("action", ["command", "script"])
async def test_a_text_too_long_for_an_argument(task: StepTask, report: Recorder, action: str) -> None:
    text = "# " + "x" * 300_000 + "\necho end"
    outcome = await perform(replace(task, action=action), report, **{action: text})
    assert (outcome.status, report.of("stdout")) == ("succeeded", ["end"])


@pytest.mark.parametrize("shell", ["bash -o pipefail", ["bash", "-o", "pipefail"]])
async def test_another_shell(task: StepTask, report: Recorder, shell: str | list[str]) -> None:
    outcome = await perform(task, report, command="echo $BASH; false | true", shell=shell)
    assert outcome.status == "failed"
    assert report.of("stdout")[0].endswith("bash")


async def test_commands_and_masking(task: StepTask, report: Recorder) -> None:
    script = """
        echo ::output version=1.2
        echo '::output-json meta={"a": [1, "hunter2"]}'
        echo '::output-json bad={'
        echo '::output hunter2=x'
        echo ::progress 40 at hunter2
        echo ::mask hun
        echo ::mask pre-hunter2-post
        echo pre-hunter2-post $(printf hunter2 | base64) >&2
        echo ::output stderr=is-no-place-for-commands >&2
        echo ordinary ::output line
    """
    task = replace(task, action="script", secrets={"PASSWORD": "hunter2", "PIN": "123"})
    assert (await perform(task, report, script=script)).status == "succeeded"
    assert report.outputs == {"version": "1.2", "meta": {"a": [1, "***"]}}
    assert report.percents == [(40, "at ***")]
    assert report.of("stdout") == ["ordinary ::output line"]
    notes = [text for text in report.of("stderr") if text.startswith("pilot: ")]
    assert [note[:40] for note in notes] == [
        "pilot: secret PIN has fewer than 4 chara",
        "pilot: warning: output meta contains a m",
        "pilot: warning: ::output-json bad: the v",
        "pilot: warning: an output whose name con",
        "pilot: ::mask: a value of fewer than 4 c",
    ]
    masked, plain = (text for text in report.of("stderr") if text not in notes)
    assert masked.startswith("*** ***")
    assert plain == "::output stderr=is-no-place-for-commands"


async def test_outputs_are_bounded(task: StepTask, report: Recorder) -> None:
    big = "v=$(head -c 600000 /dev/zero | tr '\\0' x)"
    script = f"{big}\necho ::output a=$v\necho ::output b=$v\necho ::output c=1"
    await perform(replace(task, action="script"), report, script=script)
    assert sorted(report.outputs) == ["a", "c"]
    assert any("output b dropped" in text for text in report.of("stderr"))


async def test_a_flood_of_binary_comes_through_in_order(task: StepTask, report: Recorder) -> None:
    command = "seq 1 200000; head -c 3000000 /dev/zero; printf '\\n\\377\\n'"
    assert (await perform(task, report, command=command)).status == "succeeded"
    *numbers, zeros, last = report.of("stdout")
    assert numbers == [str(n) for n in range(1, 200_001)]
    assert zeros.startswith("\ufffd" * 5000)
    assert zeros.endswith("bytes dropped]")
    assert last == "\ufffd"


class BusyRecorder(Recorder):
    """So busy that the pipe is full again before it has finished."""

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        super().lines(stream, texts, at_ms)
        time.sleep(0.005)


async def test_a_flood_leaves_the_loop_to_others(task: StepTask) -> None:
    most = 0
    report = BusyRecorder()

    async def tick() -> None:
        nonlocal most
        while True:
            before = len(report.times)
            await asyncio.sleep(0)
            most = max(most, len(report.times) - before)

    ticking = asyncio.ensure_future(tick())
    await perform(task, report, command="yes | head -c 6000000")
    ticking.cancel()
    assert len(report.times) > 50
    assert most < 5, "chunks that were read in one go of the loop"


async def test_a_slow_reporter_slows_the_step_and_loses_nothing(task: StepTask, report: Recorder) -> None:
    report.gate = asyncio.Event()
    running = asyncio.ensure_future(perform(task, report, command="seq 1 100000; : > finished"))
    async with asyncio.timeout(PATIENCE):
        while not report.seen:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert not (task.workspace / "finished").exists()
    assert len(report.seen) < 50_000
    report.gate.set()
    assert (await running).status == "succeeded"
    assert report.of("stdout") == [str(n) for n in range(1, 100_001)]


# --- steps that cannot be started -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "exit_code", "error"),
    [
        ({"command": "no-such-program-here"}, 127, "exit code 127 (command not found)"),
        ({"command": "true", "shell": "/no/such/shell"}, 127, "shell /no/such/shell not found"),
        ({"command": "true", "shell": "/etc/passwd"}, 126, "cannot start /etc/passwd: Permission denied"),
        ({"command": "true", "shell": 7}, 1, "args.shell must be a command line, or a list of its words"),
        ({"command": "true", "workingDirectory": "no/such"}, 1, "working directory no/such does not exist"),
        (
            {"command": "true", "workingDirectory": "../.."},
            1,
            "working directory ../.. is outside the workspace",
        ),
        (
            {"command": "true", "workingDirectory": "/etc"},
            1,
            "working directory /etc is outside the workspace",
        ),
        ({}, 1, "shell/command needs args.command"),
        ({"command": "a\0b"}, 1, "args.command contains a NUL character"),
        ({"command": "kill -SEGV $$"}, 139, "exit code 139 (SIGSEGV)"),
        ({"command": "exit 7"}, 7, "exit code 7"),
    ],
)
async def test_failures_are_outcomes(
    task: StepTask, report: Recorder, args: dict[str, Any], exit_code: int, error: str
) -> None:
    assert await perform(task, report, **args) == Outcome("failed", exit_code, error)


async def test_more_failures(task: StepTask, report: Recorder) -> None:
    (task.workspace / "sly").symlink_to("/")
    sly = await perform(task, report, command="true", workingDirectory="sly")
    assert sly.error == "working directory sly is outside the workspace"
    assert "no action shell/dance" in (await perform(replace(task, action="dance"), report)).error
    gone = await perform(replace(task, workspace=task.workspace / "gone"), report, command="true")
    assert gone.error == "working directory . does not exist"
    bad_name = await perform(replace(task, env={"A=B": "x"}), report, command="true")
    assert "cannot be an environment variable" in bad_name.error
    huge = await perform(replace(task, env={"HUGE": "x" * 3_000_000}), report, command="true")
    assert huge == Outcome("failed", 126, "cannot start sh: Argument list too long")


# --- how steps end ----------------------------------------------------------------------------------------


async def test_cancel_ends_daemons_too(task: StepTask, report: Recorder, cancel: asyncio.Event) -> None:
    command = f"{DAEMONISE} echo up; sleep 300"
    running = asyncio.ensure_future(executor().run(replace(task, args={"command": command}), report, cancel))
    daemon = int(await written(task.workspace / "daemon.pid"))
    assert alive(daemon)
    cancel.set()
    assert await running == Outcome("cancelled", 143, "cancelled")
    assert not alive(daemon)
    assert report.of("stdout") == ["up"]


async def test_a_step_may_clean_up_within_the_grace(
    task: StepTask, report: Recorder, cancel: asyncio.Event
) -> None:
    script = "trap 'sleep 0.1; echo cleaned; exit 3' TERM\necho $$ > up\nwhile :; do sleep 0.05; done"
    task = replace(task, action="script", args={"script": script})
    running = asyncio.ensure_future(executor(grace=10.0).run(task, report, cancel))
    await written(task.workspace / "up")
    cancel.set()
    assert await running == Outcome("cancelled", 3, "cancelled")
    assert report.of("stdout") == ["cleaned"]


async def test_a_timeout_kills_what_ignores_signals(task: StepTask, report: Recorder) -> None:
    command = "trap '' TERM INT HUP; echo $$ > shell.pid; while :; do sleep 1; done"
    seconds = math.ceil(slowness())  # the shell has started by then
    outcome = await perform(replace(task, timeout=seconds), report, command=command)
    assert outcome == Outcome("timed_out", 137, f"timed out after {seconds} s")
    assert not alive(int(await written(task.workspace / "shell.pid")))


@pytest.mark.parametrize("holds_pipes", [True, False])
async def test_what_a_finished_step_leaves_behind_is_killed(
    task: StepTask, report: Recorder, holds_pipes: bool
) -> None:
    left = DAEMONISE.replace(">/dev/null 2>&1", "") if holds_pipes else DAEMONISE
    started = time.monotonic()
    outcome = await perform(
        task, report, command=f"{left} sleep 300 & while ! test -s daemon.pid; do sleep 0.01; done; echo ok"
    )
    assert (outcome.status, report.of("stdout")) == ("succeeded", ["ok"])
    assert time.monotonic() - started < PATIENCE, "a daemon that holds the pipes holds up nothing"
    assert not alive(int(await written(task.workspace / "daemon.pid")))


async def test_an_orphan_without_its_environment_is_found_by_its_session(
    task: StepTask, report: Recorder
) -> None:
    orphan = "(env -i sh -c 'echo $$ > orphan.pid; exec sleep 300' >/dev/null 2>&1 &)"
    command = f"{orphan}; while ! test -s orphan.pid; do sleep 0.01; done"
    assert (await perform(task, report, command=command)).status == "succeeded"
    assert not alive(int(await written(task.workspace / "orphan.pid")))


async def test_cancelling_the_call_while_it_lingers_kills_what_is_left(
    task: StepTask, report: Recorder
) -> None:
    left = "echo $$ > shell.pid; " + DAEMONISE.replace(">/dev/null 2>&1", "")
    task = replace(task, args={"command": left})
    running = asyncio.ensure_future(executor(linger=60.0).run(task, report, asyncio.Event()))
    daemon = int(await written(task.workspace / "daemon.pid"))
    shell = int(await written(task.workspace / "shell.pid"))
    async with asyncio.timeout(PATIENCE):
        while alive(shell):
            await asyncio.sleep(0.01)
    assert alive(daemon)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(daemon)


async def test_output_still_on_its_way_when_the_shell_ends_is_kept(task: StepTask, report: Recorder) -> None:
    command = "echo first; (sleep 0.1; echo late) & exit 0"
    assert (await perform(task, report, command=command)).status == "succeeded"
    assert report.of("stdout") == ["first", "late"]


async def test_another_step_of_the_same_agent_is_left_alone(task: StepTask, report: Recorder) -> None:
    other = replace(task, step_run_id="another-attempt", args={})
    running = asyncio.ensure_future(
        perform(other, Recorder(), command=f"{DAEMONISE} cat fifo; echo done > end")
    )
    os.mkfifo(task.workspace / "fifo")
    daemon = int(await written(task.workspace / "daemon.pid"))
    await perform(task, report, command="true")
    assert alive(daemon)
    await perform(task, report, command="echo > fifo")
    assert (await running).status == "succeeded"
    assert not alive(daemon)


async def test_cancelling_the_call_itself_kills_the_step(task: StepTask, report: Recorder) -> None:
    running = asyncio.ensure_future(perform(task, report, command=f"{DAEMONISE} sleep 300"))
    daemon = int(await written(task.workspace / "daemon.pid"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(daemon)


async def test_cancelled_before_it_starts(task: StepTask, report: Recorder, cancel: asyncio.Event) -> None:
    cancel.set()
    task = replace(task, args={"command": "touch started"})
    assert (await executor().run(task, report, cancel)).status == "cancelled"
    assert not (task.workspace / "started").exists()


async def test_no_descriptor_is_left_open(task: StepTask, report: Recorder) -> None:
    async def four() -> None:
        tasks = (replace(task, step_run_id=f"n{n}") for n in range(4))
        await asyncio.gather(*(perform(each, report, command="echo x") for each in tasks))

    await four()  # what asyncio opens once is open now, and there are four supervisors
    before = len(os.listdir("/proc/self/fd"))
    await four()
    await perform(task, report, command="true", shell="/no/such/shell")
    assert len(os.listdir("/proc/self/fd")) == before


def test_on_uvloop(task: StepTask, report: Recorder) -> None:
    async def both() -> None:
        assert (await perform(task, report, command="echo a; echo b >&2; exit 3")).exit_code == 3
        slow = replace(task, timeout=0.2)
        assert (await perform(slow, report, command="sleep 300")).status == "timed_out"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(both())
    assert sorted(report.seen) == [("stderr", "b"), ("stdout", "a")]


# --- under whose name -------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users")
async def test_another_user(task: StepTask, report: Recorder) -> None:
    as_nobody = executor(run_as="nobody")
    assert as_nobody.announcement == "steps run as user nobody"
    task = replace(task, workspace=Path("/"), action="script", args={"script": "id -un; id -Gn; echo $HOME"})
    assert (await as_nobody.run(task, report, asyncio.Event())).status == "succeeded"
    assert report.of("stdout") == ["nobody", "nogroup", pwd.getpwnam("nobody").pw_dir]
    with pytest.raises(UnknownUser):
        executor(run_as="no-such-user")


def test_own_user_is_announced() -> None:
    assert "the agent's own user" in executor().announcement


@pytest.mark.parametrize("where", ["branch", "tag", "job_name"])
async def test_a_name_that_no_program_can_be_given(task: StepTask, report: Recorder, where: str) -> None:
    """Run metadata from the server is in the environment."""
    outcome = await perform(replace(task, **{where: "a\0b"}), report, command="true")
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    assert "NUL in its value" in outcome.error
