"""What a pipeline's spec says: ``pipeline.v1.Spec`` in arcentra-wire.txt, with onLost and Step.retry of ours.

Every type mirrors one message; "" and empty maps are what was not given. Durations are canonical texts
(``1h30m``), with their seconds beside them. Struct fields hold JSON values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pilothouse.engine.graph import LabelExpression, OnLost
from pilothouse.engine.graph import Selector as AgentSelector
from pilothouse.wire.durations import parse_duration

__all__ = [
    "AgentSelector",
    "Approval",
    "CheckoutOptions",
    "Concurrency",
    "Job",
    "LabelExpression",
    "Notify",
    "NotifyItem",
    "OnLost",
    "Resources",
    "Retry",
    "Runtime",
    "Source",
    "SourceAuth",
    "Spec",
    "Step",
    "Target",
    "Trigger",
]


@dataclass(frozen=True, slots=True)
class Resources:
    cpu_request: str = ""
    cpu_limit: str = ""
    memory_request: str = ""
    memory_limit: str = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    type: str = ""
    image: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trigger:
    """``options``: in canonical form, camelCase and without what was not given (``triggers.py``)."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """``group`` may hold expressions."""

    group: str
    cancel_in_progress: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """``max_attempts``: tries in all, 1 to 100; ``delay``: before each try after the first."""

    max_attempts: int
    delay: str = ""

    @property
    def delay_seconds(self) -> float:
        return parse_duration(self.delay).seconds if self.delay else 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """``on_lost`` empty: as the job says; ``action`` is filled in where only one fits."""

    name: str
    uses: str
    action: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    continue_on_error: bool = False
    timeout: str = ""
    when: str = ""
    agent_selector: AgentSelector | None = None
    run_on_agent: bool = False
    on_lost: OnLost | Literal[""] = ""
    retry: Retry | None = None
    background: bool = False

    @property
    def timeout_seconds(self) -> float:
        """0.0 where there is none."""
        return parse_duration(self.timeout).seconds if self.timeout else 0.0


@dataclass(frozen=True, slots=True)
class SourceAuth:
    username: str = ""
    password: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    type: str = ""
    repo: str = ""
    branch: str = ""
    auth: SourceAuth | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    required: bool = False
    type: str = ""
    plugin: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    type: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotifyItem:
    """``params``: in canonical form, as of the message of its plugin (``notifications.py``)."""

    plugin: str = ""
    action: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notify:
    on_success: NotifyItem | None = None
    on_failure: NotifyItem | None = None


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    description: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    concurrency: str = ""
    timeout: str = ""
    retry: Retry | None = None
    when: str = ""
    source: Source | None = None
    approval: Approval | None = None
    steps: tuple[Step, ...] = ()
    target: Target | None = None
    notify: Notify | None = None
    triggers: tuple[Trigger, ...] = ()
    depends_on: tuple[str, ...] = ()
    on_lost: OnLost = "fail"
    queue_timeout: str = ""

    @property
    def timeout_seconds(self) -> float:
        """0.0 where there is none."""
        return parse_duration(self.timeout).seconds if self.timeout else 0.0

    @property
    def queue_timeout_seconds(self) -> float:
        """0.0 where there is none."""
        return parse_duration(self.queue_timeout).seconds if self.queue_timeout else 0.0


@dataclass(frozen=True, slots=True)
class CheckoutOptions:
    """How much of the repository a run's work tree has; ``depth`` counts commits, 0 is all."""

    depth: int = 1
    tags: bool = False
    submodules: bool = False
    lfs: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    jobs: tuple[Job, ...]
    namespace: str = ""
    version: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    runtime: Runtime = field(default_factory=Runtime)
    meta: Mapping[str, Any] = field(default_factory=dict)
    triggers: tuple[Trigger, ...] = ()
    checkout: CheckoutOptions = field(default_factory=CheckoutOptions)
    concurrency: Concurrency | None = None
    notify: Notify | None = None
