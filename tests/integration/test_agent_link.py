"""The agent against a control plane on real gRPC that misbehaves: nothing is lost, doubled or run twice."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest

from pilothouse.agent.lock import lock_holder
from support.agents import command, dummy, options, plane, running, unsettled
from support.control_plane import CANCELLED, FAILED, RUNNING, SUCCESS, TIMEOUT, ControlPlane
from support.waiting import PATIENCE, eventually

__all__ = ["options", "plane"]  # fixtures


# -- a step -----------------------------------------------------------------------------------------------


async def test_a_step_from_dispatch_to_result(plane: ControlPlane, options: dict[str, Any]) -> None:
    script = """
        echo one; echo two >&2; echo "the key is $KEY"; echo '::mask hidden-value'; echo hidden-value
        echo '::output name=value'; echo '::output-json list=[1,{"a":null}]'; echo '::progress 40 half'
    """
    async with running(options):
        plane.offer("s1", secrets={"KEY": "s3cret-key"}, env={"KEY": "s3cret-key"}, **command(script))
        await eventually(lambda: "s1" in plane.ended)
    result = plane.ended["s1"]
    assert (result.status, result.exit_code, result.agent_id) == (SUCCESS, 0, "worker-1")
    assert result.end_time >= result.start_time > 0
    assert [report.status for report in plane.reports] == [RUNNING, SUCCESS]
    assert sorted(plane.lines["s1"]) == ["***", "one", "the key is ***", "two"]
    assert plane.known_at_end["s1"] == 4, "the result comes after all lines are acknowledged"
    assert {log["content"]: log["stream"] for log in plane.logs["s1"]}["two"] == "stderr"
    assert plane.events["s1"] == [
        ("arcentra.step.output", {"name": "name", "json": '"value"'}),
        ("arcentra.step.output", {"name": "list", "json": '[1,{"a":null}]'}),
        ("arcentra.step.progress", {"percent": 40, "message": "half"}),
    ]
    assert "s3cret-key" not in str(plane.batches)


async def test_what_the_agent_says_of_itself(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options, name="Worker", region="north", max_sessions=2):
        await eventually(lambda: plane.heartbeats)
    (request,) = plane.registrations
    assert (request.agent_id, request.agent_name, request.region) == ("worker-1", "Worker", "north")
    assert (request.max_concurrent_step_runs, request.max_sessions) == (4, 2)
    assert request.labels["pool"] == "test"
    assert request.labels["os"] == request.os == "linux"
    assert request.labels["arch"] == request.arch in ("amd64", "arm64")
    assert request.ip == "127.0.0.1"
    assert plane.heartbeats[0].reports_running
    assert not plane.heartbeats[0].running_step_run_ids


async def test_running_is_confirmed_before_any_effect(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    plane.faults.refuse.add("ReportStepRunStatus")
    async with running(options):
        plane.offer("s1", **command(f"touch {proof}"))
        await eventually(lambda: any("s1" in beat.running_step_run_ids for beat in plane.heartbeats))
        assert not proof.exists()
        assert not list((options["data_dir"] / "work").iterdir())
        plane.faults.refuse.clear()
        await eventually(lambda: "s1" in plane.ended)
        assert proof.exists()


async def test_what_is_not_leased_to_us_is_dropped(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    plane.faults.stale.add("s1")
    async with running(options):
        plane.offer("s1", **command(f"touch {tmp_path / 'proof'}"))
        await eventually(lambda: plane.reports)
        count = len(plane.heartbeats)
        await eventually(lambda: len(plane.heartbeats) > count + 1)
        assert not plane.heartbeats[-1].running_step_run_ids
        assert len(plane.reports) == 1
    assert not (tmp_path / "proof").exists()


async def test_a_repeated_dispatch_starts_nothing(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    async with running(options):
        plane.offer("s1", **command(f"echo x >> {count}; sleep 0.3"))
        plane.send("s1")
        await eventually(count.exists)
        plane.send("s1")
        plane.faults.refuse.add("ReportStepRunStatus")  # finished, but not acknowledged
        await asyncio.sleep(0.5)
        plane.send("s1")
        plane.faults.refuse.clear()
        await eventually(lambda: "s1" in plane.ended)
        plane.send("s1")
        plane.offer("s2", **dummy())
        await eventually(lambda: "s2" in plane.ended)
    assert count.read_text() == "x\n"
    assert [report.status for report in plane.reports if report.step_run_id == "s1"] == [RUNNING, SUCCESS]


async def test_lost_answers_repeat_the_report_and_nothing_else(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    plane.faults.lose["ReportStepRunStatus"] = 1
    async with running(options):
        plane.offer("s1", **command(f"echo x >> {count}"))
        await eventually(count.exists)
        plane.faults.lose["ReportStepRunStatus"] = 1
        await eventually(lambda: "s1" in plane.ended)
    assert count.read_text() == "x\n"


async def test_how_steps_end(plane: ControlPlane, options: dict[str, Any]) -> None:
    cases: dict[str, tuple[dict[str, Any], int, str]] = {
        "exit": (command("exit 3"), FAILED, "exit code 3"),
        "late": ({**command("sleep 60"), "timeout": "200ms"}, TIMEOUT, "timed out"),
        "soon": ({**command("true"), "timeout": "soon"}, FAILED, "not a duration"),
        "image": ({"uses": "docker", "action": "run"}, FAILED, "this agent cannot carry out docker/run"),
        "gone": (
            {**command("true"), "fresh_workspace": False},
            FAILED,
            "the workspace of this job is gone from agent worker-1 (rerun the whole run)",
        ),
        "up": ({**command("true"), "workspace": "../up"}, FAILED, "not a workspace id"),
        "scm": (
            {"uses": "scm", "action": "checkout"},
            FAILED,
            "this release checks out only what `pilot pipeline run` uploads",
        ),
        "whole": (dummy(exit=4.0, lines=2), FAILED, "exit code 4"),
    }
    async with running(options):
        for name, (fields, _, _) in cases.items():
            plane.offer(name, **fields)
        await eventually(lambda: plane.ended.keys() == cases.keys())
    for name, (_, status, error) in cases.items():
        assert plane.ended[name].status == status, name
        assert error in plane.ended[name].error_message


async def test_cancelling_before_and_while_it_runs(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    async with running(options):
        plane.faults.refuse.add("ReportStepRunStatus")
        plane.offer("early", **command(f"touch {tmp_path / 'proof'}"))
        await eventually(lambda: any(beat.running_step_run_ids for beat in plane.heartbeats))
        plane.cancel("early")
        await asyncio.sleep(0.05)
        plane.faults.refuse.clear()
        plane.offer("late", **command("echo here; sleep 60"))
        await eventually(lambda: plane.lines["late"])
        plane.cancel("late")
        await eventually(lambda: {"early", "late"} <= plane.ended.keys())
    assert plane.ended["early"].status == plane.ended["late"].status == CANCELLED
    assert not (tmp_path / "proof").exists()


async def test_progress_is_throttled_and_the_last_is_sent(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options):
        plane.offer("s1", **command("for i in $(seq 1 100); do echo ::progress $i; done"))
        await eventually(lambda: "s1" in plane.ended)
    percents = [payload["percent"] for _, payload in plane.events["s1"]]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(percents) < 10


async def test_an_unreadable_output_does_not_affect_others(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    deep = "[" * 100 + "]" * 100
    async with running(options):
        plane.offer("s1", **command(f"echo '::output-json deep={deep}'; echo '::output fine=yes'"))
        await eventually(lambda: "s1" in plane.ended)
    assert plane.events["s1"] == [("arcentra.step.output", {"name": "fine", "json": '"yes"'})]
    assert plane.lines["s1"] == ["pilot: warning: ::output-json deep: it is nested more than 64 deep"]


# -- broken links -----------------------------------------------------------------------------------------


async def test_no_line_is_lost_or_doubled_whatever_breaks(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options):
        plane.offer(
            "s1", **command("for i in $(seq 1 150); do echo $i; echo ::output o$i=$i; sleep 0.01; done")
        )
        await eventually(lambda: len(plane.lines["s1"]) > 10)
        plane.faults.lose["PushLogs"] = plane.faults.lose["PushEvents"] = 1
        plane.faults.break_after = 3
        plane.cut()
        await eventually(lambda: len(plane.lines["s1"]) > 60)
        await plane.stop()
        await asyncio.sleep(0.3)
        plane.faults.delay["PushLogs"] = 0.1
        plane.faults.lose["PushLogs"] = plane.faults.lose["ReportStepRunStatus"] = 1
        await plane.start()
        await eventually(lambda: "s1" in plane.ended)
    assert plane.lines["s1"] == [str(number) for number in range(1, 151)]
    assert [payload["name"] for _, payload in plane.events["s1"]] == [f"o{n}" for n in range(1, 151)]
    assert plane.known_at_end["s1"] == 150
    assert sorted(plane.log_seqs.seen) == list(range(1, plane.log_seqs.last + 1)), "no gaps"
    assert plane.ended["s1"].status == SUCCESS


async def test_the_step_goes_on_without_a_server(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    done = tmp_path / "done"
    async with running(options):
        plane.offer("s1", **command(f"echo begun; sleep 0.3; seq 1 3000; touch {done}"))
        await eventually(lambda: plane.lines["s1"])
        await plane.stop()
        await eventually(done.exists)
        await plane.start()
        await eventually(lambda: "s1" in plane.ended)
    assert plane.lines["s1"] == ["begun", *map(str, range(1, 3001))]
    assert "s1" in plane.first_beats[1].running_step_run_ids


async def test_what_was_not_acknowledged_is_sent_by_the_next_life(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    plane.faults.refuse |= {"PushLogs", "PushEvents"}
    done = tmp_path / "done"
    async with running(options) as agent:
        plane.offer("s1", **command(f"echo kept; echo ::output o=1; touch {done}; exit 5"))
        await eventually(done.exists)
        await eventually(lambda: b'"s1"' in (options["data_dir"] / "spool" / "results").read_bytes())
        await plane.stop()
        assert await agent.stop() == 0
    plane.faults.refuse.clear()
    await plane.start()
    async with running(options):
        await eventually(lambda: "s1" in plane.ended)
    assert plane.first_beats[-1].running_step_run_ids == ["s1"]
    assert plane.lines["s1"] == ["kept"]
    assert plane.events["s1"] == [("arcentra.step.output", {"name": "o", "json": '"1"'})]
    assert plane.ended["s1"].exit_code == 5
    assert plane.known_at_end["s1"] == 1


async def test_a_full_spool_slows_the_step_and_loses_nothing(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    done = tmp_path / "done"
    spool = options["data_dir"] / "spool"
    limit = 100_000
    noise = f"base64 -w 75 /dev/urandom | head -n 20000 | tee {tmp_path / 'all'}; touch {done}"
    gate = tmp_path / "gate"
    async with running(options, spool_limit=limit):
        plane.offer("s1", **command(f"echo begun; {until_there(gate)}; {noise}"))
        await eventually(lambda: plane.lines["s1"])
        plane.faults.refuse.add("PushLogs")
        gate.touch()
        await eventually(lambda: _size(spool) >= limit)
        await asyncio.sleep(0.3)
        assert not done.exists()
        assert _size(spool) < 3 * limit
        plane.faults.refuse.clear()
        await eventually(lambda: "s1" in plane.ended)
    assert plane.lines["s1"][1:] == (tmp_path / "all").read_text().splitlines()
    assert _size(spool) < limit


async def test_a_full_disk_holds_the_step_up_and_loses_nothing(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, gate = asyncio.Event(), tmp_path / "gate"

    def no_space(*_: object) -> int:
        tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running(options):
        plane.offer("s1", **command(f"echo begun; {until_there(gate)}; seq 1 40000"))
        await eventually(lambda: plane.lines["s1"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", no_space)
            gate.touch()
            await asyncio.wait_for(tried.wait(), PATIENCE)
            await asyncio.sleep(0.2)
            assert "s1" not in plane.ended
        await eventually(lambda: "s1" in plane.ended)
    assert plane.lines["s1"] == ["begun", *map(str, range(1, 40001))]


def until_there(path: Path) -> str:
    """A command that waits for a file."""
    return f"until [ -e {path} ]; do sleep 0.05; done"


def _size(spool: Path) -> int:
    return sum(path.stat().st_size for path in spool.glob("*/*.seg"))


async def test_a_server_from_an_old_backup_gets_new_numbers(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options):
        plane.offer("s1", **dummy(lines=3, outputs={"a": 1, "b": 2}))
        await eventually(lambda: "s1" in plane.ended)
        plane.forget_numbers()
        plane.offer("s2", **dummy(lines=3, outputs={"c": 3, "d": 4}))
        await eventually(lambda: "s2" in plane.ended)
    assert plane.lines["s2"] == ["line 1", "line 2", "line 3"]
    assert sorted(payload["name"] for _, payload in plane.events["s2"]) == ["c", "d"]
    assert sorted(plane.event_seqs.seen) == [1, 2]


async def test_numbers_used_by_others_are_not_mistaken_for_ours(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options):
        plane.offer("s1", **dummy(lines=1, outputs={"a": 1}))
        await eventually(lambda: "s1" in plane.ended)
        for ingested in (plane.log_seqs, plane.event_seqs):
            ingested.seen.update({number: f"other-{number}" for number in range(2, 9)})
        plane.offer("s2", **dummy(lines=1, outputs={"b": 2, "c": 3}))
        await eventually(lambda: "s2" in plane.ended)
    assert plane.lines["s2"] == ["line 1"]
    assert sorted(payload["name"] for _, payload in plane.events["s2"]) == ["b", "c"]


# -- identity ---------------------------------------------------------------------------------------------


async def test_its_own_token_is_kept_and_used(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options):
        plane.offer("s1", **dummy(lines=1))
        await eventually(lambda: "s1" in plane.ended)
    credential = options["data_dir"] / "credential"
    assert stat.S_IMODE(credential.stat().st_mode) == 0o600
    assert orjson.loads(credential.read_bytes()) == {"agent_id": "worker-1", "token": plane.token}
    async with running(options, token=None):
        plane.offer("s2", **dummy(lines=1))
        await eventually(lambda: "s2" in plane.ended)
    assert [bool(request.registration_token) for request in plane.registrations] == [True, False]
    assert sorted(plane.log_seqs.seen) == [1, 2]


async def test_a_revoked_token_needs_a_new_registration(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options):
        plane.offer("s1", **dummy(lines=1))
        await eventually(lambda: "s1" in plane.ended)
    plane.token = "revoked"
    async with running(options, token=None) as agent:
        assert await agent.ended() == 4
    async with running(options, token="wrong") as agent:
        assert await agent.ended() == 4
    async with running(options):
        plane.offer("s2", **dummy(lines=1))
        await eventually(lambda: "s2" in plane.ended)
    assert sorted(plane.log_seqs.seen) == [1], "a new registration begins the numbers anew"


async def test_a_token_revoked_on_the_way(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options, token=None) as agent:
        assert await agent.ended() == 4
    async with running(options) as agent:
        await eventually(lambda: plane.connected)
        plane.token = "revoked"
        plane.cut()
        assert await agent.ended() == 4, "the registration token had its one use"


async def test_a_replaced_agent_ends_with_its_steps(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    async with running(options) as agent:
        plane.offer("s1", **command("echo here; sleep 300"))
        await eventually(lambda: plane.lines["s1"])
        plane.cut("replaced")
        assert await agent.ended() == 3


async def test_what_cannot_be_is_refused(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options, platform="docker") as agent:
        assert await agent.ended() == 2
    async with running(options, run_as="no-such-user-here") as agent:
        assert await agent.ended() == 2
    async with running(options) as first:
        await eventually(lambda: lock_holder(options["data_dir"]))
        holder = lock_holder(options["data_dir"])
        assert holder is not None
        assert holder.agent_id == "worker-1"
        async with running(options) as second:
            assert await second.ended() == 5
        await eventually(lambda: plane.connected)
        assert await first.stop() == 0
    assert lock_holder(options["data_dir"]) is None
    async with running(options, agent_id="worker-2") as agent:
        assert await agent.ended() == 2


# -- the end ----------------------------------------------------------------------------------------------


async def test_stopping_ends_the_steps_and_reports_it(plane: ControlPlane, options: dict[str, Any]) -> None:
    async with running(options) as agent:
        plane.offer("s1", **command("echo here; sleep 300"))
        await eventually(lambda: plane.lines["s1"])
        assert await agent.stop() == 0
    assert plane.ended["s1"].status == FAILED
    assert plane.ended["s1"].error_message == "the agent was stopped"
    assert not unsettled(options)


async def test_without_server_and_work_it_lingers_and_goes(
    plane: ControlPlane, options: dict[str, Any], tmp_path: Path
) -> None:
    async with running(options, linger=0.6) as agent:
        plane.offer("s1", **command(f"echo here; sleep 1.5; touch {tmp_path / 'done'}"))
        await eventually(lambda: plane.lines["s1"])
        await plane.stop()
        assert await agent.ended() == 0
    assert (tmp_path / "done").exists(), "a running step is waited for"
    assert "s1" in unsettled(options)


async def test_stopping_without_a_server_keeps_the_result(
    plane: ControlPlane, options: dict[str, Any]
) -> None:
    async with running(options) as agent:
        plane.offer("s1", **command("echo here; sleep 300"))
        await eventually(lambda: plane.lines["s1"])
        await plane.stop()
        assert await agent.stop() == 0
    assert unsettled(options)["s1"].error == "the agent was stopped"
