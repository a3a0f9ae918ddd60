"""The runs of pipelines: messages of pipeline.v1 in their JSON form (decisions.md, Arcentra)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from pilothouse.wire.bounds import COMMIT, MAX_KEY, MAX_PACKS, MAX_PACKS_EACH, MAX_REPOSITORIES
from pilothouse.wire.rest.base import Answer, Count, Id, Seconds
from pilothouse.wire.rest.bodies import UNUSUAL, Body, Ignored, Word, utf8_size
from pilothouse.wire.rest.pipelines import PipelineId, PipelineStatusNumber
from pilothouse.wire.rest.specs import HEAD, FileName, RequestId, SpecField, Variables

_COMMIT_SHA = "9fceb02d0ae598e95dc970b74767f19372d61af8"

CommitSha = Annotated[Word, Field(max_length=64)]


class CheckoutRepository(Body):
    """One repository of a git work tree (docs/checkout.md): its ``key``, the commit, and what packs hold it."""

    key: str = Field(min_length=1, max_length=MAX_KEY)
    commit: str = Field("", pattern=f"^({COMMIT})?$", max_length=64)
    depth: int = Field(0, ge=0, le=2**31 - 1)
    packs: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=MAX_PACKS_EACH)

    example: ClassVar[Any] = {
        "key": "https://git.example/team/hello",
        "commit": _COMMIT_SHA,
        "depth": 0,
        "packs": ["019a7b1e-6d00-7b00-8a51-0c4b8f1f2a10"],
    }

    @field_validator("key")
    @classmethod
    def _bounded(cls, key: str) -> str:
        if utf8_size(key) > MAX_KEY or UNUSUAL.search(key):
            raise ValueError(
                f"a repository's key is at most {MAX_KEY} bytes of text without control characters"
            )
        return key


class TriggerPipeline(Body):
    """``spec`` and ``checkout`` (a blob's id), where given, are used for this run alone.

    ``repositories``, the top first: the checkout is a git work tree. ``dirty``: it differs from its commit.
    """

    variables: Variables = Field(default_factory=dict)
    requestId: RequestId = ""
    spec: SpecField | None = None
    fileName: FileName = ""
    checkout: Annotated[str, Field(max_length=64)] = ""
    branch: Word = Field(default="", max_length=200)
    commitSha: CommitSha = ""
    tag: Word = Field(default="", max_length=200)
    dirty: bool = False
    repositories: list[CheckoutRepository] = Field(default_factory=list, max_length=MAX_REPOSITORIES)
    pipelineId: Ignored = ""
    triggeredBy: Ignored = ""

    example: ClassVar[Any] = {"variables": {"greeting": "hello"}}

    @model_validator(mode="after")
    def _whole(self) -> TriggerPipeline:
        if sum(len(each.packs) for each in self.repositories) > MAX_PACKS:
            raise ValueError(f"a checkout has at most {MAX_PACKS} packs")
        if self.repositories and not self.checkout:
            raise ValueError("repositories belong to a checkout: name its blob")
        return self


class StopRun(Body):
    """``reason``: why the run is stopped; ``force``: immediately, without cleanup steps and jobs."""

    reason: str = Field("", max_length=500)
    force: bool = False
    pipelineId: Ignored = ""
    runId: Ignored = ""

    example: ClassVar[Any] = {"reason": "wrong branch", "force": False}


class Triggered(Answer):
    """The id of the run that was started."""

    runId: Id

    example: ClassVar[Any] = {"runId": "019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10"}


class PipelineRun(Answer):
    """A run of a pipeline; ``duration`` in milliseconds, so far if it has not ended.

    ``variablesOmitted``: a list does not show the variables, because they are large.
    """

    runId: Id
    pipelineId: Id
    pipelineName: str
    branch: str
    commitSha: str
    definitionCommitSha: str
    definitionPath: str
    status: PipelineStatusNumber
    triggerType: Count
    triggeredBy: str
    variables: dict[str, str]
    variablesOmitted: bool = False
    totalJobs: Count
    completedJobs: Count
    failedJobs: Count
    runningJobs: Count
    startTime: Seconds
    endTime: Seconds
    duration: Count

    example: ClassVar[Any] = {
        **Triggered.example,
        "pipelineId": PipelineId.example["pipelineId"],
        "pipelineName": "hello",
        "branch": "main",
        "commitSha": _COMMIT_SHA,
        "definitionCommitSha": HEAD,
        "definitionPath": ".pilot.yaml",
        "status": 2,
        "triggerType": 1,
        "triggeredBy": "admin",
        "variables": {"greeting": "hello"},
        "totalJobs": 1,
        "completedJobs": 0,
        "failedJobs": 0,
        "runningJobs": 1,
        "startTime": 1768055025,
        "endTime": 0,
        "duration": 1234,
    }


class RunState(Answer):
    """A run's status after it was stopped, paused or resumed."""

    runId: Id
    status: PipelineStatusNumber

    example: ClassVar[Any] = {**Triggered.example, "status": 2}
