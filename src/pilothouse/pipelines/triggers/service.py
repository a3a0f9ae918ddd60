"""The use cases of triggers: they follow the saved spec, are enabled and disabled, and fire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from sqlalchemy import Connection
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.access.model import Principal
from pilothouse.engine.model import Run
from pilothouse.engine.store import run_row
from pilothouse.identity.service import Identity
from pilothouse.journal import Journal
from pilothouse.journal.store import next_offset
from pilothouse.pipelines.errors import TriggerNotFound
from pilothouse.pipelines.model import Pipeline
from pilothouse.pipelines.spec.schedule import Due
from pilothouse.pipelines.triggers import store
from pilothouse.pipelines.triggers.model import (
    CRON,
    KINDS,
    LIMIT_WINDOW,
    MAX_CHAIN,
    MAX_FIRES,
    Fire,
    RunEvent,
    Trigger,
    Wanted,
    paired,
)
from pilothouse.storage import Tx
from pilothouse.wire import entries
from pilothouse.wire.times import rfc3339_ms

Start = Callable[[Tx, Principal, Trigger, str, Mapping[str, Any]], Run]
"""Starts a run of the trigger's pipeline: with the rights of the principal, the word for what triggered it, and the
origin of the run (``branch``, ``commit_sha``, ``tag``, ``depth``)."""


class ReadyRun(Protocol):
    """A run whose spec and work tree were fetched before the transaction."""

    def start_triggered(
        self, tx: Tx, by: Principal, variables: dict[str, str], word: str, depth: int
    ) -> Run: ...


class Triggers:
    """The cron and event triggers of saved specs. Every method is a use case in one transaction."""

    def __init__(self, identity: Identity, journal: Journal, start: Start) -> None:
        self._identity = identity
        self._journal = journal
        self._start = start

    # -- following the spec -----------------------------------------------------------------------------

    def follow(
        self, tx: Tx, by: Principal, pipeline: Pipeline, triggers: Iterable[Mapping[str, Any]]
    ) -> None:
        """Make the stored triggers those of the spec that ``by`` has saved; from now on they have their rights."""
        wanted = [
            Wanted(one["type"], one.get("name", ""), one.get("options", {}))
            for one in triggers
            if one["type"] in KINDS
        ]
        stored = store.triggers_of(tx.conn, pipeline.id)
        pairs = paired(wanted, stored)
        kept = {one.id for one in pairs if one is not None}
        for gone in stored:
            if gone.id not in kept:
                store.delete_trigger(tx.conn, gone.id)
                self._tell(tx, gone, entries.TRIGGER_REMOVED, by=by.name, by_id=by.id)
        for position, (one, known) in enumerate(zip(wanted, pairs, strict=True)):
            if known is None:
                self._add(tx, by, pipeline, position, one)
            else:
                self._adopt(tx, by, known, position, one)

    def _add(self, tx: Tx, by: Principal, pipeline: Pipeline, position: int, one: Wanted) -> None:
        made = Trigger(
            id=str(uuid7()),
            pipeline_id=pipeline.id,
            project=pipeline.project,
            position=position,
            name=one.name,
            type=one.type,
            options=one.options,
            enabled=True,
            by=by.name,
            by_id=by.id,
            created_at=tx.now,
        )
        self._wind(tx, made)
        store.insert_trigger(tx.conn, made)
        self._tell(tx, made, entries.TRIGGER_UPDATED, by=by.name, by_id=by.id)

    def _adopt(self, tx: Tx, by: Principal, known: Trigger, position: int, one: Wanted) -> None:
        changed = dict(known.options) != dict(one.options)
        known.position, known.options, known.by, known.by_id = position, one.options, by.name, by.id
        if changed and known.enabled:
            self._wind(tx, known)
        store.save_trigger(tx.conn, known)
        if changed:
            self._tell(tx, known, entries.TRIGGER_UPDATED, by=by.name, by_id=by.id)

    def forget(self, tx: Tx, by: Principal, pipeline_id: str) -> None:
        """The pipeline is deleted."""
        for one in store.triggers_of(tx.conn, pipeline_id):
            store.delete_trigger(tx.conn, one.id)
            self._tell(tx, one, entries.TRIGGER_REMOVED, by=by.name, by_id=by.id)

    # -- enabling ---------------------------------------------------------------------------------------

    def switch(self, tx: Tx, by: Principal, trigger_id: str, *, enabled: bool) -> Trigger:
        """Enable a trigger, from now on with the rights of ``by``, or disable it.

        Ticks and events of the time in which it is disabled are not made up for.
        """
        trigger = require_trigger(tx.conn, trigger_id)
        if enabled:
            trigger.by, trigger.by_id, trigger.reason = by.name, by.id, ""
        if enabled and not trigger.enabled:
            self._wind(tx, trigger)
        if not enabled:
            trigger.next_at = 0
        trigger.enabled = enabled
        store.save_trigger(tx.conn, trigger)
        self._tell(tx, trigger, entries.TRIGGER_UPDATED, by=by.name, by_id=by.id)
        self._identity.audit(tx, by, "trigger.enable" if enabled else "trigger.disable", trigger_id)
        return trigger

    def _wind(self, tx: Tx, trigger: Trigger) -> None:
        """Begin anew: with the next tick, or the next entry."""
        if trigger.type == CRON:
            trigger.next_at = trigger.schedule.next(tx.now)
        else:
            trigger.seen = next_offset(tx.conn)

    # -- firing -----------------------------------------------------------------------------------------

    def run_now(self, tx: Tx, by: Principal, trigger_id: str, ready: ReadyRun | None = None) -> Run:
        """Start a run as the trigger would, with the rights of ``by``; it counts as started by hand."""
        trigger = require_trigger(tx.conn, trigger_id)
        if ready is not None:
            return ready.start_triggered(tx, by, trigger.variables, "manual", 0)
        return self._start(tx, by, trigger, "manual", {})

    def tick(
        self, tx: Tx, trigger_id: str, expected: int, due: Due, ready: ReadyRun | Refusal | None = None
    ) -> Run | None:
        """Start the run of a tick, and move on to the next. Nothing happens if ``expected`` was done already, by
        another server or in another round.

        ``ready``: the run of a pipeline in a git repository, or why there is none.
        """
        trigger = store.find_trigger(tx.conn, trigger_id)
        if trigger is None or not trigger.enabled or trigger.next_at != expected:
            return None
        trigger.next_at = due.next
        if due.missed:
            last = due.tick or due.next
            self._record(
                tx,
                trigger,
                Fire(
                    trigger.id,
                    trigger.fired + 1,
                    tx.now,
                    due_at=due.missed,
                    reason=f"missed: the server did not start what was due from {rfc3339_ms(due.missed)} on"
                    + (f", before {rfc3339_ms(last)}" if last else ""),
                ),
            )
        if not due.tick:
            store.save_trigger(tx.conn, trigger)
            return None
        run, reason = self._try(tx, trigger, {}, ready)
        fire = Fire(
            trigger.id,
            trigger.fired + 1,
            tx.now,
            due_at=due.tick,
            run_id=run.id if run else "",
            reason=reason,
        )
        self._record(tx, trigger, fire)
        return run

    def react(
        self, tx: Tx, trigger_id: str, event: RunEvent, ready: ReadyRun | Refusal | None = None
    ) -> Run | None:
        """Start the run of an event, once for each event. ``ready``: as for :meth:`tick`."""
        trigger = store.find_trigger(tx.conn, trigger_id)
        if trigger is None or not trigger.enabled or event.offset < trigger.seen:
            return None
        trigger.seen = event.offset + 1
        if self._too_often(tx, trigger):
            trigger.reason = (
                f"it has fired {MAX_FIRES} times within 10 minutes, which is the most; others were skipped"
            )
            store.save_trigger(tx.conn, trigger)
            return None
        run, reason = self._try_for(tx, trigger, event, ready)
        fire = Fire(
            trigger.id,
            trigger.fired + 1,
            tx.now,
            cause=event.run_id,
            run_id=run.id if run else "",
            reason=reason,
        )
        self._record(tx, trigger, fire)
        return run

    def _too_often(self, tx: Tx, trigger: Trigger) -> bool:
        at = store.fire_time(tx.conn, trigger.id, trigger.fired - MAX_FIRES + 1)
        return bool(at) and at > tx.now - LIMIT_WINDOW

    def _try_for(
        self, tx: Tx, trigger: Trigger, event: RunEvent, ready: ReadyRun | Refusal | None
    ) -> tuple[Run | None, str]:
        row = run_row(tx.conn, event.run_id)
        if row is None:
            return self._try(tx, trigger, {}, ready)
        if row.depth >= MAX_CHAIN:
            return (
                None,
                f"run {event.run_id} is {MAX_CHAIN} runs away from the one that began it: the most allowed",
            )
        origin = {name: getattr(row, name) for name in ("branch", "commit_sha", "tag")}
        return self._try(tx, trigger, {**origin, "depth": row.depth + 1}, ready)

    def _try(
        self, tx: Tx, trigger: Trigger, origin: Mapping[str, Any], ready: ReadyRun | Refusal | None
    ) -> tuple[Run | None, str]:
        """The started run, or why there is none."""
        by = self.owner(tx.conn, trigger)
        if by is None or not by.may("run.trigger", trigger.project):
            return None, (
                f"{trigger.by}, whose rights it has, may not start runs of this project: "
                "whoever may enables the trigger"
            )
        if isinstance(ready, Refusal):
            return None, ready.message
        try:
            if ready is not None:
                depth = int(origin.get("depth", 0))
                return ready.start_triggered(tx, by, trigger.variables, trigger.type, depth), ""
            return self._start(tx, by, trigger, trigger.type, origin), ""
        except Refusal as refusal:
            return None, refusal.message

    def owner(self, conn: Connection, trigger: Trigger) -> Principal | None:
        """The user whose rights the trigger has; ``None`` if they are gone."""
        return self._identity.principal_of(conn, trigger.by_id)

    def _record(self, tx: Tx, trigger: Trigger, fire: Fire) -> None:
        trigger.fired, trigger.last_at, trigger.reason = fire.number, fire.at, fire.reason
        trigger.last_run = fire.run_id or trigger.last_run
        store.save_trigger(tx.conn, trigger)
        store.add_fire(tx.conn, fire)
        self._tell(
            tx, trigger, entries.TRIGGER_FIRED, run_id=fire.run_id, reason=fire.reason, cause=fire.cause
        )

    def _tell(self, tx: Tx, trigger: Trigger, type: str, **more: Any) -> None:
        body = {
            "v": entries.VERSION,
            "trigger_id": trigger.id,
            "pipeline_id": trigger.pipeline_id,
            "project": trigger.project,
            "type": trigger.type,
            "enabled": trigger.enabled,
            **more,
        }
        scope = entries.project_scope(trigger.project)
        self._journal.append(tx, f"trigger/{trigger.id}", type, scope, body)


def require_trigger(conn: Connection, trigger_id: str) -> Trigger:
    """The trigger, or :class:`TriggerNotFound`."""
    trigger = store.find_trigger(conn, trigger_id)
    if trigger is None:
        raise TriggerNotFound(trigger_id)
    return trigger
