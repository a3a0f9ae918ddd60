"""Errors of artifacts, each with a stable code."""

from __future__ import annotations

from pilothouse.engine.errors import EngineError


class ArtifactNotFound(EngineError):
    """There is no artifact with this id or name, or the caller may not see it."""

    code = "ARTIFACT_NOT_FOUND"

    def __init__(self, artifact: str) -> None:
        super().__init__(f"No artifact '{artifact}' exists")


class ArtifactExists(EngineError):
    """Another step of the run has an artifact with this name."""

    code = "ARTIFACT_ALREADY_EXISTS"

    def __init__(self, name: str, step: str) -> None:
        super().__init__(
            f"this run has an artifact {name!r} already, of step {step}: choose another name, or set overwrite"
        )


class ArtifactInvalid(EngineError):
    """What was announced or sent of an artifact is not acceptable."""

    code = "VALIDATION_FAILED"


class ArtifactTooLarge(EngineError):
    """The artifact is larger than this server allows."""

    code = "PAYLOAD_TOO_LARGE"


class UploadOffset(EngineError):
    """The part does not begin where the server's copy ends; ``details.offset`` says where that is."""

    code = "UPLOAD_OFFSET_CONFLICT"

    def __init__(self, offset: int) -> None:
        super().__init__(f"the next part begins at byte {offset}", details={"offset": offset})


class StepRunNotFound(EngineError):
    """There is no step run with this id that the caller sees, or the agent does not run it."""

    code = "STEP_RUN_NOT_FOUND"

    def __init__(self, step_run_id: str) -> None:
        super().__init__(f"No step run with ID '{step_run_id}' exists")
