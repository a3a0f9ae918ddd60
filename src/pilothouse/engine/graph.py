"""The graph that a run executes: jobs and their steps. Every kind of run compiles to a :class:`Graph`; pure.

Durations are in seconds, 0 for none. ``env``, ``args``, ``when`` and ``concurrency``
can contain expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OnLost = Literal["fail", "rerun"]
Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]


@dataclass(frozen=True, slots=True)
class LabelExpression:
    """One requirement of a label selector, as in Kubernetes."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """The agents that may run a step: all labels must be equal and all expressions true."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelExpression, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """``max_attempts``: the total number of tries; ``delay``: seconds before each try after the first."""

    max_attempts: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``timeout`` applies to each attempt; ``on_lost`` empty: that of the job.

    ``gate``: the kind of gate (``engine/gates``), which a service settles with the ``args``; empty for steps that
    agents run. ``guards``, of the first step of a job: unless it succeeds no other step of the job runs, whatever
    its condition; once it has succeeded it is not repeated when the job is tried again. ``removed``: it was deleted
    before it was handed out, and is skipped.
    """

    name: str
    uses: str = ""
    action: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    when: str = ""
    timeout: float = 0.0
    selector: Selector | None = None
    retry: Retry | None = None
    on_lost: OnLost | Literal[""] = ""
    continue_on_error: bool = False
    background: bool = False
    gate: str = ""
    guards: bool = False
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A git repository. ``branch`` empty: its default branch; ``secret``: the name of the secret with which it is
    read, and ``username`` what comes before it, if anything."""

    repo: str
    branch: str = ""
    username: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Steps that run one after another in one workspace, when the jobs in ``depends_on`` are over.

    ``source``: the repository whose work tree the workspace is; None: that of the run.
    ``concurrency``: the name of its concurrency group (``concurrency.py``).
    """

    name: str
    steps: tuple[Step, ...] = ()
    depends_on: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    when: str = ""
    timeout: float = 0.0
    queue_timeout: float = 0.0
    retry: Retry | None = None
    on_lost: OnLost = "fail"
    concurrency: str = ""
    source: Source | None = None

    @property
    def guard(self) -> bool:
        """Whether its first step guards it."""
        return bool(self.steps) and self.steps[0].guards


@dataclass(frozen=True, slots=True)
class Graph:
    """All jobs of a run. ``variables``: default values, which a run can override; ``env`` applies to all steps.

    ``image`` and ``namespace`` are passed to agents and clients; the engine does not use them. ``concurrency``: the
    name of the run's concurrency group; ``cancel_in_progress``: a new run cancels the one that is running.
    ``notify``: the notifications of the run, JSON objects of the domain that has made the graph; the engine only
    checks that the secret is there which ``params.secret`` names.
    """

    jobs: tuple[Job, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    namespace: str = ""
    concurrency: str = ""
    cancel_in_progress: bool = False
    notify: tuple[Mapping[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """The number of steps."""
        return sum(len(job.steps) for job in self.jobs)

    @property
    def grouped(self) -> bool:
        """Whether the run or a job of it is in a concurrency group."""
        return bool(self.concurrency) or any(job.concurrency for job in self.jobs)
