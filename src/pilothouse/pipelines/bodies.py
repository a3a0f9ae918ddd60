"""Request bodies of the pipeline routes: messages of pipeline.v1 in their JSON form (decisions.md, Arcentra)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import core_schema

from pilothouse.edge.bodies import Body, Ignored, Reference, Texts
from pilothouse.engine.checkouts import (
    COMMIT,
    MAX_KEY,
    MAX_PACKS,
    MAX_PACKS_EACH,
    MAX_REPOSITORIES,
    RepositoryCommit,
)
from pilothouse.pipelines.compiled import EncodedSpec
from pilothouse.pipelines.model import (
    MAX_VARIABLES,
    MAX_VARIABLES_SIZE,
    SAVE_DIRECT,
    SAVE_PR,
    SpecFormat,
)
from pilothouse.wire.json_bounds import MAX_VALUES
from pilothouse.wire.rest.pipelines import SPEC_TEXT


def _database(given: str) -> str:
    if given:
        raise ValueError(
            "this release stores specs in its database only: leave it empty and save the spec here"
        )
    return given


def _direct(mode: int) -> int:
    if mode == SAVE_PR:
        raise ValueError("this release saves specs directly (1); pull requests (2) are not implemented")
    return mode


OfGit = Annotated[str, Field(max_length=2000), AfterValidator(_database)]
"""A field of specs in git repositories, which are not implemented yet: must be empty."""

SaveMode = Annotated[int, Field(ge=0, le=SAVE_PR), AfterValidator(_direct)]
"""pipeline.v1.PipelineSaveMode."""

Format = Annotated[int, Field(ge=0, le=max(SpecFormat))]
"""pipeline.v1.SpecFormat."""


_UNUSUAL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def _plain(word: str) -> str:
    if _UNUSUAL.search(word):
        raise ValueError("it has control characters")
    return word


Word = Annotated[str, AfterValidator(_plain)]
"""A text without control characters: it becomes an environment variable of steps."""


RepositoryKey = Annotated[Word, Field(max_length=1000)]
"""The key of the repository that the pipeline belongs to (docs/checkout.md); empty: of none."""


Name = Annotated[str, Field(max_length=256)]
"""The name of a pipeline; the use case checks its characters."""

FileName = Annotated[str, Field(max_length=500)]
RequestId = Annotated[str, Field(max_length=256)]
CommitSha = Annotated[Word, Field(max_length=64)]

SpecText = Annotated[str, Field(max_length=2 << 20)]
SpecObject = Annotated[dict[str, Any], Field(max_length=MAX_VALUES)]
SpecParsed = Annotated[Any, GetPydanticSchema(lambda *_: core_schema.is_instance_schema(EncodedSpec))]
SpecField = SpecText | SpecObject | SkipJsonSchema[SpecParsed]
"""A spec; that of a large body has been parsed by a worker (:mod:`pilothouse.pipelines.http.large_bodies`)."""


def _few_variables(given: Any) -> Any:
    if isinstance(given, dict) and len(given) > MAX_VARIABLES:
        raise ValueError(f"a run takes at most {MAX_VARIABLES} variables")
    return given


Variables = Annotated[
    dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=MAX_VARIABLES_SIZE)]],
    Field(max_length=MAX_VARIABLES),
    BeforeValidator(_few_variables),
]
"""The variables of a run; the use case checks their total size."""


class CreatePipeline(Body):
    """A pipeline whose spec is kept in the database; ``projectId`` empty is the default project."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "hello", "description": "says hello"}})
    name: Name
    projectId: Reference = ""
    description: str = Field("", max_length=2000)
    repoUrl: OfGit = ""
    defaultBranch: Word = Field("", max_length=200)
    pipelineFilePath: FileName = ""
    saveMode: SaveMode = SAVE_DIRECT
    prTargetBranch: OfGit = ""
    metadata: Texts = Field(default_factory=dict)
    repository: RepositoryKey = ""
    createdBy: Ignored = ""


class UpdatePipeline(Body):
    """Fields that are left out keep their values."""

    model_config = ConfigDict(json_schema_extra={"example": {"description": "says hello", "isEnabled": 1}})
    name: Name | None = None
    description: str | None = Field(None, max_length=2000)
    repoUrl: OfGit | None = None
    defaultBranch: Word | None = Field(None, max_length=200)
    pipelineFilePath: FileName | None = None
    saveMode: SaveMode | None = None
    prTargetBranch: OfGit | None = None
    metadata: Texts | None = None
    isEnabled: int | None = Field(None, ge=0, le=1)
    repository: RepositoryKey | None = None
    pipelineId: Ignored = ""


class ValidateSpec(Body):
    """``spec``: a pipeline.v1.Spec as an object, or its source as text (errors then name line and column)."""

    model_config = ConfigDict(json_schema_extra={"example": {"spec": SPEC_TEXT, "fileName": ".pilot.yaml"}})
    spec: SpecField
    format: Format = 0
    fileName: FileName = ""
    pipelineId: Ignored = ""


class CheckSpec(ValidateSpec):
    """``variables``, where given: also check that a run with them would have what it needs, as a trigger does."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "spec": SPEC_TEXT,
                "fileName": ".pilot.yaml",
                "variables": {"greeting": "hi"},
            }
        }
    )
    variables: Variables | None = None


class CheckText(CheckSpec):
    """``projectId``: whose secrets count; empty is the default project."""

    projectId: Reference = ""


class SaveSpec(ValidateSpec):
    """``expectedHeadCommitSha``: the save is refused if the current head is another."""

    expectedHeadCommitSha: Annotated[str, Field(max_length=64)] = ""
    saveMode: SaveMode = SAVE_DIRECT
    commitMessage: str = Field("", max_length=2000)
    requestId: RequestId = ""
    editor: Ignored = ""


class CheckoutRepository(Body):
    """One repository of a git work tree (docs/checkout.md): its ``key``, the commit, and what packs hold it."""

    key: str = Field(min_length=1, max_length=MAX_KEY)
    commit: str = Field("", pattern=f"^({COMMIT})?$", max_length=64)
    depth: int = Field(0, ge=0, le=2**31 - 1)
    packs: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=MAX_PACKS_EACH)

    @field_validator("key")
    @classmethod
    def _bounded(cls, key: str) -> str:
        if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY or _UNUSUAL.search(key):
            raise ValueError(
                f"a repository's key is at most {MAX_KEY} bytes of text without control characters"
            )
        return key

    def commit_of(self) -> RepositoryCommit:
        """As a parameter of the engine."""
        return RepositoryCommit(self.key, self.commit, self.depth, tuple(dict.fromkeys(self.packs)))


class TriggerPipeline(Body):
    """``spec`` and ``checkout`` (a blob's id), where given, are used for this run alone.

    ``repositories``, the top first: the checkout is a git work tree. ``dirty``: it differs from its commit.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"variables": {"greeting": "hello"}}})
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

    @model_validator(mode="after")
    def _whole(self) -> TriggerPipeline:
        if sum(len(each.packs) for each in self.repositories) > MAX_PACKS:
            raise ValueError(f"a checkout has at most {MAX_PACKS} packs")
        if self.repositories and not self.checkout:
            raise ValueError("repositories belong to a checkout: name its blob")
        return self


class StopRun(Body):
    """``reason``: why the run is stopped; ``force``: immediately, without cleanup steps and jobs."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "wrong branch", "force": False}})
    reason: str = Field("", max_length=500)
    force: bool = False
    pipelineId: Ignored = ""
    runId: Ignored = ""
