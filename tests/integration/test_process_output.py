"""What real processes write: lines without an end, progress bars, outputs, masks; and beside others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pilothouse.agent.executors.base import Outcome, StepTask, Stream
from support.steps import executor
from support.waiting import eventually

WAIT = 'wait() { while ! test -e "$1"; do sleep 0.02; done; }\n'


@dataclass
class Recorder:
    seen: list[tuple[Stream, str]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    at: list[float] = field(default_factory=list)

    def lines(self, stream: Stream, texts: Sequence[str], at_ms: int) -> None:
        self.seen += [(stream, text) for text in texts]
        self.at += [asyncio.get_running_loop().time()] * len(texts)

    def output(self, name: str, value: Any) -> None:
        self.outputs[name] = value

    def progress(self, percent: int, message: str) -> None:
        """Not looked at here."""

    async def drain(self) -> None:
        """Never full."""

    def of(self, stream: Stream) -> list[str]:
        return [text for where, text in self.seen if where == stream]


class Step:
    """A script that runs in a workspace of its own; files there are the signals between it and the test."""

    def __init__(self, workspace: Path, script: str, *mask: str) -> None:
        workspace.mkdir(exist_ok=True)
        self.workspace, self.report = workspace, Recorder()
        args = {"script": WAIT + script}
        task = StepTask(
            f"attempt-{workspace.name}",
            *("run", "job", "build", "compile", "shell", "script"),
            args,
            {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            {},
            mask,
            workspace,
            120.0,
            1,
        )
        self._running = asyncio.ensure_future(executor().run(task, self.report, asyncio.Event()))

    def go_on(self, signal: str) -> None:
        (self.workspace / signal).touch()

    async def end(self) -> Outcome:
        return await asyncio.wait_for(self._running, 120)

    async def shows(self, *lines: str, stream: Stream = "stdout") -> None:
        await eventually(lambda: self.report.of(stream) == list(lines))


def python(code: str) -> str:
    return f"python3 -u - <<'END'\n{code}\nEND\n"


async def test_a_prompt_and_dots_are_shown_while_the_step_goes_on(tmp_path: Path) -> None:
    script = """
        printf 'Password for hunter2: '; wait a
        echo; printf 'Compiling.'; wait b
        printf '..'; wait c
        echo ' done'; printf 'no end' >&2; wait d
        printf ' at all' >&2
    """
    step = Step(tmp_path / "s", script, "hunter2")
    await step.shows("Password for ***: ")
    step.go_on("a")
    await step.shows("Password for ***: ", "Compiling.")
    step.go_on("b")
    await step.shows("Password for ***: ", "Compiling.", "..")
    step.go_on("c")
    await step.shows("no end", stream="stderr")
    step.go_on("d")
    assert await step.end() == Outcome("succeeded", 0)
    assert step.report.of("stdout") == ["Password for ***: ", "Compiling.", "..", " done"]
    assert step.report.of("stderr") == ["no end", " at all"]


async def test_half_a_secret_waits_for_the_other_half(tmp_path: Path) -> None:
    step = Step(tmp_path / "s", "printf 'it is hunt'; wait a; printf 'er2'; wait b; echo", "hunter2")
    await step.shows("it is ")
    step.go_on("a")
    await step.shows("it is ", "***")
    step.go_on("b")
    await step.end()
    assert step.report.of("stdout") == ["it is ", "***"]


@pytest.mark.parametrize(
    "draw",
    [
        r"sys.stderr.write(f'\r{n:3}%|{chr(9608) * (n // 10):10}| {n}/100 [00:01<00:01]')",  # as tqdm does
        r"sys.stderr.write(f'\r   {n} kB {chr(9473) * n}\x1b[K')",  # as pip does
        r"sys.stderr.write(f'{n}%\r')",  # as git does
        r"sys.stderr.write(f'\x1b[2K\x1b[1G[{n}/100] compiling')",  # as ninja and npm do
    ],
    ids=["tqdm", "pip", "git", "ninja"],
)
async def test_a_progress_bar_shows_now_and_then_and_its_end(tmp_path: Path, draw: str) -> None:
    code = f"""
import os, sys, time
for n in range(101):
    {draw}
    sys.stderr.flush()
    time.sleep(0.02)
    while n == 50 and not os.path.exists("a"):
        time.sleep(0.02)
sys.stderr.write(os.environ.get("LAST", "\\n"))
print("finished")
"""
    for last in ("", r"\n"):
        step = Step(
            tmp_path / f"s{len(last)}", f"LAST=$(printf '{last}x'); export LAST=${{LAST%x}}\n" + python(code)
        )
        await eventually(lambda: any("50" in line for line in step.report.of("stderr")))  # noqa: B023
        step.go_on("a")
        assert (await step.end()).status == "succeeded"
        lines, at = (
            step.report.of("stderr"),
            [a for a, (where, _) in zip(step.report.at, step.report.seen, strict=True) if where == "stderr"],
        )
        assert "100" in lines[-1]
        assert len(lines) == len(set(lines)), "no state twice"
        assert len(lines) <= 3 + (at[-1] - at[0]), "at most one a second"
        assert not any("\r" in line for line in lines)
        assert step.report.of("stdout") == ["finished"]


async def test_a_step_under_full_load_splits_no_line(tmp_path: Path) -> None:
    """The agent is slow to read: what it has of a line is no unfinished line."""

    class Slow(Recorder):
        async def drain(self) -> None:
            await asyncio.sleep(1.2 if len(self.at) < 6000 else 0)

    report = Slow()
    task = StepTask(
        *("attempt", "run", "job", "build", "compile", "shell", "command"),
        {"command": "seq 100000 130000"},
        {},
        {},
        (),
        tmp_path,
        120.0,
        1,
    )
    assert (await executor().run(task, report, asyncio.Event())).status == "succeeded"
    assert report.of("stdout") == [str(n) for n in range(100000, 130001)]


async def test_outputs_of_any_shape(tmp_path: Path) -> None:
    code = r"""
import json
print("::output-json big=" + str(2**63 - 1))
print("::output-json bigger=" + str(2**70))
print("::output-json fine=0.1")
print("::output-json inexact=0.1234567890123456789")
print("::output-json huge=1e400")
print("::output-json nan=NaN")
print("::output-json deep=" + "[" * 64 + "]" * 64)
print("::output-json deeper=" + "[" * 100000 + "]" * 100000)
print('::output-json nul="a\\u0000b"')
print('::output-json half="\\ud800"')
print('::output-json twice={"a": 1, "a": 2}')
print("::output-json many=" + json.dumps({str(n): n for n in range(20000)}))
print("still running")
"""
    step = Step(tmp_path / "s", python(code))
    assert (await step.end()).status == "succeeded"
    outputs = step.report.outputs
    assert sorted(outputs) == ["big", "deep", "fine", "many", "nul"]
    assert (outputs["big"], outputs["fine"], outputs["nul"]) == (9223372036854775807, 0.1, "a\0b")
    assert outputs["many"] == {str(n): n for n in range(20000)}
    assert step.report.of("stdout") == ["still running"]
    refused = [line.split(":")[4].strip() for line in step.report.of("stderr")]
    assert [line.split("::output-json ")[1].split(":")[0] for line in step.report.of("stderr")] == [
        *("bigger", "inexact", "huge", "nan", "deeper", "half", "twice")
    ], refused


async def test_masks_of_a_step_that_traces_itself(tmp_path: Path) -> None:
    value = """it's a "quoted" $value\twith \\ and *"""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "value").write_text(value)
    script = """
        set -x
        S=$(cat value); : "$S"; bash -xc ': "$1"; printf "%q\\n" "$1"; [[ x == "$1" ]] || true; declare -p 1 || true' - "$S"
        printf %s "$S" | base64; printf %s "$S" | xxd -p
        python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1]))' "$S"
    """
    step = Step(tmp_path / "s", script, value)
    await step.end()
    lines = [text for _, text in step.report.seen]
    assert sum("***" in line for line in lines) >= 8
    for word in ("quoted", "value\t", "aXQncyBh", "697427732061", "it%27s", "\\q\\u\\o"):
        assert not [line for line in lines if word in line], word


async def test_what_was_masked_on_stdout_is_masked_on_stderr_from_then_on(tmp_path: Path) -> None:
    """Two pipes have no order between them, but each value was in one before it was in the other."""
    code = r"""
import os
for n in range(1500):
    os.write(1, b"::mask value-%05d-and-more\nout %d" % (n, n))
    os.write(2, b"value-%05d-and-more\n" % n)
    os.write(1, b" and on\n")
"""
    step = Step(tmp_path / "s", python(code))
    assert (await step.end()).status == "succeeded"
    assert step.report.of("stderr") == ["***"] * 1500
    whole = [f"out {n} and on" for n in range(1500)]
    assert "".join(step.report.of("stdout")) == "".join(whole)


async def test_a_flood_of_masks_ends_its_own_step_and_no_other(tmp_path: Path) -> None:
    flood = python(
        'for n in range(12000): print("::mask value-%05d and some more" % n)\nwhile True: print("spam")'
    )
    beside = "n=0; while ! test -e stop; do n=$((n + 1)); echo beat $n; sleep 0.05; done"
    quiet = Step(tmp_path / "beside", beside)
    await eventually(lambda: len(quiet.report.seen) >= 5)
    loop, gaps = asyncio.get_running_loop(), []

    async def heart() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            gaps.append(loop.time() - before)

    beating = asyncio.ensure_future(heart())
    await eventually(lambda: len(gaps) >= 20)
    control, before = sorted(gaps)[len(gaps) // 2], len(quiet.report.seen)
    gaps.clear()
    step = Step(tmp_path / "flood", flood)
    outcome = await step.end()
    await eventually(lambda: len(quiet.report.seen) > before)
    beating.cancel()
    quiet.go_on("stop")
    assert outcome.status == "failed"
    assert outcome.error == "::mask: an attempt has at most 2000 masked values"
    assert "spam" not in step.report.of("stdout")
    assert sorted(gaps)[len(gaps) // 2] < 0.2 + 5 * control
    assert (await quiet.end()).status == "succeeded"
    assert quiet.report.of("stdout") == [f"beat {n}" for n in range(1, len(quiet.report.seen) + 1)]


async def test_a_step_that_writes_without_pause_delays_no_other(tmp_path: Path) -> None:
    """With as many masked values as there may be, each of which nearly occurs."""
    values = [f"value-{n:05d}-{'x' * 30}" for n in range(2000)]
    flood = python(
        'import os\ntext = b"".join(b"value-%05d-xxxxxxxx and text\\n" % n for n in range(2000))\nwhile not os.path.exists("stop"): os.write(1, text)'
    )
    loud = Step(tmp_path / "loud", flood, *values)
    await eventually(lambda: len(loud.report.seen) > 1000)
    quiet = Step(tmp_path / "quiet", "for n in 1 2 3 4 5 6 7 8; do echo $n; wait $n; done")
    for n in range(1, 9):
        await eventually(lambda: quiet.report.of("stdout") == [str(m) for m in range(1, n + 1)])  # noqa: B023
        quiet.go_on(str(n))
    at = list(quiet.report.at)
    loud.go_on("stop")
    assert (await quiet.end(), await loud.end()) == (Outcome("succeeded", 0), Outcome("succeeded", 0))
    assert sorted(later - earlier for earlier, later in pairwise(at))[3] < 2
    assert loud.report.of("stdout")[0] == "value-00000-xxxxxxxx and text"
