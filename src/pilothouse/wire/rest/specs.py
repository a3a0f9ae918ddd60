"""The specs of pipelines (decisions.md, Arcentra): check, save, show."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, GetPydanticSchema
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import core_schema

from pilothouse.wire.bounds import MAX_VARIABLES, MAX_VARIABLES_SIZE
from pilothouse.wire.json_bounds import MAX_VALUES
from pilothouse.wire.rest.base import Answer, Count
from pilothouse.wire.rest.bodies import Body, Ignored, Reference
from pilothouse.wire.rest.errors import SpecProblem
from pilothouse.wire.specs import SAVE_PR, EncodedSpec, SpecFormat

SPEC_TEXT = """jobs:
  - name: build
    steps:
      - name: hello
        uses: shell
        args: {command: echo hello}
"""

_SPEC: dict[str, Any] = {
    "jobs": [
        {
            "name": "build",
            "steps": [
                {"name": "hello", "uses": "shell", "action": "command", "args": {"command": "echo hello"}}
            ],
        }
    ]
}
HEAD = "02ff0a6960f946046f4b7c70b003f2da07d093e4"


SaveMode = Annotated[int, Field(ge=0, le=SAVE_PR)]
"""pipeline.v1.PipelineSaveMode; 0 is 1."""

Format = Annotated[int, Field(ge=0, le=max(SpecFormat))]
"""pipeline.v1.SpecFormat."""

FileName = Annotated[str, Field(max_length=500)]
RequestId = Annotated[str, Field(max_length=256)]

SpecText = Annotated[str, Field(max_length=2 << 20)]
SpecObject = Annotated[dict[str, Any], Field(max_length=MAX_VALUES)]
SpecParsed = Annotated[Any, GetPydanticSchema(lambda *_: core_schema.is_instance_schema(EncodedSpec))]
SpecField = SpecText | SpecObject | SkipJsonSchema[SpecParsed]
"""A spec; that of a large body has been parsed by a worker (``pipelines.http.large_bodies``)."""


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


class ValidateSpec(Body):
    """``spec``: a pipeline.v1.Spec as an object, or its source as text (errors then name line and column)."""

    spec: SpecField
    format: Format = 0
    fileName: FileName = ""
    pipelineId: Ignored = ""

    example: ClassVar[Any] = {"spec": SPEC_TEXT, "fileName": ".pilot.yaml"}


class CheckSpec(ValidateSpec):
    """``variables``, where given: also check that a run with them would have what it needs, as a trigger does."""

    variables: Variables | None = None

    example: ClassVar[Any] = {**ValidateSpec.example, "variables": {"greeting": "hi"}}


class CheckText(CheckSpec):
    """``projectId``: whose secrets count; empty is the default project."""

    projectId: Reference = ""


class SaveSpec(ValidateSpec):
    """``expectedHeadCommitSha``: the save is refused if the current head is another."""

    expectedHeadCommitSha: Annotated[str, Field(max_length=64)] = ""
    saveMode: Annotated[int, Field(ge=0, le=SAVE_PR, description="0: that of the pipeline")] = 0
    commitMessage: str = Field("", max_length=2000)
    requestId: RequestId = ""
    editor: Ignored = ""


class Validation(Answer):
    """A valid spec: its number of jobs, and warnings, as lines (``file:line:column: warning: …``) and as objects."""

    jobsCount: Count
    warnings: list[str]
    warningDetails: list[SpecProblem]

    example: ClassVar[Any] = {"jobsCount": 1, "warnings": [], "warningDetails": []}


class SavedSpec(Answer):
    """The current spec, as an object (pipeline.v1.Spec) and as its source; ``format``: pipeline.v1.SpecFormat."""

    spec: dict[str, Any]
    text: str
    format: Count
    headCommitSha: str
    branch: str
    pipelineFilePath: str

    example: ClassVar[Any] = {
        "spec": _SPEC,
        "text": SPEC_TEXT,
        "format": 2,
        "headCommitSha": HEAD,
        "branch": "main",
        "pipelineFilePath": ".pilot.yaml",
    }


class SpecSaved(Answer):
    """The new head; ``prUrl`` and ``prBranch`` are empty unless ``saveMode`` is 2."""

    commitSha: str
    branch: str
    saveMode: Count
    prUrl: str
    prBranch: str

    example: ClassVar[Any] = {
        "commitSha": HEAD,
        "branch": "main",
        "saveMode": 1,
        "prUrl": "",
        "prBranch": "",
    }
