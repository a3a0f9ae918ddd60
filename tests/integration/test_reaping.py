"""Nothing that a step has started outlives it, whatever it does to get away; with each way of killing there is.

Which ways a machine offers differs: a test is skipped where its way is missing. Control groups of version 2 are also
tested against an imitated file system, in `tests/unit/test_control_groups.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pilothouse.agent.executors.base import Outcome
from pilothouse.agent.executors.process import BROKEN
from support.steps import Recorder, alive, executor, guard, perform, step_task, written
from support.unkillable import Freezer, freezer
from support.waiting import eventually, slowness

__all__ = ["freezer"]  # fixtures

BACKENDS = ["cgroup2", "cgroup1", "subreaper"]
HANG = "/bin/sh -c 'echo $$ > left.pid; exec sleep 300'"
SILENT = ">/dev/null 2>&1"
ESCAPES = {
    "double fork": f"({HANG} {SILENT} &)",
    "session": f"setsid {HANG} {SILENT} &",
    "all three": f"(setsid env -i {HANG} {SILENT} &)",
    "holds the pipes": f"(setsid env -i {HANG} &)",
    "ignores signals": f"(trap '' TERM HUP INT; setsid env -i {HANG} {SILENT} &)",
    "stops itself": f"(setsid env -i /bin/sh -c 'echo $$ > left.pid; kill -STOP $$; sleep 300' {SILENT} &)",
    "nested subreaper": "(setsid env -i python3 nested.py >/dev/null 2>&1 &)",
    "another user": f"(setsid env -i /bin/sh -c 'echo $$ > left.pid; exec {{become}} sleep 300' {SILENT} &)",
    "another group": f"(setsid env -i /bin/sh -c 'echo $$ > left.pid; exec {{group}} sleep 300' {SILENT} &)",
}
BECOME = "setpriv --reuid 65534 --regid 65534 --clear-groups"
GROUP = "setpriv --regid 65534 --keep-groups"
NESTED = """
import ctypes, os, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if not os.fork():
    if not os.fork():
        os.setsid()
        with open("left.pid", "w") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""
UNTIL_LEFT = "while ! test -s left.pid; do sleep 0.01; done"


def inside(workspace: Path) -> list[psutil.Process]:
    """The processes whose current directory is in the workspace."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(workspace):
                found.append(process)
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in inside(tmp_path):
        process.kill()


def possible(escape: str) -> bool:
    return "another" not in escape or (os.geteuid() == 0 and shutil.which("setpriv") is not None)


def script(escape: str) -> str:
    if not possible(escape):
        pytest.skip("becoming another user needs root, and setpriv")
    text = ESCAPES[escape].format(become=BECOME, group=GROUP)
    return f"{text}\n{UNTIL_LEFT}\necho up"


async def escaped(workspace: Path, escape: str, ending: str, backend: str) -> None:
    """Nothing is left after a step with the escape has come to the ending."""
    (workspace / "nested.py").write_text(NESTED)
    last = {"ends": "exit 0", "fails": "exit 3"}.get(ending, "sleep 300")
    task = step_task(workspace, args={"command": f"{script(escape)}\n{last}"})
    if ending == "timed out":
        task = replace(task, timeout=3.0 * slowness())
    cancel, report = asyncio.Event(), Recorder()
    running = asyncio.ensure_future(executor(backend).run(task, report, cancel))
    left = int(await written(workspace / "left.pid"))
    if ending == "cancelled":
        cancel.set()
    outcome = await running
    assert outcome.status == {"ends": "succeeded", "fails": "failed"}.get(ending, ending.replace(" ", "_"))
    assert "could not be killed" not in outcome.error
    assert not alive(left)
    assert inside(workspace) == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ending", ["ends", "fails", "cancelled"])
@pytest.mark.parametrize("escape", ESCAPES)
async def test_whatever_gets_away_ends_with_its_step(
    workspace: Path, escape: str, ending: str, backend: str
) -> None:
    await escaped(workspace, escape, ending, backend)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_whatever_gets_away_ends_with_the_timeout_of_its_step(workspace: Path, backend: str) -> None:
    """All of them at once, as each waits for its timeout."""
    places = {workspace / escape.replace(" ", "-"): escape for escape in ESCAPES if possible(escape)}
    for place in places:
        place.mkdir()
    await asyncio.gather(*(escaped(place, escape, "timed out", backend) for place, escape in places.items()))


HOP = "echo $$ >> hops; sleep 0.01; (setsid env -i /bin/sh hop.sh >/dev/null 2>&1 &); exit 0"
BUSH = f"{HOP.removesuffix('; exit 0')}; (setsid env -i /bin/sh hop.sh >/dev/null 2>&1 &); exit 0"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "text", [HOP, f'test "$(wc -l < hops)" -gt 300 || {{ {BUSH}; }}'], ids=["hops", "grows"]
)
async def test_what_keeps_forking_while_it_is_cancelled(workspace: Path, text: str, backend: str) -> None:
    (workspace / "hop.sh").write_text(text)
    task = step_task(workspace, args={"command": "touch hops; sh hop.sh; sleep 300"})
    cancel = asyncio.Event()
    running = asyncio.ensure_future(executor(backend, grace=0.1).run(task, Recorder(), cancel))
    hops = workspace / "hops"
    await eventually(lambda: hops.exists() and hops.read_text().count("\n") > 10)
    cancel.set()
    assert (await running).status == "cancelled"
    assert inside(workspace) == []


@pytest.mark.parametrize("backend", BACKENDS)
async def test_daemons_may_clean_up_too(workspace: Path, backend: str) -> None:
    daemon = (
        'setsid env -i /bin/sh -c \'trap "echo cleaned > cleaned; exit" TERM; '
        "echo $$ > left.pid; while :; do sleep 0.05; done' &"
    )
    task = step_task(workspace, args={"command": f"({daemon})\n{UNTIL_LEFT}; sleep 300"})
    cancel = asyncio.Event()
    running = asyncio.ensure_future(executor(backend, grace=30.0).run(task, Recorder(), cancel))
    await written(workspace / "left.pid")
    cancel.set()
    assert (await running) == Outcome("cancelled", 143, "cancelled")
    assert await written(workspace / "cleaned") == "cleaned"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_is_forked_while_it_is_cancelled_is_told_too(workspace: Path, backend: str) -> None:
    """It does not hold up the end of the step for the whole grace; what cleans up is left alone meanwhile."""
    cleaner = (
        "setsid sh -c 'trap \"sleep 1; echo cleaned > cleaned; exit\" TERM; : > ready; sleep 300 & wait' &"
    )
    forker = "n=0; while test $n -lt 400; do sleep 300 & n=$((n + 1)); test $n != 20 || echo $$ > left.pid; done; wait"
    task = step_task(
        workspace, args={"command": f"({cleaner})\nwhile ! test -e ready; do sleep 0.01; done\n{forker}"}
    )
    cancel = asyncio.Event()
    running = asyncio.ensure_future(executor(backend, grace=100.0).run(task, Recorder(), cancel))
    await written(workspace / "left.pid")
    cancel.set()
    assert (await asyncio.wait_for(running, 60)) == Outcome("cancelled", 143, "cancelled")
    assert (workspace / "cleaned").read_text() == "cleaned\n"
    assert inside(workspace) == []


@pytest.mark.parametrize("backend", BACKENDS)
async def test_steps_of_one_job_at_the_same_time(workspace: Path, backend: str) -> None:
    """One ends; the other continues with its child processes; the supervisors are reused."""
    runner = executor(backend)
    first = step_task(workspace, args={"command": f"{script('all three')}; cat fifo; echo end"})
    report = Recorder()
    os.mkfifo(workspace / "fifo")
    running = asyncio.ensure_future(runner.run(first, report, asyncio.Event()))
    left = int(await written(workspace / "left.pid"))
    for _ in range(3):
        second = step_task(
            workspace, args={"command": "(setsid env -i sleep 300 &) ; sleep 300"}, timeout=0.2
        )
        assert (await runner.run(second, Recorder(), asyncio.Event())).status == "timed_out"
        assert alive(left)
    opener = step_task(workspace, args={"command": "echo > fifo"})
    await runner.run(opener, Recorder(), asyncio.Event())
    assert (await running).status == "succeeded"
    assert report.of("stdout") == ["up", "", "end"]
    assert not alive(left)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_step_that_kills_its_supervisor(workspace: Path, backend: str) -> None:
    command = f"{script('all three')}; kill -9 $PPID; sleep 300"
    outcome = await perform(step_task(workspace), Recorder(), backend, command=command)
    assert outcome == Outcome("failed", 137, BROKEN)
    await eventually(lambda: inside(workspace) == [])
    assert (await perform(step_task(workspace), Recorder(), backend, command="true")).status == "succeeded"


STOPS = {
    "its supervisor": "kill -STOP $PPID",
    "the guard": "kill -STOP $(ps -o ppid= $PPID)",
    "both": "kill -STOP $(ps -o ppid= $PPID) $PPID",
    "again and again": "setsid sh -c 'while kill -STOP '$(ps -o ppid= $PPID)' '$PPID'; do :; done' & sleep 0.2",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_step_that_stops_its_supervisors(
    workspace: Path, backend: str, stop: str, cancelled: bool
) -> None:
    """It ends, and is cancelled, as any other: the timeout is far away."""
    runner, cancel = executor(backend), asyncio.Event()
    command = (
        f"{script('all three')}; {STOPS[stop]}; echo > stopped; {'sleep 300' if cancelled else 'exit 3'}"
    )
    task = step_task(workspace, args={"command": command}, timeout=300.0)
    running = asyncio.ensure_future(runner.run(task, Recorder(), cancel))
    if cancelled:
        await eventually((workspace / "stopped").exists)
        cancel.set()
    async with asyncio.timeout(60):
        outcome = await running
    assert (outcome.status, outcome.exit_code) == (("cancelled", 143) if cancelled else ("failed", 3))
    await eventually(lambda: inside(workspace) == [])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", ["the guard", "its supervisor"])
async def test_a_step_that_kills_guard_and_supervisor(workspace: Path, backend: str, first: str) -> None:
    """Without control groups, what cleared its environment and left the session is out of reach."""
    hang = f"setsid {'' if backend == 'subreaper' else 'env -i '}{HANG} {SILENT} &"
    both = "$guard $PPID" if first == "the guard" else "$PPID $guard"
    command = f"{hang} {UNTIL_LEFT}; guard=$(ps -o ppid= $PPID); kill -9 {both}; env -i sleep 300"
    outcome = await perform(step_task(workspace), Recorder(), backend, command=command)
    # On a busy machine the agent may not have heard yet that the step has begun.
    unheard = Outcome("failed", 1, "the agent's guard ended while it started this step")
    assert outcome in (Outcome("failed", 137, BROKEN), unheard)
    assert inside(workspace) == []
    assert (await perform(step_task(workspace), Recorder(), backend, command="true")).status == "succeeded"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_guard_that_is_killed_takes_its_steps_along_and_is_replaced(
    workspace: Path, backend: str
) -> None:
    own = guard(backend)
    before = own.pid
    command = f"{script('all three')}; sleep 300"
    running = asyncio.ensure_future(perform(step_task(workspace), Recorder(), backend, command=command))
    await written(workspace / "left.pid")
    os.kill(before, signal.SIGKILL)
    assert (await running).status == "failed"
    await eventually(lambda: inside(workspace) == [])
    runner = executor(backend)
    next_one = step_task(workspace, args={"command": "true"})
    assert (await runner.run(next_one, Recorder(), asyncio.Event())).status == "succeeded"


@pytest.mark.parametrize("backend", ["cgroup2", "subreaper"])
@pytest.mark.parametrize("ending", ["ends", "cancelled"])
async def test_what_cannot_be_killed_is_named_and_keeps_the_slot(
    workspace: Path,
    backend: str,
    ending: str,
    freezer: Freezer,
) -> None:
    wait = "exit 0" if ending == "ends" else "sleep 300"
    command = f"{script('all three')}; while ! test -e frozen; do sleep 0.01; done; {wait}"
    task = step_task(workspace, args={"command": command})
    runner, changes = executor(backend, kill_within=0.5), []
    runner.survivors.on_change = lambda: changes.append(runner.survivors.condition.blocked)
    cancel = asyncio.Event()
    running = asyncio.ensure_future(runner.run(task, Recorder(), cancel))
    left = int(await written(workspace / "left.pid"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(freezer(left))
        (workspace / "frozen").touch()
        if ending == "cancelled":
            cancel.set()
        outcome = await running
        assert outcome.status == {"ends": "succeeded", "cancelled": "cancelled"}[ending]
        assert outcome.error.removeprefix("cancelled; ").startswith(
            f"could not be killed within 0.5 s: {left} (sleep"
        )
        condition = runner.survivors.condition
        assert condition.blocked == 1
        assert condition.problems[0].startswith(
            f"step build/compile left processes that cannot be killed: {left} (sleep"
        )
        assert (
            await runner.run(step_task(workspace, args={"command": "true"}), Recorder(), asyncio.Event())
        ).status
    await eventually(lambda: runner.survivors.condition.blocked == 0)
    assert changes == [1, 0]
    assert not alive(left)


# --- an agent that is not root ---------------------------------------------------------------------------

_UNPRIVILEGED = """
import asyncio, sys
from pathlib import Path
from support.steps import Recorder, executor, step_task
async def main(backend, workspace, command):
    runner = executor(backend, kill_within=1.0)
    task = step_task(Path(workspace), args={"command": command})
    print(await runner.run(task, Recorder(), asyncio.Event()), flush=True)
    print(runner.survivors.condition, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A world-readable directory with a set-uid copy of setpriv, like sudo."""
    if os.geteuid() or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists():
        pytest.skip("needs root, setpriv, and a Python that another user may run")
    directory = Path(f"/tmp/pilot-shared-{os.urandom(4).hex()}")
    directory.mkdir()
    directory.chmod(0o777)
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    shutil.copy(setpriv, directory / "sudo")
    (directory / "sudo").chmod(0o4755)
    yield directory
    for process in inside(directory):
        process.kill()
    shutil.rmtree(directory)


def _as_nobody(backend: str, directory: Path, command: str, within: Path | None = None) -> str:
    """Result of a step of an agent of user `nobody`; `within` is the agent's control group."""
    here = Path(__file__).parents[2]
    packages = next((here / ".venv" / "lib").glob("python*/site-packages"))
    path = ":".join(map(str, (here / "src", here / "tests", packages)))
    enter = f"echo $$ > {within}/cgroup.procs; " if within else ""
    start = f'{enter}exec setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 -c "$@"'
    arguments = ["sh", "-c", start, "sh", _UNPRIVILEGED, backend, str(directory), command]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        arguments, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if "Skipped" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout


ROOTED = (
    "./sudo --reuid 0 --regid 0 --clear-groups sh -c 'echo $$ > left.pid; exec sleep 300' >/dev/null 2>&1 &"
)


def test_roots_processes_are_left_by_an_agent_without_control_groups(shared: Path) -> None:
    said = _as_nobody("subreaper", shared, f"({ROOTED})\n{UNTIL_LEFT}")
    left = int((shared / "left.pid").read_text())
    assert f"could not be killed within 1 s: {left} (sleep, user root)" in said
    assert "Condition(blocked=1" in said
    assert alive(left)


def test_roots_processes_are_killed_in_a_control_group_of_the_agents_own(shared: Path) -> None:
    """As systemd hands it over with `Delegate=yes`."""
    parent = (
        Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
    )
    if not (parent / "cgroup.procs").exists():
        pytest.skip("no control groups of version 2")
    delegated = parent / f"pilot-delegated-{os.getpid()}"
    delegated.mkdir()
    try:
        for path in (delegated, delegated / "cgroup.procs", delegated / "cgroup.subtree_control"):
            os.chown(path, 65534, 65534)
        said = _as_nobody("cgroup2", shared, f"({ROOTED})\n{UNTIL_LEFT}", delegated)
        assert "Outcome(status='succeeded', exit_code=0, error='')" in said
        assert not alive(int((shared / "left.pid").read_text()))
    finally:
        (delegated / "cgroup.kill").write_text("1")
        while "populated 1" in (delegated / "cgroup.events").read_text():
            time.sleep(0.01)
        for directory, _, _ in os.walk(delegated, topdown=False):
            os.rmdir(directory)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_cancelled_call_kills_what_its_step_has_started(workspace: Path, backend: str) -> None:
    task = step_task(workspace, args={"command": f"{script('all three')}; sleep 300"})
    running = asyncio.ensure_future(executor(backend).run(task, Recorder(), asyncio.Event()))
    await written(workspace / "left.pid")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert inside(workspace) == []
