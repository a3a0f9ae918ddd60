"""Errors of uploads and downloads, each with a stable code."""

from __future__ import annotations

from pilothouse.access.errors import Refusal


class BlobNotFound(Refusal):
    """There is no blob with this id, or the caller may not read it."""

    code = "BLOB_NOT_FOUND"

    def __init__(self, blob_id: str) -> None:
        super().__init__(f"No blob with ID '{blob_id}' exists")


class BlobInvalid(Refusal):
    """The upload does not match its checksum."""

    code = "VALIDATION_FAILED"


class BlobTooLarge(Refusal):
    """The upload exceeds the size limit."""

    code = "PAYLOAD_TOO_LARGE"
