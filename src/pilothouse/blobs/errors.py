"""What is refused of uploads, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal


class BlobNotFound(Refusal):
    """No uploaded file of that id (or none the caller may read)."""

    code = "BLOB_NOT_FOUND"

    def __init__(self, blob_id: str) -> None:
        super().__init__(f"No blob with ID '{blob_id}' exists")


class BlobInvalid(Refusal):
    """What was uploaded is not what was announced."""

    code = "VALIDATION_FAILED"


class BlobTooLarge(Refusal):
    """An upload over the limit."""

    code = "PAYLOAD_TOO_LARGE"
