"""Refusals of pipelines, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal


class PipelineError(Refusal):
    """Base of the errors of pipelines."""


class PipelineNotFound(PipelineError):
    """No pipeline with this id exists, or the caller may not see it."""

    code = "PIPELINE_NOT_FOUND"

    def __init__(self, pipeline_id: str) -> None:
        super().__init__(f"No pipeline with ID '{pipeline_id}' exists")


class TriggerNotFound(PipelineError):
    """No trigger with this id exists, or the caller may not see it."""

    code = "TRIGGER_NOT_FOUND"

    def __init__(self, trigger_id: str) -> None:
        super().__init__(f"No trigger with ID '{trigger_id}' exists")


class RequestReused(PipelineError):
    """The request id belongs to another request."""

    code = "IDEMPOTENCY_KEY_REUSED"


class PipelineExists(PipelineError):
    """The project has a pipeline with this name already."""

    code = "PIPELINE_ALREADY_EXISTS"


class PipelineInvalid(PipelineError):
    """A field of the pipeline has an invalid value."""

    code = "VALIDATION_FAILED"


class SpecMissing(PipelineError):
    """The pipeline has no spec yet."""

    code = "SPEC_NOT_FOUND"


class SpecMoved(PipelineError):
    """Another spec was saved in the meantime."""

    code = "SPEC_CONFLICT"


class PipelineDisabled(PipelineError):
    """The pipeline is disabled."""

    code = "PIPELINE_DISABLED"


class RepositoryInvalid(PipelineError):
    """The address, branch or path of a pipeline's repository is not allowed."""

    code = "VALIDATION_FAILED"


class RepositoryUnavailable(PipelineError):
    """A git repository could not be read or written; the message says why, without credentials."""

    code = "REPOSITORY_UNAVAILABLE"


class BranchMoved(PipelineError):
    """The branch has another head than the caller expected."""

    code = "SPEC_CONFLICT"
