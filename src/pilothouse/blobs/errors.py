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


class UploadNotFound(Refusal):
    """There is no upload with this id, or the caller may not see it."""

    code = "UPLOAD_NOT_FOUND"

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No upload with ID '{upload_id}' exists")


class UploadInvalid(Refusal):
    """What was announced or sent of an upload is not acceptable."""

    code = "VALIDATION_FAILED"


class UploadIncomplete(Refusal):
    """The upload is not complete, so that it has no content yet."""

    code = "UPLOAD_INCOMPLETE"

    def __init__(self, received: int, size: int) -> None:
        super().__init__(f"{received} of {size} bytes have arrived", details={"offset": received})


class WrongOffset(Refusal):
    """The part does not begin where the server's copy ends; ``details.offset`` says where that is."""

    code = "UPLOAD_OFFSET_CONFLICT"

    def __init__(self, offset: int) -> None:
        super().__init__(f"the next part begins at byte {offset}", details={"offset": offset})
