"""What is refused of pipelines, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal


class PipelineError(Refusal):
    """Base of the errors of pipelines."""


class PipelineNotFound(PipelineError):
    """No pipeline of that id (or none the caller may see)."""

    code = "PIPELINE_NOT_FOUND"

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(f"No pipeline with ID '{pipeline_id}' exists")


class PipelineExists(PipelineError):
    """The project has a pipeline of that name."""

    code = "PIPELINE_ALREADY_EXISTS"


class PipelineInvalid(PipelineError):
    """A field of the pipeline cannot be taken."""

    code = "VALIDATION_FAILED"


class SpecMissing(PipelineError):
    """The pipeline has no spec yet."""

    code = "SPEC_NOT_FOUND"


class SpecMoved(PipelineError):
    """Somebody saved another spec meanwhile."""

    code = "SPEC_CONFLICT"


class PipelineDisabled(PipelineError):
    """The pipeline is switched off."""

    code = "PIPELINE_DISABLED"
