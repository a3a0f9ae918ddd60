"""The base of all answers, and types that several of them share.

A route names the model of its answer (:func:`pilothouse.edge.openapi.answer`); its schema and example are in
``/openapi.json``. Answers are not validated when they are sent: the tests do that, for every answer they receive.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
"""A UUID, version 7 unless a client made it."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC with ``Z``."""

Count = Annotated[int, Field(ge=0)]

Seconds = Annotated[int, Field(ge=0)]
"""Unix time in seconds; 0: not yet."""


class Answer(BaseModel):
    """A JSON object that the server sends. Clients ignore keys and enum values that they do not know.

    ``example``: a complete example, valid under the schema.
    """

    model_config = ConfigDict(defer_build=True)

    example: ClassVar[Any] = None


class Pagination(Answer):
    """Which page of a list this is (StreamSpace page, "Pagination")."""

    page: Annotated[int, Field(ge=1)]
    limit: Annotated[int, Field(ge=1, le=100)]
    total: Count
    total_pages: Count

    example: ClassVar[Any] = {"page": 1, "limit": 20, "total": 1, "total_pages": 1}


class Done(Answer):
    """A confirmation for people."""

    message: str

    example: ClassVar[Any] = {"message": "Password changed"}
