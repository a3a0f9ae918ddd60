"""The journal's vocabulary: every type of entry and what its body holds.

Bodies are JSON objects. A body holds all that any projection may need, so that projections stay stateless.

Every entry of a ``run/<id>`` stream carries the run's keys: ``v`` (schema version), ``run_id``, ``kind``,
``name`` (of the pipeline or other definition), ``pipeline_id``, ``project``. Entries of a job add ``job_id``
and ``job``; of a step ``step_id``, ``step``, ``node`` (the step's name on the Stella stream), ``uses``,
``action``, ``index``, and ``step_run_id``, ``attempt`` where an attempt is concerned. Statuses are the words
of design.md; ``previous`` is the status before. Times are milliseconds since 1970, durations milliseconds.

=====================  ==================================================================================
type                   further keys
=====================  ==================================================================================
run.created            ``jobs``: ``[{id, name, needs, status, steps: [{id, name, status}]}]``,
                       ``trigger``, ``by``, ``by_id``, ``rerun_of``, ``namespace``, ``counts`` of jobs
run.started            ``previous``, ``namespace``, ``counts``
run.cancelling         ``reason``, ``by``, ``by_id``, ``force``, ``until`` (when what cleans up is cut off;
                       0: at once), ``namespace``, ``counts``; again when a cancel is forced
run.completed          ``status``, ``previous``, ``reason``, ``duration``, ``outputs``, ``namespace``,
                       ``counts``
job.started            ``previous``, ``round``, ``counts`` of steps, ``at_step`` (the index of the first
                       that is not over); of its run ``namespace``, ``run_status``, ``run_counts``
job.restarted          ``round``, ``reason``, ``retry_at`` (0: now), and how it and its run stand, as in
                       ``job.started``: the job begins again from its first step
job.completed          ``status``, ``previous``, ``reason``, ``duration``, and the same
step.queued            ``previous``, ``reason``; of its job ``job_status``, ``counts``, ``at_step``. A new
                       attempt begins: outputs of the one before are gone
step.waiting           ``reason``: why it still waits
step.started           ``previous``, ``agent_id``; of its job ``job_status``, ``counts``, ``at_step``
step.progressed        ``percent`` (0-100, never falling within an attempt), ``message``
step.logged            ``first`` (number of the first line), ``lines``, ``agent_id``; sparse: ``stderr``
                       (indices of lines of standard error), ``levels`` ({index: level}), ``plugin``
step.log_missed        ``message``, ``expected_seq``, ``seq``: a gap in what an agent sent
step.output            ``output``, ``value``
attempt.completed      ``status``, ``previous``, ``exit_code``, ``error``, ``agent_id``, ``duration``,
                       ``metrics`` of its agent, ``final``, ``retry_at``; of its job ``job_status``,
                       ``counts``, ``at_step``
step.completed         ``status``, ``previous``, ``exit_code``, ``error``, ``reason``, ``outputs``,
                       ``duration``; of its job ``job_status``, ``counts``, ``at_step``
agent.registered       of stream ``agent/<id>``: ``agent_id``
agent.online           ``agent_id``, ``previous``; ``by``, ``by_id`` if somebody has ended its draining
agent.offline          ``agent_id``, ``previous``, ``reason``
agent.draining         ``agent_id``, ``previous``, ``by``, ``by_id``
agent.updated          ``agent_id``: it says something else of itself
agent.unregistered     ``agent_id``, ``previous``, ``reason``
agent.event            an event of an agent's own: ``event_type``, ``event_id``, ``payload``
=====================  ==================================================================================

Every entry of an ``agent/<id>`` stream but the agent's own events says what the agent is now: ``status``,
``name``, ``hostname``, ``ip``, ``platform``, ``labels``, ``slots``, ``busy`` (tasks it holds),
``last_heartbeat``. ``counts`` are ``total``, ``completed``, ``failed`` and ``running``.

Identity tells of users, projects and tokens in streams of their own (``user/<id>``, …; ``identity/audit.py``).
"""

from __future__ import annotations

VERSION = 1

RUN_CREATED = "run.created"
RUN_STARTED = "run.started"
RUN_CANCELLING = "run.cancelling"
RUN_COMPLETED = "run.completed"
JOB_STARTED = "job.started"
JOB_RESTARTED = "job.restarted"
JOB_COMPLETED = "job.completed"
STEP_QUEUED = "step.queued"
STEP_WAITING = "step.waiting"
STEP_STARTED = "step.started"
STEP_PROGRESSED = "step.progressed"
STEP_LOGGED = "step.logged"
STEP_LOG_MISSED = "step.log_missed"
STEP_OUTPUT = "step.output"
ATTEMPT_COMPLETED = "attempt.completed"
STEP_COMPLETED = "step.completed"
AGENT_REGISTERED = "agent.registered"
AGENT_ONLINE = "agent.online"
AGENT_OFFLINE = "agent.offline"
AGENT_DRAINING = "agent.draining"
AGENT_UPDATED = "agent.updated"
AGENT_UNREGISTERED = "agent.unregistered"
AGENT_EVENT = "agent.event"

#: A chunk of log lines holds at most this many lines and (about) this many bytes.
CHUNK_LINES = 200
CHUNK_BYTES = 64 << 10


def run_stream(run_id: str) -> str:
    """The stream of everything that happens in a run."""
    return f"run/{run_id}"


def agent_stream(agent_id: str) -> str:
    """The stream of an agent's comings and goings."""
    return f"agent/{agent_id}"


def project_scope(project: str) -> str:
    """Readable by the members of the project (and operators and admins)."""
    return f"project/{project}"


FLEET_SCOPE = "fleet"
"""Readable by every signed-in user."""
