"""Pipelines: messages of pipeline.v1 in their JSON form (decisions.md, Arcentra)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pilothouse.wire.rest.base import Answer, Count, Id, Seconds
from pilothouse.wire.rest.bodies import Body, Ignored, Reference, Texts, Word
from pilothouse.wire.rest.specs import HEAD, FileName, SaveMode
from pilothouse.wire.specs import SAVE_DIRECT

PipelineStatusNumber = Annotated[int, Field(ge=0, le=6)]
"""pipeline.v1.PipelineStatus."""


RepositoryUrl = Annotated[str, Field(max_length=1000)]
"""The address of a git repository, https or ssh, without credentials; empty: the spec is in the database."""

SecretName = Annotated[str, Field(max_length=128)]
"""The name of a secret of the project: a token (or ``user:token``) for https, a private key for ssh."""

RepositoryKey = Annotated[Word, Field(max_length=1000)]
"""The key of the repository that the pipeline belongs to (docs/checkout.md); empty: of none."""

PipelineName = Annotated[str, Field(max_length=256)]
"""The name of a pipeline; the use case checks its characters."""


class CreatePipeline(Body):
    """``repoUrl``: the git repository with the spec; empty: that is kept in the database. ``projectId`` empty is the
    default project."""

    name: PipelineName
    projectId: Reference = ""
    description: str = Field("", max_length=2000)
    repoUrl: RepositoryUrl = ""
    repoSecret: SecretName = ""
    defaultBranch: Word = Field("", max_length=200)
    pipelineFilePath: FileName = ""
    saveMode: SaveMode = SAVE_DIRECT
    prTargetBranch: Word = Field("", max_length=200)
    metadata: Texts = Field(default_factory=dict)
    repository: RepositoryKey = ""
    createdBy: Ignored = ""

    example: ClassVar[Any] = {"name": "hello", "description": "says hello"}


class UpdatePipeline(Body):
    """Fields that are left out keep their values."""

    name: PipelineName | None = None
    description: str | None = Field(None, max_length=2000)
    repoUrl: RepositoryUrl | None = None
    repoSecret: SecretName | None = None
    defaultBranch: Word | None = Field(None, max_length=200)
    pipelineFilePath: FileName | None = None
    saveMode: SaveMode | None = None
    prTargetBranch: Word | None = Field(None, max_length=200)
    metadata: Texts | None = None
    isEnabled: int | None = Field(None, ge=0, le=1)
    repository: RepositoryKey | None = None
    pipelineId: Ignored = ""

    example: ClassVar[Any] = {"description": "says hello", "isEnabled": 1}


class PipelineId(Answer):
    """The id of a pipeline that was created or deleted."""

    pipelineId: Id

    example: ClassVar[Any] = {"pipelineId": "019a7b1e-6a00-7d10-8a51-0c4b8f1f2a10"}


class Pipeline(Answer):
    """A pipeline with the counts of its runs; ``status``: that of its newest run; ``lastCommitSha`` empty: no spec
    was saved yet. ``metadataOmitted``: a list does not show the metadata, because it is large."""

    pipelineId: Id
    projectId: Id
    name: str
    description: str
    repoUrl: str
    repoSecret: str
    defaultBranch: str
    pipelineFilePath: str
    status: PipelineStatusNumber
    saveMode: Count
    prTargetBranch: str
    metadata: dict[str, str]
    metadataOmitted: bool = False
    repository: str
    lastSyncMessage: str
    lastSyncedAt: Seconds
    lastEditor: str
    lastCommitSha: str
    totalRuns: Count
    successRuns: Count
    failedRuns: Count
    createdBy: str
    isEnabled: Annotated[int, Field(ge=0, le=1)]
    createdAt: Seconds
    updatedAt: Seconds

    example: ClassVar[Any] = {
        **PipelineId.example,
        "projectId": "019a7b1e-0000-7000-8000-000000000001",
        "name": "hello",
        "description": "says hello",
        "repoUrl": "",
        "repoSecret": "",
        "defaultBranch": "main",
        "pipelineFilePath": ".pilot.yaml",
        "status": 2,
        "saveMode": 1,
        "prTargetBranch": "",
        "metadata": {},
        "repository": "https://git.example/team/hello",
        "lastSyncMessage": "",
        "lastSyncedAt": 0,
        "lastEditor": "admin",
        "lastCommitSha": HEAD,
        "totalRuns": 3,
        "successRuns": 2,
        "failedRuns": 0,
        "createdBy": "admin",
        "isEnabled": 1,
        "createdAt": 1768054000,
        "updatedAt": 1768054000,
    }
