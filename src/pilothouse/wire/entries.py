"""The entry types of the journal and the keys of their bodies.

Bodies are JSON objects that contain everything projections need, so that projections are stateless.

Every entry of a ``run/<id>`` stream carries the run's keys: ``v`` (schema version), ``run_id``, ``kind``,
``name`` (of the pipeline or other definition), ``pipeline_id``, ``project``. Entries of a job add ``job_id``
and ``job``; of a step ``step_id``, ``step``, ``node`` (the step's name on the Stella stream), ``uses``,
``action``, ``index``, and of an attempt ``step_run_id``, ``attempt``. Statuses are those of design.md;
``previous`` is the status before. Times are milliseconds since 1970, durations milliseconds.

=====================  ==================================================================================
type                   further keys
=====================  ==================================================================================
run.created            ``jobs``: ``[{id, name, needs, status, steps: [{id, name, status, step_run_id}]}]``,
                       ``trigger``, ``by``, ``by_id``, ``rerun_of``, ``namespace``, ``counts`` of jobs
run.started            ``previous``, ``namespace``, ``counts``
run.waiting            ``reason``: which run of its concurrency group it waits for; ``namespace``, ``counts``
run.cancelling         ``reason``, ``by``, ``by_id``, ``force``, ``until`` (when cleanup steps are stopped;
                       0: at once), ``namespace``, ``counts``; repeated when a cancel is forced
run.paused             ``by``, ``by_id``, ``namespace``, ``counts``: nothing more of it is started
run.resumed            ``by``, ``by_id``, ``namespace``, ``counts``
run.extended           ``jobs``: the new jobs, then those that have new steps, as in ``run.created``; ``by``,
                       ``by_id``, ``namespace``, ``counts``
run.reopened           ``step`` and ``job``: where an ended job begins again; ``from_step``: index of the first step
                       of it that runs again; ``jobs``: the names of all jobs that run again; ``previous`` status,
                       ``by``, ``by_id``, ``namespace``, ``counts``, ``paused`` (whether the run is)
run.completed          ``status``, ``previous``, ``reason``, ``duration``, ``outputs``, ``namespace``,
                       ``counts``
job.started            ``previous``, ``round``, ``counts`` of steps, ``at_step`` (index of the first
                       that has not ended); of its run ``namespace``, ``run_status``, ``run_counts``
job.waiting            ``reason``: which job of its concurrency group it waits for, and the keys of
                       ``job.started`` except ``previous`` and ``round``
job.restarted          ``round``, ``reason``, ``retry_at`` (0: now), ``from_step`` (index; 1: it was approved), and
                       the keys of ``job.started``: the job starts again from its first step
job.completed          ``status``, ``previous``, ``reason``, ``duration``, and the keys of ``job.started``
step.queued            ``previous``, ``reason``; of its job ``job_status``, ``counts``, ``at_step``. A new
                       attempt: outputs of the previous one are discarded
step.changed           ``fields``: those of its definition that were changed, ``removed``: whether it was deleted;
                       ``by``, ``by_id``
step.waiting           ``reason``: why it is waiting
step.started           ``previous``, ``agent_id`` (empty for a gate), for a gate its kind in ``gate``; of its
                       job ``job_status``, ``counts``, ``at_step``
gate.decided           ``decision`` (``approve`` or ``reject``), ``by``, ``by_id``, ``comment``; the approvals that it
                       ``needed``, ``approved_by`` (whose count now), ``no_longer_counted`` (who lost the right since
                       they approved), and what it ``waits_for`` (empty: it is settled)
step.progressed        ``percent`` (0-100, never decreasing within an attempt), ``message``
step.logged            ``first`` (number of the first line), ``lines``, ``agent_id``; sparse: ``stderr``
                       (indices of lines of standard error), ``levels`` ({index: level}), ``plugin``
step.log_missed        ``message``, ``expected_seq``, ``seq``: a gap in the log of an agent
step.output            ``output``, ``value``
step.artifact          ``artifact_id``, ``artifact`` (its name), ``format``, ``size``, ``sha256``, ``files``,
                       ``expire_at`` (0: with its run), ``agent_id``: an artifact is complete
step.tested            ``report`` (its name), ``tests``, ``passed``, ``failed``, ``errors``, ``skipped``,
                       ``flaky``, ``agent_id``: a report of tests was read
attempt.completed      ``status``, ``previous``, ``exit_code``, ``error``, ``agent_id``, ``duration``,
                       ``metrics`` of its agent, ``final``, ``retry_at``; of its job ``job_status``,
                       ``counts``, ``at_step``
step.completed         ``status``, ``previous``, ``exit_code``, ``error``, ``reason``, ``outputs``,
                       ``duration``; sparse: ``alone`` (a user ended it before it started); of its job
                       ``job_status``, ``counts``, ``at_step``
agent.registered       of stream ``agent/<id>``: ``agent_id``
agent.online           ``agent_id``, ``previous``; ``by``, ``by_id`` if a user ended its draining
agent.offline          ``agent_id``, ``previous``, ``reason``
agent.draining         ``agent_id``, ``previous``, ``by``, ``by_id``
agent.updated          ``agent_id``: its labels or other data have changed
agent.unregistered     ``agent_id``, ``previous``, ``reason``
agent.event            a custom event of an agent: ``event_type``, ``event_id``, ``payload``
trigger.updated        of stream ``trigger/<id>``: ``by``, ``by_id``; it was saved, enabled or disabled
trigger.removed        ``by``, ``by_id``: the saved spec does not have it any more
trigger.fired          ``run_id`` of the run it has started, else the ``reason`` why none; ``cause``: the run
                       whose event it was
notification.sent      of stream ``notification/<id>``: a receiver has accepted it
notification.failed    ``reason``: no further attempt is made
=====================  ==================================================================================

Every entry of a ``notification/<id>`` stream has ``notification_id``, ``run_id``, ``pipeline_id``, ``project``,
``event`` (such as ``run.failed``), ``plugin``, ``target``, ``attempts`` and ``reason``.

Every entry of a ``trigger/<id>`` stream has ``trigger_id``, ``pipeline_id``, ``project``, ``type`` (``cron`` or
``event``) and ``enabled``.

Every entry of an ``agent/<id>`` stream except custom events has the current state of the agent: ``status``,
``name``, ``hostname``, ``ip``, ``platform``, ``labels``, ``slots``, ``busy`` (tasks it holds),
``last_heartbeat``. ``counts`` are ``total``, ``completed``, ``failed`` and ``running``.

Changes of users, projects and tokens are in their own streams (``user/<id>``, …; ``identity/audit.py``).
"""

from __future__ import annotations

VERSION = 1

RUN_CREATED = "run.created"
RUN_STARTED = "run.started"
RUN_WAITING = "run.waiting"
RUN_CANCELLING = "run.cancelling"
RUN_PAUSED = "run.paused"
RUN_RESUMED = "run.resumed"
RUN_EXTENDED = "run.extended"
RUN_REOPENED = "run.reopened"
RUN_COMPLETED = "run.completed"
JOB_STARTED = "job.started"
JOB_WAITING = "job.waiting"
JOB_RESTARTED = "job.restarted"
JOB_COMPLETED = "job.completed"
STEP_QUEUED = "step.queued"
STEP_CHANGED = "step.changed"
STEP_WAITING = "step.waiting"
STEP_STARTED = "step.started"
GATE_DECIDED = "gate.decided"
STEP_PROGRESSED = "step.progressed"
STEP_LOGGED = "step.logged"
STEP_LOG_MISSED = "step.log_missed"
STEP_OUTPUT = "step.output"
STEP_ARTIFACT = "step.artifact"
STEP_TESTED = "step.tested"
ATTEMPT_COMPLETED = "attempt.completed"
STEP_COMPLETED = "step.completed"
TRIGGER_UPDATED = "trigger.updated"
TRIGGER_REMOVED = "trigger.removed"
TRIGGER_FIRED = "trigger.fired"
NOTIFICATION_SENT = "notification.sent"
NOTIFICATION_FAILED = "notification.failed"
AGENT_REGISTERED = "agent.registered"
AGENT_ONLINE = "agent.online"
AGENT_OFFLINE = "agent.offline"
AGENT_DRAINING = "agent.draining"
AGENT_UPDATED = "agent.updated"
AGENT_UNREGISTERED = "agent.unregistered"
AGENT_EVENT = "agent.event"

#: A chunk of log lines has at most this many lines and (about) this many bytes.
CHUNK_LINES = 200
CHUNK_BYTES = 64 << 10


def run_stream(run_id: str) -> str:
    """The stream of a run."""
    return f"run/{run_id}"


def agent_stream(agent_id: str) -> str:
    """The stream of an agent."""
    return f"agent/{agent_id}"


def project_scope(project: str) -> str:
    """Readable by the members of the project (and operators and admins)."""
    return f"project/{project}"


FLEET_SCOPE = "fleet"
"""Readable by every authenticated user."""
