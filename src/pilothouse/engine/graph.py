"""What a run executes: jobs and their steps. Every kind of run compiles to a :class:`Graph`; pure.

Durations are seconds, 0 where there is none. Texts of ``env``, ``args`` and ``when`` may hold expressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OnLost = Literal["fail", "rerun"]
Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]


@dataclass(frozen=True, slots=True)
class LabelExpression:
    """One requirement on a label, as in Kubernetes."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """Which agents may take a step: all labels are equal, and all expressions hold."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelExpression, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """``max_attempts``: tries in all; ``delay``: seconds before each try after the first."""

    max_attempts: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``timeout`` bounds one attempt; ``on_lost`` empty: as the job says.

    ``gate``: what kind of gate it is (``engine/gates``), settled by a service with the ``args``, by no agent; empty
    for work.
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


@dataclass(frozen=True, slots=True)
class Job:
    """Steps that run one after another in one workspace, once the jobs of ``depends_on`` are over."""

    name: str
    steps: tuple[Step, ...] = ()
    depends_on: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    when: str = ""
    timeout: float = 0.0
    queue_timeout: float = 0.0
    retry: Retry | None = None
    on_lost: OnLost = "fail"


@dataclass(frozen=True, slots=True)
class Graph:
    """All jobs of a run. ``variables`` have these values unless the run is given others; ``env`` is of all steps.

    ``image`` and ``namespace`` are passed on to agents and clients; the engine makes nothing of them.
    """

    jobs: tuple[Job, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    namespace: str = ""

    @property
    def size(self) -> int:
        """How many steps it has."""
        return sum(len(job.steps) for job in self.jobs)
