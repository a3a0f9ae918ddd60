"""Concurrency groups: at most one run, or one job, of a group goes on at a time, and at most one waits for it.

As in GitHub Actions: what is newer replaces an older one that still waits, which ends ``cancelled``. Groups belong to
a project; those of runs and those of jobs are apart. Everything is decided in the transaction of the change, from the
table of members, so that it survives a restart and holds for all servers of a database.
"""

from __future__ import annotations

from pilothouse.engine import member_store, store, waiting_store
from pilothouse.engine.contexts import run_root
from pilothouse.engine.errors import GroupInvalid, NotRetryable
from pilothouse.engine.member_store import JOB, RUN, Member
from pilothouse.engine.model import Job, Run, Status
from pilothouse.engine.runs import RunCache
from pilothouse.engine.standing import job_standing, run_standing
from pilothouse.engine.transitions import Transitions
from pilothouse.expressions import ExpressionError, render
from pilothouse.expressions.values import insert_text
from pilothouse.storage import Tx
from pilothouse.wire import entries

MAX_NAME = 200


class Groups:
    """Who may go on. Called by the transitions for runs and jobs that have a group, by nobody for others."""

    def __init__(self, runs: RunCache, transitions: Transitions) -> None:
        self._runs = runs
        self._transitions = transitions
        self._records = transitions.records

    # -- runs -------------------------------------------------------------------------------------------

    def check_run(self, tx: Tx, run: Run) -> str:
        """The name of a new run's group. Raises :class:`GroupInvalid`, also where the run would wait for itself."""
        name = group_name(run, run.graph.concurrency)
        if run.parent_gate:
            above, _ = waiting_store.ancestors(tx.conn, run)
            holder, _ = self._members(tx, run.project, RUN, name)
            if holder is not None and waiting_store.leads_to(tx.conn, holder.id, above):
                raise GroupInvalid(f"run {holder.id} holds concurrency group {name}, and waits for this run")
        return name

    def enter_run(self, tx: Tx, run: Run, name: str) -> None:
        """Let a run in, or make it wait. :meth:`Transitions.settle` must follow."""
        holder, older = self._members(tx, run.project, RUN, name)
        waits_for = holder.id if holder else ""
        member_store.add_member(tx.conn, Member(run.id, RUN, run.project, name, run.id, waits_for, tx.now))
        if holder is None:
            return
        run.waits_for, run.reason = holder.id, f"waits for run {holder.id} of concurrency group {name}"
        store.save(tx.conn, run)
        self._records.append(tx, run, entries.RUN_WAITING, reason=run.reason, **run_standing(run))
        if older is not None:
            member_store.remove_member(tx.conn, older.id)
            self._cancel(tx, older.id, run, f"replaced by run {run.id} of concurrency group {name}")
        if run.graph.cancel_in_progress:
            self._cancel(tx, holder.id, run, f"run {run.id} of concurrency group {name} is newer")

    def reenter_run(self, tx: Tx, run: Run) -> None:
        """An ended run is about to be opened again. Raises :class:`NotRetryable` while another has its group."""
        name = group_name(run, run.graph.concurrency)
        holder, _ = self._members(tx, run.project, RUN, name)
        if holder is not None:
            raise NotRetryable(f"run {holder.id} holds concurrency group {name}")
        member_store.add_member(tx.conn, Member(run.id, RUN, run.project, name, run.id, "", tx.now))

    def _cancel(self, tx: Tx, run_id: str, newer: Run, reason: str) -> None:
        run = self._runs.get(tx, run_id)
        if not run.cancelling:
            by, by_id = newer.triggered_by, newer.triggered_by_id
            self._transitions.cancel(tx, run, reason, force=False, by=by, by_id=by_id)
            self._transitions.settle(tx, run)

    def leave_run(self, tx: Tx, run: Run) -> None:
        """The run has ended."""
        run.waits_for = ""
        following = self._leave(tx, run.id)
        if following is None:
            return
        waiting = self._runs.get(tx, following.id)
        waiting.waits_for, waiting.reason = "", ""
        store.save(tx.conn, waiting)
        self._transitions.settle(tx, waiting)

    # -- jobs -------------------------------------------------------------------------------------------

    def enter_job(self, tx: Tx, run: Run, job: Job) -> bool:
        """Whether the job may start; otherwise it waits from now on. Raises :class:`GroupInvalid`."""
        known = member_store.find_member(tx.conn, job.id)
        if known is not None:
            return not known.waits_for
        name = group_name(run, job.spec.concurrency)
        holder, older = self._members(tx, run.project, JOB, name)
        if holder is not None and run.parent_gate:
            _, within = waiting_store.ancestors(tx.conn, run)
            if holder.id in within:
                raise GroupInvalid(f"job {holder.id} holds concurrency group {name}, and waits for this run")
        waits_for = holder.id if holder else ""
        member_store.add_member(tx.conn, Member(job.id, JOB, run.project, name, run.id, waits_for, tx.now))
        if holder is None:
            return True
        job.waits_for = holder.id
        job.reason = f"waits for job {holder.id} of run {holder.run_id}, concurrency group {name}"
        store.save_part(tx.conn, run.id, job)
        self._records.append(tx, run, entries.JOB_WAITING, job, reason=job.reason, **job_standing(run, job))
        if older is not None:
            self._replace_job(
                tx, run, older, f"replaced by job {job.id} of run {run.id}, concurrency group {name}"
            )
        return False

    def _replace_job(self, tx: Tx, newer: Run, older: Member, reason: str) -> None:
        run = newer if older.run_id == newer.id else self._runs.get(tx, older.run_id)
        job = next(job for job in run.jobs if job.id == older.id)
        member_store.remove_member(tx.conn, older.id)
        job.waits_for, job.reason, job.stopping = "", reason, Status.CANCELLED.value
        store.save_part(tx.conn, run.id, job)
        self._go_on(tx, newer, run, job)

    def _go_on(self, tx: Tx, current: Run, run: Run, job: Job) -> None:
        """Plan a job; ``current``: the run that is just being settled."""
        if run is current:
            run.agenda.setdefault(job.index, job)
        else:
            self._transitions.settle(tx, run, job)

    def leave_job(self, tx: Tx, run: Run, job: Job) -> None:
        """The job has ended."""
        job.waits_for = ""
        following = self._leave(tx, job.id)
        if following is None:
            return
        other = run if following.run_id == run.id else self._runs.get(tx, following.run_id)
        waiting = next(job for job in other.jobs if job.id == following.id)
        waiting.waits_for, waiting.reason = "", ""
        store.save_part(tx.conn, other.id, waiting)
        self._go_on(tx, run, other, waiting)

    # -- internal ---------------------------------------------------------------------------------------

    def _members(self, tx: Tx, project: str, kind: str, name: str) -> tuple[Member | None, Member | None]:
        """The one that holds the group, and the one that waits."""
        found = member_store.members_of(tx.conn, project, kind, name)
        holder = next((one for one in found if not one.waits_for), None)
        return holder, next((one for one in found if one.waits_for), None)

    def _leave(self, tx: Tx, id: str) -> Member | None:
        """Remove a member; returns the one that holds its group from now on, if it was the one before."""
        left = member_store.find_member(tx.conn, id)
        if left is None:
            return None
        member_store.remove_member(tx.conn, id)
        _, waiting = self._members(tx, left.project, left.kind, left.group_name)
        if left.waits_for or waiting is None:
            return None
        member_store.hold(tx.conn, waiting.id)
        return waiting


def group_name(run: Run, template: str) -> str:
    """The name of a group, with its expressions evaluated. Raises :class:`GroupInvalid`."""
    context = {"variables": run.variables, "run": run_root(run)}
    try:
        name = insert_text(render(template, context)).strip()
    except ExpressionError as error:
        raise GroupInvalid(f"concurrency: {error.message}") from error
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise GroupInvalid(f"concurrency: the group's name is not 1 to {MAX_NAME} printable characters")
    return name
