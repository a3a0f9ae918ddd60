"""The payload of tasks of the engine's kinds: a step attempt for the agent that runs it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CheckoutPack:
    """A git pack: URL, digest and size, and the object cache that it belongs to."""

    url: str
    sha256: str
    size: int
    repository: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """A source tree that the agent lays out in the workspace: URL, digest and size.

    With ``packs`` it is a git work tree (docs/checkout.md).
    """

    url: str
    sha256: str
    size: int
    packs: tuple[CheckoutPack, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPayload:
    """A step attempt with all values inserted into ``args`` and ``env``, which may contain secrets.

    ``index``: the step's position in its job; ``attempt`` counts from 1. ``fresh_workspace``: the workspace starts
    empty; ``last_in_job``: the workspace is not needed after this attempt if it succeeds. ``branch`` to ``event``:
    the origin of the run.
    """

    run_id: str
    pipeline_id: str
    job_id: str
    job_name: str
    name: str
    index: int
    uses: str
    action: str
    args: Mapping[str, Any]
    env: Mapping[str, str]
    workspace: str
    image: str = ""
    attempt: int = 1
    checkout: Checkout | None = None
    continue_on_error: bool = False
    fresh_workspace: bool = False
    last_in_job: bool = False
    pipeline_name: str = ""
    branch: str = ""
    commit_sha: str = ""
    tag: str = ""
    event: str = ""
    background: bool = False
