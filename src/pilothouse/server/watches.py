"""What a status stream follows: the entries it selects, when it ends, and the current state from the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from pilothouse.access.errors import Refusal
from pilothouse.engine import lookup, status_store
from pilothouse.engine import store as engine_store
from pilothouse.engine.model import Job, Run
from pilothouse.engine.partial import Choose, load_part
from pilothouse.engine.status_store import Part, RunRow
from pilothouse.engine.streams import arcentra_status
from pilothouse.fleet import store as fleet_store
from pilothouse.fleet.registry import agent_keys
from pilothouse.fleet.streams import PRESENCE, present_agent
from pilothouse.journal import Selection
from pilothouse.journal.model import Sees
from pilothouse.journal.protobuf import Matching, ProtoMessage
from pilothouse.pipelines import store as pipeline_store
from pilothouse.wire import entries

MAX_IDS = 1000
"""Maximal number of ids in one request."""

MAX_PRESENT = 10_000
"""Maximal number of messages of the current state at the beginning of a stream."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A stream ends after an entry of this ``type`` for each id of ``going_on``, which is at ``key`` of its body."""

    type: str
    key: str
    going_on: frozenset[str]


@dataclass(frozen=True, slots=True)
class Watch:
    """What one call follows. ``scopes``: scopes that the caller must be allowed to see while the call is open."""

    selection: Selection
    scopes: frozenset[str] = frozenset()
    ending: Ending | None = None
    present: list[ProtoMessage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Selects runs or parts of them: all fields that are not empty must match."""

    run_ids: frozenset[str] = frozenset()
    pipeline_ids: frozenset[str] = frozenset()
    job_ids: frozenset[str] = frozenset()
    job_name: str = ""
    step_run_ids: frozenset[str] = frozenset()

    def fits(self, part: Part, run: RunRow) -> bool:
        """Whether a part of this run matches, judged by its run, pipeline and job."""
        return (
            (not self.run_ids or run.id in self.run_ids)
            and (not self.pipeline_ids or (run.pipeline_id or run.id) in self.pipeline_ids)
            and (not self.job_ids or part.job_id in self.job_ids)
            and (not self.job_name or part.job == self.job_name)
        )

    def wants(self, job: Job) -> bool:
        """Whether this job matches."""
        return (not self.job_ids or job.id in self.job_ids) and self.job_name in ("", job.name)


@dataclass(frozen=True, slots=True)
class View:
    """A kind of status stream: its entry types, and the current state of the selected parts of a run. ``jobs``:
    whether that needs the jobs."""

    types: frozenset[str]
    present: Callable[[Connection, Run, RunFilter], Iterator[ProtoMessage]]
    jobs: bool = True


def _step_runs(conn: Connection, run: Run, asked: RunFilter) -> Iterator[ProtoMessage]:
    jobs = [job for job in run.jobs if asked.wants(job)]
    attempts = engine_store.attempts_of_steps(conn, [step.id for job in jobs for step in job.steps])
    for job in jobs:
        for message in arcentra_status.present_step_runs(run, job, attempts):
            if not asked.step_run_ids or message.step_run_id in asked.step_run_ids:
                yield message


def _jobs(_conn: Connection, run: Run, asked: RunFilter) -> Iterator[ProtoMessage]:
    return (arcentra_status.present_job(run, job) for job in run.jobs if asked.wants(job))


def _runs(_conn: Connection, run: Run, _asked: RunFilter) -> Iterator[ProtoMessage]:
    yield arcentra_status.present_run(run)


STEP_RUNS = View(arcentra_status.STEP_RUN_TYPES, _step_runs)
JOBS = View(arcentra_status.JOB_TYPES, _jobs)
RUNS = View(arcentra_status.RUN_TYPES, _runs, jobs=False)


def watch_runs(conn: Connection, view: View, asked: RunFilter, sees: Sees, *, present: bool) -> Watch:
    """Runs as one view shows them. Raises ``…_NOT_FOUND`` for what does not exist or may not be seen.

    The stream ends when all named parts have ended. Without names it does not end, and its current state is that of
    the active runs, and of the newest run of each named pipeline.
    """
    scopes = _pipeline_scopes(conn, asked.pipeline_ids, sees)
    parts, key, closing = _named(conn, asked, sees)
    values: list[tuple[str, frozenset[str]]] = []
    ending = None
    if parts:
        found = status_store.find_runs(conn, {part.run_id for part in parts})
        scopes = frozenset(entries.project_scope(run.project) for run in found.values())
        going_on = frozenset(part.id for part in parts if not part.status.over)
        ending = Ending(closing, key, going_on)
        values.append((key, frozenset(part.id for part in parts)))
        run_ids = sorted(found)
    else:
        run_ids = _current_runs(conn, asked.pipeline_ids, sees) if present else []
        if asked.pipeline_ids:
            values.append(("pipeline_id", asked.pipeline_ids))
        if asked.job_name:
            values.append(("job", frozenset({asked.job_name})))
    stream = entries.run_stream(run_ids[0]) if parts and len(run_ids) == 1 else None
    types = view.types | {closing} if parts else view.types
    selection = Matching(stream, types=types, values=tuple(values))
    asked = replace(asked, job_ids=frozenset(part.job_id for part in parts if part.job_id))
    places = _places(view, asked, parts)
    return Watch(selection, scopes, ending, _present(conn, view, run_ids, asked, places) if present else [])


def _named(conn: Connection, asked: RunFilter, sees: Sees) -> tuple[list[Part], str, str]:
    """The named parts, the key of their ids, and the entry type that ends one."""
    runs = _visible(conn, asked.run_ids, sees)
    for run_id in sorted(asked.run_ids - runs.keys()):
        raise Refusal.of("RUN_NOT_FOUND", f"No run with ID '{run_id}' exists")
    job_ids = asked.job_ids
    if asked.run_ids and asked.job_name and not job_ids:
        job_ids = frozenset(lookup.jobs_named(conn, asked.run_ids, asked.job_name))
        if not job_ids:
            raise Refusal.of("JOB_NOT_FOUND", f"No job named '{asked.job_name}' is in this run")
    if asked.step_run_ids:
        parts = lookup.find_step_runs(conn, asked.step_run_ids)
        key, closing, what = "step_run_id", entries.ATTEMPT_COMPLETED, "step run"
    elif job_ids:
        parts = lookup.find_jobs(conn, job_ids)
        key, closing, what = "job_id", entries.JOB_COMPLETED, "job"
    else:
        parts = [Part(run.id, run.id, run.status) for run in runs.values()]
        key, closing, what = "run_id", entries.RUN_COMPLETED, "run"
    around = _visible(conn, {part.run_id for part in parts}, sees)
    parts = [part for part in parts if part.run_id in around and asked.fits(part, around[part.run_id])]
    wanted = asked.step_run_ids or job_ids or asked.run_ids
    for missing in sorted(wanted - {part.id for part in parts}):
        code = f"{what.upper().replace(' ', '_')}_NOT_FOUND"
        raise Refusal.of(code, f"No {what} with ID '{missing}' exists")
    return parts, key, closing


def _visible(conn: Connection, run_ids: Collection[str], sees: Sees) -> dict[str, RunRow]:
    found = status_store.find_runs(conn, run_ids) if run_ids else {}
    return {id: run for id, run in found.items() if sees(entries.project_scope(run.project))}


def _pipeline_scopes(conn: Connection, pipeline_ids: Collection[str], sees: Sees) -> frozenset[str]:
    scopes = set()
    for pipeline_id in sorted(pipeline_ids):
        scope = pipeline_scope(conn, pipeline_id)
        if scope is None or not sees(scope):
            raise Refusal.of("PIPELINE_NOT_FOUND", f"No pipeline with ID '{pipeline_id}' exists")
        scopes.add(scope)
    return frozenset(scopes)


def pipeline_scope(conn: Connection, pipeline_id: str) -> str | None:
    """The scope of a pipeline; if it was deleted, that of its newest run; or that of a run without a pipeline."""
    definition = pipeline_store.pipeline(conn, pipeline_id)
    if definition is not None:
        return entries.project_scope(definition.project)
    newest = status_store.newest_runs(conn, [pipeline_id]) or [pipeline_id]
    run = status_store.find_runs(conn, newest).get(newest[0])
    if run is None or (run.pipeline_id or run.id) != pipeline_id:
        return None
    return entries.project_scope(run.project)


def _current_runs(conn: Connection, pipeline_ids: frozenset[str], sees: Sees) -> list[str]:
    alive = [
        run.id
        for run in status_store.alive_runs(conn)
        if sees(entries.project_scope(run.project))
        and (not pipeline_ids or (run.pipeline_id or run.id) in pipeline_ids)
    ]
    newest = status_store.newest_runs(conn, pipeline_ids) if pipeline_ids else []
    return sorted({*alive, *newest, *status_store.find_runs(conn, pipeline_ids)})


def _places(view: View, asked: RunFilter, parts: list[Part]) -> Callable[[str], Choose]:
    """Which jobs and steps of a run are read: those that are shown, since a run may have thousands."""
    named: dict[str, dict[int, set[int] | None]] = {}
    for part in parts:
        if part.at_step >= 0:
            at = named.setdefault(part.run_id, {}).setdefault(part.at_job, set())
            assert at is not None, "all parts are of one kind"
            at.add(part.at_step)
        elif part.at_job >= 0:
            named.setdefault(part.run_id, {})[part.at_job] = None

    def of(run_id: str) -> Choose:
        if not view.jobs:
            return lambda _graph: {}
        if run_id in named:
            return lambda _graph: named[run_id]
        return lambda graph: {
            index: None for index, job in enumerate(graph.jobs) if asked.job_name in ("", job.name)
        }

    return of


def _present(
    conn: Connection, view: View, run_ids: list[str], asked: RunFilter, places: Callable[[str], Choose]
) -> list[ProtoMessage]:
    found: list[ProtoMessage] = []
    for run_id in run_ids:
        run = load_part(conn, run_id, places(run_id))
        assert run is not None, "it was found in this transaction"
        found.extend(view.present(conn, run, asked))
        if len(found) > MAX_PRESENT:
            raise Refusal.of(
                "PAYLOAD_TOO_LARGE",
                f"more than {MAX_PRESENT} match; name less, or begin with pilot-cursor: now",
            )
    return found


def watch_agents(conn: Connection, ids: frozenset[str], *, present: bool) -> Watch:
    """Statuses of some agents, or of all. Raises ``AGENT_NOT_FOUND``."""
    agents = [agent for agent in fleet_store.all_agents(conn) if not ids or agent.agent_id in ids]
    for missing in sorted(ids - {agent.agent_id for agent in agents}):
        raise Refusal.of("AGENT_NOT_FOUND", f"No agent with ID '{missing}' exists")
    stream = entries.agent_stream(next(iter(ids))) if len(ids) == 1 else None
    values = (("agent_id", ids),) if ids else ()
    held = fleet_store.held_by_agent(conn)
    now: list[ProtoMessage] = [
        present_agent(agent_keys(agent, held.get(agent.agent_id, 0)), agent) for agent in agents if present
    ]
    return Watch(Matching(stream, types=PRESENCE, values=values), frozenset({entries.FLEET_SCOPE}), None, now)
