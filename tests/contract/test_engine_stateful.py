"""The engine under random commands of users, agents and time, against a model that only reads its journal.

The model (``support/stateful``) folds the entries of each run and knows what may follow what; after each command the
tables, the caches and what agents were given must agree with it. ``PILOT_FAULT_ROUNDS`` says how many times as many
examples are tried, each time others; the message of a failure has the commands.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as try_machine

from pilothouse.access.model import SYSTEM, Role
from pilothouse.engine.control import Control
from pilothouse.engine.errors import (
    GateClosed,
    GateNotFound,
    NothingFailed,
    RunActive,
    RunOver,
    RunPaused,
)
from pilothouse.engine.graph import Graph, Step
from pilothouse.engine.step_runs import StepRuns
from pilothouse.fleet.model import TaskStatus, Verdict
from pilothouse.storage import Database
from support.kernel import Clock, Kernel
from support.principals import ADMIN
from support.stateful.fold import BAD, OVER, Told
from support.stateful.graphs import ALWAYS, graphs
from support.stateful.world import SLOTS, Handed, World
from support.status_checks import check_statuses

T = TypeVar("T")

EXAMPLES, COMMANDS = 6, 25
ROUNDS = int(os.environ.get("PILOT_FAULT_ROUNDS", "0"))
MAX_RUNS = 4

picks = st.integers(0, 999)
agents = st.sampled_from(sorted(SLOTS))
ends = st.sampled_from(
    [
        TaskStatus.SUCCEEDED,
        TaskStatus.SUCCEEDED,
        TaskStatus.FAILED,
        TaskStatus.TIMED_OUT,
        TaskStatus.CANCELLED,
    ]
)
users = st.sampled_from(["ada", "olga", "oscar", "uwe"])


class EngineMachine(RuleBasedStateMachine):
    """Commands on one kernel; each ends when the kernel has nothing more to do at this moment."""

    template: Path
    copies = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).copies += 1
        path = self.template.with_name(f"stateful-{self.copies}.db")
        shutil.copyfile(self.template, path)
        self.path, self.loop, self.broken = path, asyncio.new_event_loop(), False
        self.world = World(Kernel(Database(f"sqlite:///{path}"), Clock()))

    def do(self, command: Awaitable[T]) -> T:
        """Run a coroutine to its end."""
        self.broken, whole = True, self.broken
        result = self.loop.run_until_complete(_bounded(command))
        self.broken = whole
        return result

    @property
    def kernel(self) -> Kernel:
        """The server of now."""
        return self.world.kernel

    @initialize(graph=graphs())
    def begin(self, graph: Graph) -> None:
        """Agents, users, and a first run."""
        self.do(self.world.begin())
        self.do(self.kernel.run(graph))

    @invariant()
    def everything_agrees(self) -> None:
        """Whatever has happened."""
        if self.world.users:
            self.check()

    def check(self) -> None:
        """See :meth:`World.check`."""
        self.broken, whole = True, self.broken
        self.world.check()
        self.broken = whole

    def check_streams(self) -> None:
        """Followers of statuses know what there is now."""
        self.broken, whole = True, self.broken
        check_statuses(self.kernel.database, self.kernel.entries())
        self.broken = whole

    def teardown(self) -> None:
        """Everybody does their work: every run ends, and followers of streams have seen it."""
        try:
            if not self.broken:
                self.do(self.world.finish())
                self.check_streams()
        finally:
            self.do(self.kernel.stop())
            self.kernel.database.close()
            self.loop.close()
            for left in self.path.parent.glob(self.path.name + "*"):
                left.unlink()

    def run_at(self, pick: int) -> Told:
        """One of the runs."""
        runs = list(self.world.runs.values())
        return runs[pick % len(runs)]

    def expect(self, told: Told, error: type[Exception] | None, command: Awaitable[T]) -> T | None:
        """Do what must be refused with this error, or accepted."""
        if error is None:
            return self.do(command)
        with pytest.raises(error):
            self.do(command)
        self.broken = False
        return None

    # -- agents -----------------------------------------------------------------------------------------

    def task_at(self, pick: int) -> Handed:
        """One of the tasks that agents hold, or believe to hold."""
        return self.world.tasks[pick % len(self.world.tasks)]

    @precondition(lambda self: self.world.tasks)
    @rule(pick=picks)
    def acknowledge(self, pick: int) -> None:
        """An agent starts its work."""
        task = self.task_at(pick)
        status = self.world.status(task)
        verdict = self.do(self.kernel.ack(self.world.channels[task.agent], task.id))
        if status not in OVER:
            assert verdict is (Verdict.ACCEPTED if status == "queued" else Verdict.REPEATED)

    @precondition(lambda self: self.world.tasks)
    @rule(pick=picks, end=ends)
    def finish(self, pick: int, end: TaskStatus) -> None:
        """An agent reports the end of its work."""
        task = self.task_at(pick)
        before = self.world.status(task)
        verdict = self.do(self.kernel.report(self.world.channels[task.agent], end, task.id))
        task.done = True
        self.check()
        if before not in OVER:
            assert verdict is Verdict.ACCEPTED
        assert self.world.status(task) in OVER
        if before not in OVER and end is TaskStatus.SUCCEEDED:
            assert self.world.status(task) == "succeeded"

    @precondition(lambda self: self.world.tasks)
    @rule()
    def work(self) -> None:
        """Every agent does what it has been given."""
        for task in self.world.tasks:
            channel = self.world.channels[task.agent]
            self.do(self.kernel.ack(channel, task.id))
            self.do(self.kernel.report(channel, task_id=task.id))
            task.done = True
            self.check()

    @precondition(lambda self: self.world.handed)
    @rule(pick=picks, end=ends, agent=agents)
    def report_in_vain(self, pick: int, end: TaskStatus, agent: str) -> None:
        """A report that comes twice, late, or from another agent changes nothing."""
        tasks = list(self.world.handed.values())
        task = tasks[pick % len(tasks)]
        if agent == task.agent and not task.done:
            return
        entries = len(self.kernel.entries())
        verdict = self.do(self.kernel.report(self.world.channels[agent], end, task.id))
        assert verdict in (Verdict.STALE, Verdict.REPEATED)
        assert verdict is Verdict.STALE or agent == task.agent
        assert len(self.kernel.entries()) == entries

    @precondition(lambda self: self.world.tasks)
    @rule(pick=picks)
    def refuse(self, pick: int) -> None:
        """An agent does not want its work."""
        task = self.task_at(pick)
        channel = self.world.channels[task.agent]
        before = self.world.status(task)
        verdict = self.do(
            self.kernel.write(lambda tx: self.kernel.fleet.refused(tx, channel.agent_id, task.id, "no"))
        )
        self.do(self.kernel.pump())
        task.done = True
        assert before in OVER or verdict is Verdict.ACCEPTED

    @rule(name=agents, back=st.booleans(), forgets=st.booleans())
    def lose_agent(self, name: str, back: bool, forgets: bool) -> None:
        """An agent is disconnected, or comes back, perhaps as a new process that holds nothing."""
        if not back and name not in self.world.away:
            self.do(self.world.disconnect(name))
        elif back:
            self.do(self.world.connect(name))
            if forgets:
                self.do(self.kernel.holds(self.world.channels[name], first=True))

    # -- users ------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.runs) < MAX_RUNS)
    @rule(graph=graphs())
    def start(self, graph: Graph) -> None:
        """One run more."""
        self.do(self.kernel.run(graph))

    @precondition(lambda self: self.world.open_gates)
    @rule(pick=picks, name=users, decision=st.sampled_from(["approve", "approve", "reject"]))
    def decide(self, pick: int, name: str, decision: str) -> None:
        """Somebody decides a gate, who may or may not."""
        gates = self.world.open_gates
        told, id = gates[pick % len(gates)]
        attempt = told.attempts[id]
        spec = told.step_spec(attempt.job, attempt.step)
        expired = spec.timeout and self.kernel.clock.now >= attempt.at + spec.timeout * 1000
        error: type[Exception] | None = GateClosed if expired else None
        error = None if error is None and self.world.may_approve(name) else error
        if not self.world.may_approve(name):
            error = GateNotFound
        self.expect(told, error, self.world.decide(told, id, name, decision))
        self.check()
        if error is not None:
            assert attempt.status not in OVER
        elif decision == "reject":
            assert attempt.status == "failed"
        else:
            enough = len(self.world.approvals[id]) >= spec.args["count"]
            assert attempt.status == ("succeeded" if enough else "running")

    @rule(role=st.sampled_from([Role.OPERATOR, Role.USER]))
    def change_role(self, role: Role) -> None:
        """A user loses, or gets, the right to approve."""
        users = self.kernel.identity.users
        self.do(self.kernel.write(lambda tx: users.update(tx, ADMIN, "oscar", role=role)))

    @rule(pick=picks)
    def pause(self, pick: int) -> None:
        """A run is paused."""
        told = self.run_at(pick)
        waits = self.kernel.load(told.run_id).waits_for
        error = RunOver if told.over else RunPaused if told.paused or told.cancelling or waits else None
        self.expect(told, error, self.kernel.pause(told.run_id))

    @precondition(lambda self: any(told.paused for told in self.world.runs.values()))
    @rule(pick=picks)
    def resume(self, pick: int) -> None:
        """A run goes on."""
        told = self.run_at(pick)
        error = RunOver if told.over else None if told.paused else RunPaused
        self.expect(told, error, self.kernel.resume(told.run_id))

    @rule(pick=picks, force=st.booleans())
    def cancel(self, pick: int, force: bool) -> None:
        """A run is cancelled, perhaps by force."""
        told = self.run_at(pick)
        self.expect(told, RunOver if told.over else None, self.kernel.cancel(told.run_id, force=force))

    @precondition(lambda self: len(self.world.runs) < MAX_RUNS)
    @rule(pick=picks, from_failed=st.booleans())
    def rerun(self, pick: int, from_failed: bool) -> None:
        """A run that has ended is run again."""
        told = self.run_at(pick)
        error = NothingFailed if from_failed and told.status == "succeeded" else None
        error = error if told.over else RunActive
        self.expect(told, error, self.kernel.rerun(told.run_id, from_failed=from_failed))

    @precondition(lambda self: any(told.over for told in self.world.runs.values()))
    @rule(pick=picks, which=picks)
    def retry_step(self, pick: int, which: int) -> None:
        """A step is tried again, in a run that has ended or goes on."""
        told = self.run_at(pick)
        step_runs = self.world.step_runs(told)
        if not step_runs:
            return
        id, service = step_runs[which % len(step_runs)], self.kernel.graph.service(StepRuns)
        attempt = told.attempts.get(id)
        ended = attempt is not None and told.jobs[attempt.job].status in OVER
        may = ended and attempt is not None and attempt.status in BAD | {"cancelled"}
        may = may and (told.over or not told.cancelling)
        retried = self.do(self.world.allowed(self.kernel.write(lambda tx: service.retry(tx, ADMIN, id))))
        self.do(self.kernel.pump())
        assert may or retried is None
        if retried is not None:
            self.check()
            assert told.reopened
            self.check_streams()

    @rule(pick=picks, which=picks, what=st.sampled_from(["delete", "cancel", "cancel job", "create"]))
    def change(self, pick: int, which: int, what: str) -> None:
        """A single step or job is deleted, cancelled or added."""
        told = self.run_at(pick)
        step_runs, jobs = self.world.step_runs(told), self.kernel.load(told.run_id).jobs
        if not step_runs:
            return
        id, job = step_runs[which % len(step_runs)], jobs[which % len(jobs)]
        service, control = self.kernel.graph.service(StepRuns), self.kernel.graph.service(Control)
        step = Step(f"more{len(job.steps)}", uses="dummy", when=ALWAYS if which % 2 else "")
        commands = {
            "delete": lambda tx: service.delete(tx, ADMIN, id),
            "cancel": lambda tx: control.cancel_step_run(tx, ADMIN, id, "not this"),
            "cancel job": lambda tx: control.cancel_job(tx, ADMIN, job.id, "not this"),
            "create": lambda tx: service.create(tx, SYSTEM, told.run_id, job.name, step),
        }
        self.do(self.world.allowed(self.kernel.write(commands[what])))
        self.do(self.kernel.pump())
        self.check_streams()

    # -- time and servers -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 20, 45, 70, 310]))
    def wait(self, seconds: int) -> None:
        """Delays and time limits pass."""
        self.do(self.world.wait(seconds))

    @rule(whole=st.sampled_from([False, False, True]))
    def restart(self, whole: bool) -> None:
        """All runs are loaded again, or another server goes on with what is stored."""
        if whole:
            self.do(self.world.restart())
        else:
            self.kernel.drop_kept()


async def _bounded(command: Awaitable[T]) -> T:
    async with asyncio.timeout(60):
        return await command


def test_the_engine_keeps_its_rules(migrated_sqlite: str, tmp_path: Path) -> None:
    """The same examples each time, or many others."""
    template = tmp_path / "template.db"
    shutil.copyfile(migrated_sqlite, template)
    EngineMachine.template = template
    try_machine(
        EngineMachine,
        settings=settings(
            max_examples=EXAMPLES * max(1, ROUNDS),
            stateful_step_count=COMMANDS,
            derandomize=not ROUNDS,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
