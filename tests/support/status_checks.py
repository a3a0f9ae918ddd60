"""What the streams of statuses told of all runs must be what happened to them, and end where they stand now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pilothouse.engine import store as engine_store
from pilothouse.engine.module import EVENTS as RUN_EVENTS
from pilothouse.engine.streams import arcentra_status as statuses
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.module import EVENTS as AGENT_EVENTS
from pilothouse.fleet.registry import agent_keys
from pilothouse.fleet.streams import agent_status, present_agent
from pilothouse.journal import Entry
from pilothouse.server.system_events import SystemEvent
from pilothouse.storage import Database
from pilothouse.wire import entries

Key = Callable[[Any], str]
NOT_OF_NOW = ("previous_status", "timestamp", "metrics", "last_heartbeat", "running_step_runs_count")
"""Fields a snapshot message lacks or that refer to another time."""

PUBLIC_EVENTS = {**AGENT_EVENTS, **RUN_EVENTS}
"""Entry types that are public events."""

PENDING = 1


def check_statuses(database: Database, journal: list[Entry]) -> None:
    """Project all entries, and compare with the present."""
    with database.read() as conn:
        created = [e.body["run_id"] for e in journal if e.type == entries.RUN_CREATED]  # else it is pruned
        every = [run for run_id in created if (run := engine_store.load_run(conn, run_id)) is not None]
        agents, held = fleet_store.all_agents(conn), fleet_store.held_by_agent(conn)
        attempts = {
            run.id: engine_store.attempts_of_steps(conn, [s.id for j in run.jobs for s in j.steps])
            for run in every
        }
    steps = [
        m for run in every for job in run.jobs for m in statuses.present_step_runs(run, job, attempts[run.id])
    ]
    jobs = [statuses.present_job(run, job) for run in every for job in run.jobs if not job.kept_from]
    begun = [
        m for m in steps if m.step_run_id and m.status != PENDING
    ]  # none indicates a step run in the future
    _check(journal, statuses.step_run_status, lambda m: m.step_run_id, begun)
    _check(journal, statuses.job_status, lambda m: m.job_id, [m for m in jobs if m.state != "pending"])
    _check(journal, statuses.run_status, lambda m: m.run_id, map(statuses.present_run, every))
    here = [present_agent(agent_keys(agent, held.get(agent.agent_id, 0)), agent) for agent in agents]
    _check(journal, agent_status, lambda m: m.agent_id, here)
    events = list(filter(None, map(SystemEvent("00000000", PUBLIC_EVENTS), journal)))
    assert all(event.type and event.title for event in events)


def _check(
    journal: list[Entry],
    build: Callable[[Entry], Any],
    key: Key,
    present: Iterable[Any],
) -> None:
    last: dict[str, Any] = {}
    extended: set[str] = set()
    for entry in journal:
        message = build(entry)
        if entry.type == entries.RUN_EXTENDED:  # the job's next message has the new total
            extended |= {job["id"] for job in entry.body["jobs"]}
        elif message is not None:
            extended.discard(key(message))
        if message is None:
            continue
        before = last.get(key(message))
        if before is not None and key(message) and not _says_more(message):
            assert message.previous_status == before.status, (before, message)
        last[key(message)] = message
    for now in present:
        if build is statuses.job_status and key(now) in extended:
            continue
        told = last[key(now)]
        # The reason of a job that is being cancelled is told with its end.
        ending = build is statuses.job_status and now.state == "running"
        passing = ("reason",) if hasattr(now, "reason") and (ending or not now.reason) else ()
        for message in (told, now):
            for name in (*NOT_OF_NOW, *passing):
                if name in message.DESCRIPTOR.fields_by_name:
                    message.ClearField(name)
        assert told == now, f"{told}\n---\n{now}"


def _says_more(message: Any) -> bool:
    """A change of an agent's reported properties or a new registration is no change of presence."""
    return message.DESCRIPTOR.name == "StreamAgentStatusResponse" and not message.previous_status
