"""What the pipeline routes are sent: messages of pipeline.v1 in their JSON form (decisions.md, Arcentra)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from pilothouse.identity.bodies import Body
from pilothouse.pipelines import examples
from pilothouse.pipelines.model import SAVE_DIRECT, SAVE_PR, SpecFormat


def _database(given: str) -> str:
    if given:
        raise ValueError(
            "this release keeps specs in its database only: leave it empty and save the spec here"
        )
    return given


def _direct(mode: int) -> int:
    if mode == SAVE_PR:
        raise ValueError("this release saves specs directly (1), it makes no pull requests (2)")
    return mode


OfGit = Annotated[str, AfterValidator(_database)]
"""Belongs to specs in git repositories, which are still to come: empty."""

SaveMode = Annotated[int, Field(ge=0, le=SAVE_PR), AfterValidator(_direct)]
"""pipeline.v1.PipelineSaveMode."""

Format = Annotated[int, Field(ge=0, le=max(SpecFormat))]
"""pipeline.v1.SpecFormat."""


class CreatePipeline(Body):
    """A pipeline whose spec is kept in the database; ``projectId`` empty is the default project."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "hello", "description": "says hello"}})
    name: str
    projectId: str = ""
    description: str = Field("", max_length=2000)
    repoUrl: OfGit = ""
    defaultBranch: str = Field("", max_length=200)
    pipelineFilePath: str = Field("", max_length=500)
    saveMode: SaveMode = SAVE_DIRECT
    prTargetBranch: OfGit = ""
    metadata: dict[str, str] = Field(default_factory=dict)


class UpdatePipeline(Body):
    """Fields left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"example": {"description": "says hello", "isEnabled": 1}})
    name: str | None = None
    description: str | None = Field(None, max_length=2000)
    repoUrl: OfGit | None = None
    defaultBranch: str | None = Field(None, max_length=200)
    pipelineFilePath: str | None = Field(None, max_length=500)
    saveMode: SaveMode | None = None
    prTargetBranch: OfGit | None = None
    metadata: dict[str, str] | None = None
    isEnabled: int | None = Field(None, ge=0, le=1)


class ValidateSpec(Body):
    """``spec``: a pipeline.v1.Spec as an object, or its source as text (errors then name line and column)."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"spec": examples.SPEC_TEXT, "fileName": ".pilot.yaml"}}
    )
    spec: str | dict[str, Any]
    format: Format = 0
    fileName: str = ""


class SaveSpec(ValidateSpec):
    """``expectedHeadCommitSha``: refuse if somebody saved another spec meanwhile."""

    expectedHeadCommitSha: str = ""
    saveMode: SaveMode = SAVE_DIRECT
    commitMessage: str = Field("", max_length=2000)
    requestId: str = ""


class TriggerPipeline(Body):
    """``spec`` and ``checkout`` (a blob's id), where given, are used for this run alone."""

    model_config = ConfigDict(json_schema_extra={"example": {"variables": {"greeting": "hello"}}})
    variables: dict[str, str] = Field(default_factory=dict)
    requestId: str = ""
    spec: str | dict[str, Any] | None = None
    fileName: str = ""
    checkout: str = ""
    branch: str = Field(default="", max_length=200)
    commitSha: str = Field(default="", max_length=64)


class StopRun(Body):
    """Why the run is stopped; ``force``: at once, without the steps and jobs that clean up."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "wrong branch", "force": False}})
    reason: str = Field("", max_length=500)
    force: bool = False
