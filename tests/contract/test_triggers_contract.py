"""Triggers on both databases: ticks and events start their runs once, whatever is killed in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select

from pilothouse.access.model import SYSTEM, Principal, Role
from pilothouse.engine.problems import SpecError
from pilothouse.engine.store import runs
from pilothouse.identity.service import Identity
from pilothouse.pipelines.compiled import compile_source
from pilothouse.pipelines.errors import RequestReused
from pilothouse.pipelines.service import Pipelines, TriggerRequest
from pilothouse.pipelines.specs import Specs
from pilothouse.pipelines.triggers import store
from pilothouse.pipelines.triggers.model import MAX_CHAIN, MAX_FIRES, Fire, Trigger
from pilothouse.pipelines.triggers.rounds import TriggerRounds
from pilothouse.pipelines.triggers.service import Triggers
from pilothouse.storage import StorageUnavailable
from support.kernel import PROJECT, Kernel

JOB = "jobs: [{name: j, steps: [{name: s, uses: dummy}]}]\n"
EMPTY = 'jobs: [{name: j, when: "false", steps: [{name: s, uses: dummy}]}]\n'
"""A run of it has succeeded as soon as it is started."""

HOUR, MINUTE = 3600, 60


def cron(schedule: str = "0 * * * *", more: str = "") -> str:
    return f'triggers: [{{type: cron, name: c, options: {{schedule: "{schedule}"{more}}}}}]\n' + JOB


def on(options: str, job: str = JOB) -> str:
    return f"triggers: [{{type: event, options: {{{options}}}}}]\n" + job


async def saved(kernel: Kernel, name: str, spec: str, by: Principal = SYSTEM, id: str = "") -> str:
    """A pipeline with this spec; its id. ``id``: of the pipeline, if it is there already."""
    pipelines = kernel.graph.service(Pipelines)
    compiled = compile_source(spec)
    pipeline_id = id or (await kernel.write(lambda tx: pipelines.create(tx, by, PROJECT, name))).id
    await kernel.write(
        lambda tx: pipelines.save_spec(tx, by, pipeline_id, compiled, expected_head="", message="")
    )
    return pipeline_id


async def go(kernel: Kernel, seconds: float = 1, rounds: int = 1) -> None:
    """Time passes, then the server's rounds."""
    kernel.clock.advance(seconds)
    for _ in range(rounds):
        await kernel.graph.service(TriggerRounds).round()
        await kernel.pump()


def at(kernel: Kernel, text: str) -> None:
    """Set the clock."""
    kernel.clock.now = int(datetime.fromisoformat(text + "+00:00").timestamp() * 1000)


def runs_of(kernel: Kernel, pipeline_id: str) -> list[Any]:
    with kernel.database.read() as conn:
        return list(conn.execute(select(runs).where(runs.c.pipeline_id == pipeline_id).order_by(runs.c.id)))


def of(kernel: Kernel, pipeline_id: str) -> Trigger:
    with kernel.database.read() as conn:
        [found] = store.triggers_of(conn, pipeline_id)
    return found


def fires(kernel: Kernel, trigger: Trigger) -> list[Fire]:
    with kernel.database.read() as conn:
        return store.fires_of(conn, trigger.id, 1000)


async def run_of(kernel: Kernel, pipeline_id: str) -> str:
    """Start a run by hand."""
    pipelines = kernel.graph.service(Pipelines)
    run = await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, pipeline_id, TriggerRequest()))
    return run.id


# -- cron -----------------------------------------------------------------------------------------------


async def test_a_tick_starts_one_run_at_its_time(kernel: Kernel) -> None:
    at(kernel, "2026-11-26T10:30:00")
    pipeline = await saved(kernel, "nightly", cron(more=', variables: {a: "1"}'))
    await go(kernel, 29 * MINUTE)
    assert runs_of(kernel, pipeline) == []
    await go(kernel, MINUTE, rounds=3)
    [run] = runs_of(kernel, pipeline)
    assert (run.trigger, run.triggered_by, run.variables) == ("cron", "system", '{"a":"1"}')
    trigger = of(kernel, pipeline)
    assert (trigger.last_run, trigger.reason, trigger.fired) == (run.id, "", 1)
    assert trigger.next_at == kernel.clock.now + HOUR * 1000
    [fire] = fires(kernel, trigger)
    assert (fire.due_at, fire.run_id) == (kernel.clock.now, run.id)
    [told] = [entry.body for entry in kernel.entries(f"trigger/{trigger.id}", "trigger.fired")]
    assert told["run_id"] == run.id
    await go(kernel, HOUR, rounds=2)
    assert len(runs_of(kernel, pipeline)) == 2


async def test_after_an_outage_the_latest_tick_alone_starts_a_run(kernel: Kernel) -> None:
    at(kernel, "2026-11-26T10:30:00")
    pipeline = await saved(kernel, "nightly", cron("*/15 * * * *"))
    kernel.clock.advance(3 * HOUR + 10 * MINUTE)  # 13:40
    kernel = await kernel.restart()
    await go(kernel, rounds=3)
    [run] = runs_of(kernel, pipeline)
    trigger = of(kernel, pipeline)
    newest, missed = fires(kernel, trigger)
    assert (newest.run_id, newest.due_at % 86_400_000) == (run.id, (13 * 60 + 30) * 60_000)
    assert missed.reason == (
        "missed: the server did not start what was due from 2026-11-26T10:45:00.000Z on, "
        "before 2026-11-26T13:30:00.000Z"
    )
    assert trigger.next_at % 86_400_000 == (13 * 60 + 45) * 60_000


async def test_a_tick_that_is_too_late_starts_nothing_and_says_so(kernel: Kernel) -> None:
    at(kernel, "2026-11-26T02:30:00")
    pipeline = await saved(kernel, "nightly", cron("0 3 * * *", ", startingDeadline: 10m"))
    kernel.clock.advance(HOUR)
    await go(kernel)
    assert runs_of(kernel, pipeline) == []
    trigger = of(kernel, pipeline)
    assert trigger.reason.startswith("missed: ")
    assert trigger.next_at == kernel.clock.now - 1000 - 30 * MINUTE * 1000 + 86_400_000


async def test_disabled_triggers_and_pipelines_start_nothing(kernel: Kernel) -> None:
    pipelines, triggers = kernel.graph.service(Pipelines), kernel.graph.service(Triggers)
    pipeline = await saved(kernel, "nightly", cron())
    trigger = of(kernel, pipeline)
    await kernel.write(lambda tx: triggers.switch(tx, SYSTEM, trigger.id, enabled=False))
    await saved(kernel, "nightly", cron("5 * * * *"), id=pipeline)
    assert (of(kernel, pipeline).id, of(kernel, pipeline).enabled) == (trigger.id, False)
    await go(kernel, 2 * HOUR)
    assert runs_of(kernel, pipeline) == []
    await kernel.write(lambda tx: triggers.switch(tx, SYSTEM, trigger.id, enabled=True))
    await go(kernel)
    assert runs_of(kernel, pipeline) == [], "what came while it was disabled is not made up for"
    await kernel.write(lambda tx: pipelines.change(tx, SYSTEM, pipeline, enabled=False))
    await go(kernel, HOUR)
    assert (runs_of(kernel, pipeline), of(kernel, pipeline).reason) == ([], "pipeline 'nightly' is disabled")
    await kernel.write(lambda tx: pipelines.change(tx, SYSTEM, pipeline, enabled=True))
    await go(kernel, HOUR)
    assert len(runs_of(kernel, pipeline)) == 1
    await kernel.write(lambda tx: pipelines.delete(tx, SYSTEM, pipeline))
    await go(kernel, HOUR)
    assert kernel.entries(f"trigger/{trigger.id}")[-1].type == "trigger.removed"


async def test_its_runs_have_the_rights_that_its_user_has_now(kernel: Kernel) -> None:
    identity = kernel.graph.service(Identity)
    user = await identity.create_user(
        SYSTEM, username="ann", password="correct horse battery", role=Role.OPERATOR
    )
    ann = Principal("user", user.id, "ann", Role.OPERATOR, frozenset(), "t", None)
    pipeline = await saved(kernel, "nightly", cron(), by=ann)
    await go(kernel, HOUR)
    assert [run.triggered_by for run in runs_of(kernel, pipeline)] == ["ann"]
    await kernel.write(lambda tx: identity.users.update(tx, SYSTEM, user.id, role=Role.VIEWER))
    await go(kernel, HOUR)
    assert len(runs_of(kernel, pipeline)) == 1
    assert of(kernel, pipeline).reason == (
        "ann, whose rights it has, may not start runs of this project: whoever may enables the trigger"
    )
    await kernel.write(lambda tx: identity.users.deactivate(tx, SYSTEM, user.id))
    await go(kernel, HOUR)
    assert len(runs_of(kernel, pipeline)) == 1
    triggers = kernel.graph.service(Triggers)
    await kernel.write(lambda tx: triggers.switch(tx, SYSTEM, of(kernel, pipeline).id, enabled=True))
    await go(kernel, HOUR)
    assert [run.triggered_by for run in runs_of(kernel, pipeline)] == ["ann", "system"]


# -- events ---------------------------------------------------------------------------------------------


async def test_an_event_starts_one_run_with_the_origin_of_its_cause(kernel: Kernel) -> None:
    build = await saved(kernel, "build", JOB)
    await run_of(kernel, build)  # before the trigger is there
    deploy = await saved(
        kernel, "deploy", on("events: [run.completed], pipeline: build, statuses: [succeeded]")
    )
    await go(kernel)
    agent = await kernel.agent("a1", slots=5)
    run = await kernel.run(JOB, pipeline_id=build, branch="main", commit_sha="c0ffee")
    await go(kernel)
    assert runs_of(kernel, deploy) == []
    await kernel.do(agent)
    await go(kernel, rounds=3)
    [started] = runs_of(kernel, deploy)
    assert (started.trigger, started.branch, started.commit_sha, started.depth) == (
        "event",
        "main",
        "c0ffee",
        1,
    )
    [fire] = fires(kernel, of(kernel, deploy))
    assert (fire.cause, fire.run_id) == (run, started.id)
    await kernel.cancel(await kernel.run(JOB, pipeline_id=build), force=True)
    kernel = await kernel.restart()
    await go(kernel, rounds=3)
    assert len(runs_of(kernel, deploy)) == 1, "cancelled is not succeeded"


async def test_runs_that_start_each_other_come_to_an_end(kernel: Kernel) -> None:
    ping = await saved(kernel, "ping", on("events: [run.completed], pipeline: pong", EMPTY))
    pong = await saved(kernel, "pong", on("events: [run.completed], pipeline: ping", EMPTY))
    own = await saved(kernel, "own", on("events: [run.completed], pipeline: own", EMPTY))
    await run_of(kernel, ping)
    await run_of(kernel, own)
    await go(kernel, rounds=3 * MAX_CHAIN)
    assert len(runs_of(kernel, ping)) + len(runs_of(kernel, pong)) == 1 + MAX_CHAIN
    assert len(runs_of(kernel, own)) == 1 + MAX_CHAIN
    assert "8 runs away from the one that began it" in of(kernel, own).reason


async def test_a_trigger_fires_so_often_and_then_says_so(kernel: Kernel) -> None:
    build = await saved(kernel, "build", EMPTY)
    after = await saved(kernel, "after", on("events: [run.completed]", EMPTY))
    for _ in range(MAX_FIRES + 5):
        await run_of(kernel, build)
    await go(kernel, rounds=3)
    assert len(runs_of(kernel, after)) == MAX_FIRES
    assert "which is the most" in of(kernel, after).reason
    await go(kernel, 11 * MINUTE)
    await run_of(kernel, build)
    await go(kernel)
    assert len(runs_of(kernel, after)) == MAX_FIRES + 1
    assert len(fires(kernel, of(kernel, after))) == MAX_FIRES


async def test_a_page_of_logs_does_not_stop_the_reader(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_SCANNED", 10)
    build = await saved(kernel, "build", EMPTY)
    after = await saved(kernel, "after", on("events: [run.completed]", EMPTY))
    await go(kernel)
    for at in range(100):
        await kernel.write(
            lambda tx, at=at: kernel.journal.append(tx, "x/1", "step.logged", "none", {"n": at})
        )
    await run_of(kernel, build)
    await go(kernel, rounds=2)
    assert len(runs_of(kernel, after)) == 1


# -- once -----------------------------------------------------------------------------------------------


class Killed(StorageUnavailable):
    """What the round sees of the kill."""


async def killed_at(kernel: Kernel, place: int, *, committed: bool, work: Callable[[], Any]) -> bool:
    """Do a round; at its write number ``place`` the server is killed, before or after the commit. Whether it was."""
    real, count = kernel.storage.write, 0

    async def write(use_case: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 == place:
            if committed:
                await real(use_case)
            raise Killed("killed")
        return await real(use_case)

    kernel.storage.write = write  # type: ignore[method-assign]
    try:
        await work()
    except Killed:
        return True
    return False


@pytest.mark.parametrize("committed", [False, True], ids=["before-commit", "after-commit"])
async def test_a_kill_at_any_commit_starts_every_run_once(kernel: Kernel, committed: bool) -> None:
    at(kernel, "2026-11-26T10:30:00")
    build = await saved(kernel, "build", EMPTY)
    nightly = [await saved(kernel, f"n{at}", cron()) for at in range(2)]
    after = [
        await saved(kernel, f"a{at}", on("events: [run.completed], pipeline: build", EMPTY))
        for at in range(2)
    ]
    await go(kernel)
    for hour in range(12):
        kernel.clock.advance(HOUR)
        await run_of(kernel, build)
        rounds = kernel.graph.service(TriggerRounds)
        killed = await killed_at(kernel, hour, committed=committed, work=rounds.round)
        kernel = await kernel.restart()
        await go(kernel, rounds=2)
        for pipeline in (*nightly, *after):
            assert len(runs_of(kernel, pipeline)) == hour + 1, (hour, killed)
        if not killed:
            assert hour >= 5, "two ticks, two events, the position"
            return
    raise AssertionError("a round has less commits than that")


async def test_two_servers_without_a_lease_fire_once(kernel: Kernel) -> None:
    at(kernel, "2026-11-26T10:30:00")
    build = await saved(kernel, "build", EMPTY)
    nightly = await saved(kernel, "nightly", cron("*/5 * * * *"))
    after = await saved(kernel, "after", on("events: [run.completed], pipeline: build", EMPTY))
    both = [
        TriggerRounds(
            kernel.storage,
            kernel.graph.service(Triggers),
            kernel.clock,
            kernel.graph.service(Specs).for_trigger,
        )
        for _ in range(2)
    ]
    for _ in range(6):
        kernel.clock.advance(5 * MINUTE)
        await run_of(kernel, build)
        await asyncio.gather(*(one.round() for one in both))
    await asyncio.gather(*(one.round() for one in both))
    assert (len(runs_of(kernel, nightly)), len(runs_of(kernel, after))) == (6, 6)


async def test_an_idle_round_writes_nothing(kernel: Kernel) -> None:
    await saved(kernel, "nightly", cron())
    await saved(kernel, "after", on("events: [run.completed]"))
    await go(kernel)

    async def refused(use_case: Any) -> Any:
        raise AssertionError("a write")

    kernel.storage.write = refused  # type: ignore[method-assign]
    await kernel.graph.service(TriggerRounds).round()


# -- inputs and request ids -----------------------------------------------------------------------------

INPUTS = """
triggers:
  - type: manual
    options: {inputs: [{name: where, type: choice, choices: [here, there]}, {name: sure, type: boolean, default: false}]}
jobs: [{name: j, steps: [{name: s, run: "echo ${{ variables.where }}"}]}]
"""


async def test_a_run_is_given_the_declared_inputs_alone(kernel: Kernel) -> None:
    pipelines = kernel.graph.service(Pipelines)
    pipeline = await saved(kernel, "asked", INPUTS)

    async def start(**variables: str) -> Any:
        request = TriggerRequest(variables=variables)
        return await kernel.write(lambda tx: pipelines.trigger(tx, SYSTEM, pipeline, request))

    run = await start(where="here")
    assert run.variables == {"where": "here", "sure": "false"}
    for wrong, said in (
        ({}, 'input "where" has no default'),
        ({"where": "heer"}, 'input "where" is one of here, there'),
        ({"where": "here", "sure": "perhaps"}, 'input "sure" is true or false'),
        ({"where": "here", "when": "now"}, 'there is no input "when"'),
    ):
        with pytest.raises(SpecError, match=said):
            await start(**wrong)
    with kernel.database.read() as conn, pytest.raises(SpecError, match="no default"):
        spec = compile_source(INPUTS)
        pipelines.check_run(conn, PROJECT, spec.names_used(), {}, {}, spec.inputs)


async def test_the_same_request_id_starts_one_run(kernel: Kernel) -> None:
    pipelines = kernel.graph.service(Pipelines)
    pipeline = await saved(kernel, "asked", JOB)
    other = Principal("user", "u2", "bob", Role.OPERATOR, frozenset(), "t", None)

    async def start(request_id: str, by: Principal = SYSTEM, **more: Any) -> str:
        request = TriggerRequest(**more)
        return await kernel.write(lambda tx: pipelines.trigger_once(tx, by, pipeline, request, request_id))

    first = await start("r1")
    assert await start("r1") == first
    assert await start("r2") != first
    assert await start("r1", by=other) != first
    assert await start("") != await start("")
    with pytest.raises(RequestReused):
        await start("r1", branch="main")
    kernel = await kernel.restart()
    pipelines = kernel.graph.service(Pipelines)
    assert await start("r1") == first
    kernel.clock.advance(25 * HOUR)
    assert await start("r1") != first
