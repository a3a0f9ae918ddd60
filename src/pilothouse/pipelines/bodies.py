"""Request bodies of the pipeline routes: messages of pipeline.v1 in their JSON form (decisions.md, Arcentra)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from pilothouse.edge.bodies import Body
from pilothouse.engine.checkouts import (
    COMMIT,
    MAX_KEY,
    MAX_PACKS,
    MAX_PACKS_EACH,
    MAX_REPOSITORIES,
    RepositoryCommit,
)
from pilothouse.pipelines.model import SAVE_DIRECT, SAVE_PR, SpecFormat
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


OfGit = Annotated[str, AfterValidator(_database)]
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


class CreatePipeline(Body):
    """A pipeline whose spec is kept in the database; ``projectId`` empty is the default project."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "hello", "description": "says hello"}})
    name: str
    projectId: str = ""
    description: str = Field("", max_length=2000)
    repoUrl: OfGit = ""
    defaultBranch: Word = Field("", max_length=200)
    pipelineFilePath: str = Field("", max_length=500)
    saveMode: SaveMode = SAVE_DIRECT
    prTargetBranch: OfGit = ""
    metadata: dict[str, str] = Field(default_factory=dict)
    repository: RepositoryKey = ""


class UpdatePipeline(Body):
    """Fields that are left out keep their values."""

    model_config = ConfigDict(json_schema_extra={"example": {"description": "says hello", "isEnabled": 1}})
    name: str | None = None
    description: str | None = Field(None, max_length=2000)
    repoUrl: OfGit | None = None
    defaultBranch: Word | None = Field(None, max_length=200)
    pipelineFilePath: str | None = Field(None, max_length=500)
    saveMode: SaveMode | None = None
    prTargetBranch: OfGit | None = None
    metadata: dict[str, str] | None = None
    isEnabled: int | None = Field(None, ge=0, le=1)
    repository: RepositoryKey | None = None


class ValidateSpec(Body):
    """``spec``: a pipeline.v1.Spec as an object, or its source as text (errors then name line and column)."""

    model_config = ConfigDict(json_schema_extra={"example": {"spec": SPEC_TEXT, "fileName": ".pilot.yaml"}})
    spec: str | dict[str, Any]
    format: Format = 0
    fileName: str = ""


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
    variables: dict[str, str] | None = None


class CheckText(CheckSpec):
    """``projectId``: whose secrets count; empty is the default project."""

    projectId: str = ""


class SaveSpec(ValidateSpec):
    """``expectedHeadCommitSha``: the save is refused if the current head is another."""

    expectedHeadCommitSha: str = ""
    saveMode: SaveMode = SAVE_DIRECT
    commitMessage: str = Field("", max_length=2000)
    requestId: str = ""


class CheckoutRepository(Body):
    """One repository of a git work tree (docs/checkout.md): its ``key``, the commit, and what packs hold it."""

    key: str = Field(min_length=1, max_length=MAX_KEY)
    commit: str = Field("", pattern=f"^({COMMIT})?$")
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
    variables: dict[str, str] = Field(default_factory=dict)
    requestId: str = ""
    spec: str | dict[str, Any] | None = None
    fileName: str = ""
    checkout: str = ""
    branch: Word = Field(default="", max_length=200)
    commitSha: Word = Field(default="", max_length=64)
    tag: Word = Field(default="", max_length=200)
    dirty: bool = False
    repositories: list[CheckoutRepository] = Field(default_factory=list, max_length=MAX_REPOSITORIES)

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
